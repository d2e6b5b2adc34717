"""A minute of the soak, as `make soak` runs a quarter of an hour; and that it would see what it looks for."""

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from serve import hostile
from serve.soak import malformed, model, truth, watch
from serve.soak.asked import TINY, Request, request, secret
from serve.soak.clients import Manner, ask
from serve.soak.load import Load, Tally
from serve.soak.truth import Heard, Truth
from vlmlab.generate.answers import Settings

TESTS = Path(__file__).parents[1]

EVENT = b'data: {"choices": [{"text": "abc", "finish_reason": null}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.slow
def test_a_minute_at_twice_what_it_can_do(tmp_path):
    out = tmp_path / "soak.json"
    command = [sys.executable, "-m", "serve.soak", "--minutes", "1", "--measure", "5", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert out.exists(), done.stdout + done.stderr
    bad = {name: one["seen"] for name, one in json.loads(out.read_text())["verdicts"].items() if not one["good"]}
    assert not bad and done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def checker():
    return Truth(*model.build(), 0, TINY)


@pytest.fixture(scope="module")
def said(checker):
    """What the engine says of ten secrets, one by one."""
    about = {number: secret(0, number, TINY) for number in range(10)}
    with checker.engine as engine:
        answers = {number: engine.submit(one.sample(), Settings(one.limit)).result() for number, one in about.items()}
    return {number: about[number].said(answer.text) for number, answer in answers.items()}


def test_a_crossed_answer_is_seen(checker, said):
    heard = [Heard(number, number, text) for number, text in said.items()]
    found = checker.check(heard)
    assert (found.right, found.wrong, found.crossed, found.distinct, found.alike) == (10, [], [], 10, 0.0)
    heard[3], heard[7] = Heard(3, 3, said[7]), Heard(7, 7, said[3])
    heard[5] = Heard(5, 5, said[5][:-1] + "?!")
    found = checker.check(heard)
    assert found.right == 7 and len(found.crossed) == 2 and len(found.wrong) == 1
    assert "request 5" in found.wrong[0] and {one[:9] for one in found.crossed} == {"request 3", "request 7"}


def test_part_of_an_answer_is_held_to_its_beginning(checker, said):
    found = checker.check([Heard(0, 0, said[0][:3], False), Heard(1, 1, said[0][:3], False)])
    assert found.parts == 1 and len(found.wrong) == 1


def test_only_tokens_as_good_as_equal_may_differ(checker, said, monkeypatch):
    about = next(one for number in range(10) if len((one := secret(0, number, TINY)).said(said[number])) > 8)
    with checker.engine as engine:
        first = engine.submit(about.sample(), Settings(1, logprobs=4)).result().scored[0]
        other = next(token for token, _ in first.likeliest if token != first.token)
        text = engine.submit(about.sample(), Settings(about.limit, allowed=checker._beginning([other]))).result().text
    heard = [Heard(1, about.number, about.said(text))]
    assert len(checker.check(heard).wrong) == 1
    monkeypatch.setattr(truth, "BOUND", 20.0)
    assert checker.check(heard).ties == 1


def test_growth_is_of_the_last_third_over_the_second():
    assert watch.growth([5, 9, 7, 10, 10, 10, 10, 99, 10]) == 0.0
    assert watch.growth(range(100, 190)) > watch.TOLERANCE
    assert watch.growth(range(1000, 1090)) < watch.TOLERANCE


def chunked(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)


@pytest.mark.parametrize(
    ("answer", "stream", "ended"),
    [
        (hostile.answer(b'{"generated_text": "abc"}'), False, "answered"),
        (hostile.answer(b'{"generated_text": "abc"}', length=100), False, "cut"),
        (hostile.answer(b"", status="429 Too Many Requests"), False, "refused"),
        (hostile.answer(b"{}", status="500 Internal Server Error"), False, "error"),
        (b"", False, "cut"),
        (HEAD + chunked(EVENT, EVENT.replace(b"null", b'"stop"'), b"data: [DONE]\n\n", b""), True, "answered"),
        (HEAD + chunked(EVENT, b"data: [DONE]\n\n", b""), True, "cut"),
        (HEAD + chunked(EVENT, b""), True, "cut"),
        (HEAD + chunked(EVENT), True, "cut"),
        (HEAD + chunked(EVENT, b'data: {"error": "it"}\n\n', b""), True, "error"),
    ],
)
def test_what_a_client_makes_of_an_answer(answer, stream, ended):
    paths = {"/generate": hostile.once(answer)}
    with hostile.serving(hostile.Server(paths=paths)) as server:
        outcome = asyncio.run(ask(server.port, Request("/generate", b"{}"), Manner(stream=stream)))
        assert outcome.ended == ended, outcome
        load, made = Load(server.port, "tiny", TINY, 0), Request("/generate", b"{}")
        # What was turned away must be told when to come again.
        assert bool(load._amiss(outcome, made)) == (ended != "answered")
        outcome.headers["retry-after"] = "3"
        assert bool(load._amiss(outcome, made)) == (ended not in ("answered", "refused"))


def test_a_wrong_request_that_is_answered_in_the_wrong_way_is_seen():
    paths = {path: hostile.once(hostile.answer(status="500 No")) for path in (malformed.CHAT, malformed.TEXT)}
    with hostile.serving(hostile.Server(paths=paths)) as server:
        load, tally = Load(server.port, "tiny", TINY, 0), Tally()
        load.kinds = ["a list"]
        asyncio.run(load._wrong(1, random.Random(0), tally))
    assert len(tally.broken) == 1 and "a list" in tally.broken[0]


def test_the_same_number_asks_the_same():
    assert secret(1, 2, TINY) == secret(1, 2, TINY) != secret(1, 3, TINY)
    bodies = [request(secret(1, number, TINY), "tiny", True).body for number in range(30)]
    assert len(set(bodies)) == 30
    names = malformed.names("tiny", TINY)
    for name in names:
        assert malformed.wrong(name, "tiny", TINY, 1) == malformed.wrong(name, "tiny", TINY, 1)
