"""Where an answer looked, by the API: the engine's own maps in 8 bits, and what is refused."""

import base64
import http.client
import json

import numpy as np
import pytest
import torch

from generate import tiny
from serve import server
from serve.test_openai import ask, sample
from vlmlab.generate import looking
from vlmlab.generate.answers import Overloaded
from vlmlab.processor.processor import Options
from vlmlab.serve.media import Pictures, Policy
from vlmlab.serve.service import Limits

PICTURES = [tiny.picture(21, 30, 1), tiny.picture(35, 15, 2)]

FAR = {"window": None, "capacity": 600}
"""The tiny model, but it can look back as far as its pictures."""


@pytest.fixture(scope="module")
def talking(decoders):
    with server.serving(Pictures(Policy(), decoders), Limits(chat=True, drain_seconds=2.0), **FAR) as one:
        yield one


def post(where, told):
    line = http.client.HTTPConnection("127.0.0.1", where.port, timeout=60)
    line.request("POST", "/v1/vlmlab/attention", json.dumps(told), {"Content-Type": "application/json"})
    answer = line.getresponse()
    return answer.status, json.loads(answer.read())


def asked(text="What is it?", answer="It is red.", pictures=PICTURES, **more):
    messages = [*ask(text, *pictures), {"role": "assistant", "content": answer}]
    return {"model": server.NAME, "messages": messages} | more


def bytes_of(text, rows, image):
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(rows, image["rows"] * image["columns"])


@pytest.mark.parametrize("splitting", [False, True])
def test_maps_are_those_of_the_engine(talking, splitting):
    status, told = post(talking, asked(splitting=splitting, each=True))
    assert status == 200, told
    engine = server.engine(**FAR)
    written = engine.processor.tokenizer.encode(" It is red.", add_special_tokens=False).ids
    seen = engine.look(sample("What is it?", *PICTURES), written, Options(split=splitting)).result(0)
    assert "".join(token["text"] for token in told["tokens"]) == " It is red."
    assert [token["share"] for token in told["tokens"]] == pytest.approx(seen.share.tolist(), abs=1e-4)
    images = told["images"]
    assert [(image["rows"], image["columns"]) for image in images] == seen.grid
    assert [image["picture"] for image in images] == ([0] * 5 + [1] * 5 if splitting else [0, 1])
    maps, count = torch.cat(seen.maps, 1), len(written)
    for name, right, rows in (("tokens", maps, count), ("answer", maps.mean(0, keepdim=True), 1)):
        given = np.concatenate([bytes_of(image[name], rows, image) for image in images], 1)
        assert (given.max(1) == 255).all()
        expected = 255 * right / right.amax(1, keepdim=True)
        assert np.abs(given - expected.numpy()).max() < 1  # rounding, and batches of other shapes
    cost = told["cost"]
    assert cost["written_tokens"] == count and cost["visual_tokens"] == seen.visual_tokens
    assert cost["prompt_tokens"] == seen.prompt_tokens and cost["look_seconds"] > 0


def test_boxes_are_what_the_patches_cover(talking):
    _, told = post(talking, asked(splitting=True))
    assert "tokens" not in told["images"][0]
    # 21 x 30 pixels in patches of 2: the left half is 10 wide, the right 11, of which 10 fill patches.
    boxes = [
        [round(side * length) for side, length in zip(i["box"], (21, 30, 21, 30), strict=True)] for i in told["images"]
    ]
    assert boxes[:5] == [[0, 0, 10, 14], [10, 0, 20, 14], [0, 15, 10, 29], [10, 15, 20, 29], [0, 0, 20, 30]]
    _, told = post(talking, asked(longest_edge=10, pictures=PICTURES[1:]))
    assert (told["images"][0]["rows"], told["images"][0]["columns"]) == (4, 5)


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"model": "another"}, 404, "not served here"),
        ({"messages": ask("What?", PICTURES[0]) * 2}, 400, "the assistant's"),
        ({"messages": asked(pictures=[])["messages"]}, 400, "no picture"),
        ({"messages": asked(answer="x" * 513)["messages"]}, 400, "longest that is has 512"),
        ({"messages": asked(text="x" * 600)["messages"]}, 400, "do not fit"),
        ({"messages": asked()["messages"][:1]}, 400, "at least 2"),
        ({"temperature": 1}, 400, "no field 'temperature'"),
    ],
)
def test_what_is_refused(talking, change, status, told):
    found, answer = post(talking, asked() | change)
    assert found == status and told in answer["error"]["message"], answer


def test_too_many_numbers_are_refused(talking, monkeypatch):
    monkeypatch.setattr(looking, "CELLS", 400)
    status, answer = post(talking, asked())
    assert status == 400 and "too many to look into" in answer["error"]["message"]


def test_only_where_the_page_is(served):
    assert post(served, asked())[0] == 404


def test_looks_are_counted(talking):
    def counted():
        [line] = [
            s for s in talking.service.metrics.page().splitlines() if s.startswith(b"vlmlab_attention_seconds_count")
        ]
        return float(line.split()[1])

    before = counted()
    assert post(talking, asked(answer="x" * 513))[0] == 400 and counted() == before
    assert post(talking, asked())[0] == 200 and counted() == before + 1


def test_looks_that_wait_are_bounded(talking, monkeypatch):
    def look(*given, **more):
        raise Overloaded(4, 1)

    monkeypatch.setattr(talking.service.engine, "look", look)
    status, answer = post(talking, asked())
    assert status == 429 and answer["error"]["code"] == "overloaded"
