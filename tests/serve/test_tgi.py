"""text-generation-inference's own client against the server, with the call of the model card."""

import itertools
import json
import urllib.error
import urllib.request

import pytest
import text_generation
from text_generation.errors import ValidationError

from serve import server
from serve.test_openai import PICTURES, data_url
from vlmlab.generate.answers import Settings
from vlmlab.generate.decoding import greedy, sample
from vlmlab.processor.chat import from_markdown
from vlmlab.processor.processor import Options

# The text of the model card's snippet, a picture's URL apart.
SYSTEM_PROMPT = (
    "System: The following is a conversation between Idefics2 and a human user called User.<end_of_utterance>\n"
    "Assistant: Hello, I'm Idefics2. How can I help you?<end_of_utterance>\n"
)
QUERY = f"User:![]({data_url(PICTURES[0])})Describe this image.<end_of_utterance>\nAssistant:"


@pytest.fixture(scope="module")
def client(served):
    return text_generation.Client(
        base_url=served.url, headers={"x-use-cache": "0", "Authorization": "Bearer token"}, timeout=60
    )


@pytest.fixture(scope="module")
def offline():
    with server.engine() as made:
        yield made


def local(prompt):
    """The prompt with its pictures where the processor itself opens them."""
    return from_markdown(prompt)


def test_the_cards_call_is_answered_as_offline(client, offline):
    generation_args = {"max_new_tokens": 32, "repetition_penalty": 1.1, "do_sample": False}
    answer = client.generate(prompt=SYSTEM_PROMPT + QUERY, **generation_args)
    settings = Settings(32, greedy.Config(repetition_penalty=1.1), logprobs=0)
    expected = offline.submit(local(SYSTEM_PROMPT + QUERY), settings).result()
    assert answer.generated_text == expected.text
    assert answer.details.generated_tokens == 32 and answer.details.finish_reason == "length"
    assert [token.id for token in answer.details.tokens] == expected.tokens
    assert [token.logprob for token in answer.details.tokens] == pytest.approx(
        [one.logprob for one in expected.scored], abs=1e-4
    )
    assert "".join(token.text for token in answer.details.tokens if not token.special) == expected.text
    assert answer.details.prefill == [] and answer.details.seed is None


def test_a_stream_has_an_event_for_each_token(client):
    prompt = SYSTEM_PROMPT + QUERY
    whole = client.generate(prompt, max_new_tokens=12)
    *events, last = client.generate_stream(prompt, max_new_tokens=12)
    assert "".join(event.token.text for event in [*events, last] if not event.token.special) == whole.generated_text
    assert [event.token.id for event in [*events, last]] == [token.id for token in whole.details.tokens]
    assert last.generated_text == whole.generated_text and last.details.finish_reason == "length"
    assert all(event.generated_text is None and event.details is None for event in events)


def test_text_held_back_comes_with_a_later_token(client):
    """What might become a stop string is not said before that is known, and then once."""
    whole = client.generate("hello", max_new_tokens=12).generated_text
    stop = whole[4:6] + "~never~"
    events = list(client.generate_stream("hello", max_new_tokens=12, stop_sequences=[stop]))
    assert "".join(event.token.text for event in events) == whole == events[-1].generated_text
    ended = list(client.generate_stream("hello", max_new_tokens=12, stop_sequences=[whole[4:6]]))
    assert ended[-1].generated_text == whole[: whole.index(whole[4:6])] and ended[-1].details.finish_reason
    assert ended[-1].details.finish_reason == "stop_sequence"


def test_an_end_token_is_special(client, served):
    ends, free = served.service.engine.ends, client.generate("hello", max_new_tokens=8)
    end = free.details.tokens[3].id
    first = [token.id for token in free.details.tokens].index(end)
    served.service.engine.ends = frozenset([end])
    try:
        answer = client.generate("hello", max_new_tokens=8)
        events = list(client.generate_stream("hello", max_new_tokens=8))
    finally:
        served.service.engine.ends = ends
    assert answer.details.finish_reason == "eos_token" and answer.details.generated_tokens == first + 1
    for token in (answer.details.tokens[-1], events[-1].token):
        assert token.special and token.id == end
    assert len(events) == first + 1


def test_drawing_follows_the_parameters(client, offline):
    way = {"temperature": 0.7, "top_k": 20, "top_p": 0.9}
    answer = client.generate("hello", do_sample=True, seed=5, max_new_tokens=10, **way)
    expected = offline.submit(local("hello"), Settings(10, sample.Config(**way), seed=5)).result()
    assert answer.generated_text == expected.text and answer.details.seed == 5
    assert client.generate("hello", temperature=2.0, seed=6, max_new_tokens=10).details.seed == 6


