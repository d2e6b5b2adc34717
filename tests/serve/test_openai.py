"""OpenAI's own client against the server: the same answers as offline, streams, several at once, scores, schemas."""

import base64
import io
import json
import urllib.error
import urllib.request

import openai
import pytest

from generate import tiny
from serve import server
from vlmlab.batch import Sample
from vlmlab.generate.answers import Settings
from vlmlab.processor.processor import Options


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def offline():
    return server.engine()


def ask(text, *pictures):
    parts = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def data_url(picture):
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def sample(text, *pictures):
    parts = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": text}]
    return Sample.from_messages([{"role": "user", "content": parts}], images=pictures)


PICTURES = [tiny.picture(20, 30, 1), tiny.picture(35, 15, 2)]


@pytest.mark.parametrize("pictures", [[], PICTURES[:1], [*PICTURES, PICTURES[0]]])
def test_an_answer_is_that_of_the_engine(client, offline, pictures):
    [expected] = offline.answers([sample("What is it?", *pictures)], 12)
    answer = client.chat.completions.create(
        model=server.NAME, messages=ask("What is it?", *pictures), temperature=0, max_tokens=12
    )
    [choice] = answer.choices
    assert choice.message.content == expected.text.lstrip() and choice.message.role == "assistant"
    assert choice.finish_reason == "length" and choice.logprobs is None
    assert answer.usage.prompt_tokens == expected.cost.prompt_tokens
    assert answer.usage.completion_tokens == 12 == answer.usage.total_tokens - answer.usage.prompt_tokens
    assert answer.usage.prompt_tokens_details.visual_tokens == expected.cost.visual_tokens
    assert not hasattr(choice, "cost")


def test_a_stream_says_the_same_in_pieces(client, offline):
    chunks = list(
        client.chat.completions.create(
            model=server.NAME, messages=ask("hello", *PICTURES), temperature=0, max_tokens=12, stream=True
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == offline.generate([sample("hello", *PICTURES)], 12)[0].lstrip()
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len(chunks) > 8 and len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_usage_where_asked(client):
    *chunks, last = client.chat.completions.create(
        model=server.NAME,
        messages=ask("hello"),
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"report_cost": True},
    )
    assert last.choices == [] and last.usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].cost["written_tokens"] == 5


def test_several_answers_have_seeds_of_their_own(client):
    def texts(**more):
        answer = client.chat.completions.create(
            model=server.NAME, messages=ask("hello"), n=3, max_tokens=12, seed=4, **more
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = texts()
    assert len(set(first)) == 3 and texts() == first
    assert len(set(texts(temperature=0))) == 1
    streamed = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(
        model=server.NAME, messages=ask("hello"), n=3, max_tokens=12, seed=4, stream=True
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(streamed.values()) == first


def test_draws_differ_where_no_seed_is_said(client):
    def text():
        answer = client.chat.completions.create(model=server.NAME, messages=ask("hello"), max_tokens=12)
        return answer.choices[0].message.content

    assert text() != text()


def test_a_stop_string_ends_the_answer(client, offline):
    text = offline.generate([sample("hello")], 20)[0].lstrip()
    stop = text[5:7]
    answer = client.chat.completions.create(
        model=server.NAME, messages=ask("hello"), temperature=0, max_tokens=20, stop=["never", stop]
    )
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_log_probabilities_are_the_engines(client, offline):
    with offline:
        expected = offline.submit(sample("hello"), Settings(6, logprobs=3)).result()
    more = {"temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 3}
    answer = client.chat.completions.create(model=server.NAME, messages=ask("hello"), **more)
    content = answer.choices[0].logprobs.content
    assert [one.logprob for one in content] == pytest.approx([one.logprob for one in expected.scored], abs=1e-4)
    assert "".join(one.token for one in content).lstrip() == expected.text.lstrip()
    assert all(len(one.top_logprobs) == 3 and bytes(one.bytes).decode() == one.token for one in content)
    streamed = client.chat.completions.create(model=server.NAME, messages=ask("hello"), stream=True, **more)
    pieces = [one for chunk in streamed if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert [one.token for one in pieces] == [one.token for one in content]


def test_pictures_are_read_as_a_request_says(client, offline):
    def ask_for(**extra):
        return client.chat.completions.create(
            model=server.NAME, messages=ask("hello", *PICTURES), temperature=0, max_tokens=8, extra_body=extra
        )

    for extra, options in [
        ({"splitting": True}, Options(split=True)),
        ({"longest_edge": 12}, Options(longest=12)),
        ({"max_visual_tokens": 6, "splitting": True}, Options(split=True, max_visual_tokens=6)),
    ]:
        [expected] = offline.answers([sample("hello", *PICTURES)], 8, options=options)
        answer = ask_for(report_cost=True, **extra)
        assert answer.choices[0].message.content == expected.text.lstrip()
        assert answer.choices[0].cost["visual_tokens"] == expected.cost.visual_tokens
    again = ask_for(report_cost=True, splitting=True).choices[0].cost
    assert again["image_hits"] == again["images"] == 10 and again["pictures_seconds"] > 0


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_answer_follows_a_json_schema(client, temperature):
    answer = client.chat.completions.create(
        model=server.NAME,
        messages=ask("What is it?", *PICTURES),
        n=2,
        temperature=temperature,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA, "strict": True}},
    )
    for choice in answer.choices:
        told = json.loads(choice.message.content)
        assert told["kind"] in ("cat", "dog") and 0 <= told["count"] <= 99
        assert choice.finish_reason == "stop"


def test_json_object_begins_as_one(client):
    answer = client.chat.completions.create(
        model=server.NAME, messages=ask("x"), max_tokens=3, response_format={"type": "json_object"}
    )
    assert answer.choices[0].message.content.startswith("{")


def test_completions_go_on_from_text_with_pictures(client, offline):
    prompt = f"a![]({data_url(PICTURES[0])})bc"
    [expected] = offline.answers([Sample.from_text("a<image>bc", PICTURES[:1])], 9)
    answer = client.completions.create(
        model=server.NAME, prompt=["hello", prompt], temperature=0, max_tokens=9, echo=True, logprobs=2
    )
    first, second = answer.choices
    assert first.text == "hello" + offline.generate([Sample.from_text("hello")], 9)[0]
    assert second.text == prompt + expected.text and second.index == 1
    assert "".join(second.logprobs.tokens) == expected.text
    assert second.logprobs.text_offset[0] == len(prompt)
    assert all(token in best for token, best in zip(second.logprobs.tokens, second.logprobs.top_logprobs, strict=True))
    pieces = client.completions.create(model=server.NAME, prompt="hello", temperature=0, max_tokens=9, stream=True)
    assert "hello" + "".join(piece.choices[0].text for piece in pieces) == first.text


def test_an_answer_whose_length_nobody_said_has_what_fits(client, offline):
    """512 tokens in all: a prompt leaves fewer than the server's own limit."""
    answer = client.chat.completions.create(model=server.NAME, messages=ask("x" * 450), temperature=0)
    [expected] = offline.answers([sample("x" * 450)], 512 - answer.usage.prompt_tokens)
    assert 0 < 512 - answer.usage.prompt_tokens < 512
    assert answer.choices[0].message.content == expected.text.lstrip()
    with pytest.raises(openai.BadRequestError, match=r"a prompt of .* would"):
        client.chat.completions.create(model=server.NAME, messages=ask("x" * 600))


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [server.NAME, "tgi"]
    assert client.models.retrieve(server.NAME).owned_by == "vlmlab"
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.models.retrieve("gpt-4")


def test_a_conversation_with_all_roles(client, offline):
    turns = [("system", "Be kind."), ("user", "hi"), ("assistant", "Hello."), ("user", "and now?")]
    [expected] = offline.generate([Sample.from_messages([{"role": r, "content": c} for r, c in turns])], 8)
    messages = [{"role": "developer" if role == "system" else role, "content": text} for role, text in turns]
    answer = client.chat.completions.create(model=server.NAME, messages=messages, temperature=0, max_tokens=8)
    assert answer.choices[0].message.content == expected.lstrip()


BAD = [
    ({"model": "gpt-4"}, openai.NotFoundError, "gpt-4.*not served here.*tiny"),
    ({"messages": []}, openai.BadRequestError, "messages: .*at least 1"),
    ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, r"messages\.0\.role"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, openai.BadRequestError, "input_audio"),
    ({"temperature": 3}, openai.BadRequestError, "temperature: .*less than or equal to 2"),
    ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
    ({"max_tokens": 100_000}, openai.BadRequestError, "512 tokens that this engine has.*would"),
    ({"stop": ["a"] * 5}, openai.BadRequestError, "stop"),
    ({"stop": ""}, openai.BadRequestError, "stop"),
    ({"n": 0}, openai.BadRequestError, "n: "),
    ({"top_logprobs": 2}, openai.BadRequestError, "logprobs: true"),
    ({"frequency_penalty": 0.5}, openai.BadRequestError, "repetition_penalty"),
    ({"logit_bias": {"5": 1.0}}, openai.BadRequestError, "bias"),
    ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools"),
    ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream: true"),
    ({"extra_body": {"spliting": True}}, openai.BadRequestError, "no field 'spliting'"),
    ({"extra_body": {"longest_edge": 0}}, openai.BadRequestError, "longest_edge"),
    ({"extra_body": {"max_visual_tokens": 1}, "messages": ask("x", *PICTURES)}, openai.BadRequestError, "visual"),
    ({"response_format": {"type": "json_schema"}}, openai.BadRequestError, "json_schema is missing"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objec"}}}},
        openai.BadRequestError,
        "JSON schema cannot be followed.*objec",
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("changes", "kind", "says"), BAD)
def test_what_cannot_be_answered_says_why(client, changes, kind, says, stream):
    stream = stream and "stream_options" not in changes
    with pytest.raises(kind, match=says) as raised:
        client.chat.completions.create(
            **({"model": server.NAME, "messages": ask("x"), "max_tokens": 4, "stream": stream} | changes)
        )
    assert set(raised.value.body) == {"message", "type", "param", "code"}


def test_a_picture_that_is_refused_is_numbered(client):
    for url, says in [
        ("http://example.org/a.png", "picture 2: pictures are not fetched from URLs here"),
        ("file:///etc/passwd", "picture 2: only data URLs"),
        ("/etc/passwd", "picture 2: only data URLs"),
        ("data:image/png;base64,AAAA", "picture 2: what the data URL holds is not a picture"),
    ]:
        messages = ask("x", PICTURES[0])
        messages[0]["content"].append({"type": "image_url", "image_url": {"url": url}})
        with pytest.raises(openai.BadRequestError, match=says):
            client.chat.completions.create(model=server.NAME, messages=messages, max_tokens=4)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_half_a_character_is_refused(served, path):
    """JSON can say it; the client does not."""
    text = {"messages": ask("a\ud800")} if path.startswith("chat") else {"prompt": "a\ud800"}
    body = json.dumps({"model": server.NAME, "max_tokens": 4} | text).encode()
    request = urllib.request.Request(f"{served.url}/v1/{path}", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=60)
    assert raised.value.code == 400
    assert "half a character, '\\ud800'" in json.load(raised.value)["error"]["message"]