def test_what_else_the_client_may_ask_for(client):
    full = client.generate("hello", max_new_tokens=3, return_full_text=True, top_n_tokens=2)
    assert full.generated_text.startswith("hello")
    assert [len(tokens) for tokens in full.details.top_tokens] == [2, 2, 2]
    assert all(best[0].id == token.id for best, token in zip(full.details.top_tokens, full.details.tokens, strict=True))
    grammar = text_generation.types.Grammar(type="regex", value="(ab|cd){2}")
    assert client.generate("hello", max_new_tokens=8, grammar=grammar).generated_text in {
        "abab",
        "abcd",
        "cdab",
        "cdcd",
    }
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    grammar = text_generation.types.Grammar(type="json", value=schema | {"additionalProperties": False})
    assert isinstance(json.loads(client.generate("x", max_new_tokens=20, grammar=grammar).generated_text)["a"], bool)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"decoder_input_details": True}, "decoder_input_details: .*not served"),
        ({"watermark": True}, "watermark: .*not served"),
        ({"frequency_penalty": 0.5}, "repetition_penalty"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"truncate": 100}, "truncate: .*whole"),
        ({"best_of": 2, "do_sample": True}, "best_of"),
        ({"max_new_tokens": 5000}, "would"),
        ({"stop_sequences": ["a"] * 5}, "stop"),
        ({"grammar": text_generation.types.Grammar(type="regex", value="(")}, "grammar: .*regular expression"),
    ],
)
def test_what_is_not_served_is_refused(client, changes, says):
    with pytest.raises(ValidationError, match=says):
        client.generate("hello", **changes)


def test_its_chat_works_too(client):
    answer = client.chat([text_generation.types.Message(role="user", content="hello")], max_tokens=12, temperature=0.0)
    assert answer.choices[0].message.content == server.offline("hello", 12).lstrip()


def post(served, path, data):
    body = json.dumps(data).encode()
    request = urllib.request.Request(served.url + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["content-type"], answer.read().decode()


def test_the_routes_have_their_own_shapes(served):
    asked = {"inputs": "hello", "parameters": {"max_new_tokens": 5}}
    kind, listed = post(served, "/", asked)
    assert kind == "application/json" and list(json.loads(listed)[0]) == ["generated_text"]
    assert json.loads(post(served, "/generate", asked)[1]) == json.loads(listed)[0]
    streams = [post(served, "/", asked | {"stream": True}), post(served, "/generate_stream", asked)]
    for kind, told in streams:
        assert kind.startswith("text/event-stream")
        events = [json.loads(line[5:]) for line in told.splitlines() if line.startswith("data:")]
        assert events[-1]["generated_text"] == json.loads(listed)[0]["generated_text"]
        assert [event["index"] for event in events] == [1, 2, 3, 4, 5]
    with pytest.raises(urllib.error.HTTPError) as raised:
        post(served, "/generate", asked | {"stream": True})
    assert raised.value.code == 422
    assert json.loads(raised.value.read())["error_type"] == "validation"


def test_pictures_are_read_as_a_request_says(served, offline):
    given = {"max_new_tokens": 6, "splitting": True, "longest_edge": 20, "report_cost": True, "details": True}
    told = json.loads(post(served, "/generate", {"inputs": QUERY, "parameters": given})[1])
    expected = offline.submit(local(QUERY), Settings(6, options=Options(split=True, longest=20))).result()
    assert told["generated_text"] == expected.text
    assert told["details"]["cost"]["visual_tokens"] == expected.cost.visual_tokens == 15


def test_info_tells_the_limits(served):
    with urllib.request.urlopen(served.url + "/info", timeout=60) as answer:
        told = json.load(answer)
    assert told["model_id"] == server.NAME and told["max_total_tokens"] == 512
    assert told["model_dtype"] == "float32" and told["model_device_type"] == "cpu"


def test_its_asynchronous_client(served):
    import asyncio

    async def ask():
        client = text_generation.AsyncClient(served.url, timeout=60)
        return await asyncio.gather(*(client.generate(f"hello {at}", max_new_tokens=9) for at in range(6)))

    answers = asyncio.run(ask())
    one = text_generation.Client(served.url, timeout=60)
    for at, answer in enumerate(answers):
        assert answer.generated_text == one.generate(f"hello {at}", max_new_tokens=9).generated_text
    assert all(a.generated_text != b.generated_text for a, b in itertools.pairwise(answers))
