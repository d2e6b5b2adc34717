"""An engine with a thread of its own: requests from many threads, pieces as they come, and a clean end."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from generate import tiny
from generate.law import ask
from vlmlab.batch import Sample
from vlmlab.generate.answers import Overloaded, Settings
from vlmlab.generate.decoding import beam
from vlmlab.generate.engine import Engine

PATIENCE = 60.0
"""Seconds that a test waits for an answer before it gives up."""


def build(**sizes: int) -> Engine:
    changes = {"language.layers": 2, "language.window": None, "vision.layers": 1}
    model = tiny.build(dtype=torch.float32, changes=changes)
    return Engine(model, tiny.processor(model), **{"rows": 3, "capacity": 300, "chunk": 20} | sizes)


@pytest.fixture
def engine():
    with build() as made:
        yield made


def asked(count: int) -> list[Sample]:
    return [ask("abcdefgh"[at % 8] * (3 + at), *([tiny.picture(20, 14, at)] if at % 2 else [])) for at in range(count)]


def test_many_threads_get_their_own_answers(engine):
    samples = asked(12)
    right = build().answers(samples, 10)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda one: engine.submit(one, Settings(10)).result(PATIENCE), samples))
    assert [a.tokens for a in answers] == [a.tokens for a in right]
    assert engine.gauges().finished == 12 and engine.gauges().rows == 0


def test_pieces_come_as_they_are_written_and_make_the_text(engine):
    handle = engine.submit(asked(1)[0], Settings(20, logprobs=1))
    pieces = list(handle)
    answer = handle.result(0.0)
    assert "".join(piece.text for piece in pieces) == answer.text and len(pieces) > 5
    assert tuple(scored for piece in pieces for scored in piece.scored) == answer.scored[: len(answer.scored)]
    assert handle.done and handle.take() == []


def test_asyncio_gets_pieces_without_waiting(engine):
    async def text(one: Sample) -> str:
        news, loop = asyncio.Event(), asyncio.get_running_loop()
        handle = await asyncio.to_thread(engine.submit, one, Settings(10), lambda: loop.call_soon_threadsafe(news.set))
        said = []
        while True:
            done = handle.done
            said += handle.take()
            if done:
                return "".join(piece.text for piece in said)
            await news.wait()
            news.clear()

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(text, asked(5)))

    assert asyncio.run(asyncio.wait_for(all_of_them(), PATIENCE)) == build().generate(asked(5), 10)


def test_cancelling_from_another_thread(engine):
    handle = engine.submit(asked(1)[0], Settings(250))
    next(iter(handle))
    threading.Thread(target=handle.cancel).start()
    answer = handle.result(PATIENCE)
    assert answer.reason == "cancelled" and 0 < len(answer.tokens) < 250
    assert engine.submit(asked(1)[0], Settings(3)).result(PATIENCE).reason == "length"
    assert engine.gauges().cancelled == 1 and engine.gauges().held_tokens == 0


def test_a_bad_picture_is_refused_where_it_is_handed_in(engine):
    with pytest.raises(ValueError, match="not a picture"):
        engine.submit(Sample.from_text("<image>", [b"broken"]), Settings(3))
    assert engine.submit(asked(1)[0], Settings(3)).result(PATIENCE).tokens


def test_a_listener_that_is_gone_fails_its_request_only(engine):
    def gone() -> None:
        raise RuntimeError("the loop is closed")

    handle, other = engine.submit(asked(1)[0], Settings(30), gone), engine.submit(asked(2)[1], Settings(5))
    with pytest.raises(RuntimeError, match="loop is closed"):
        handle.result(PATIENCE)
    assert len(other.result(PATIENCE).tokens) == 5


def test_too_many_are_told_to_come_back_and_nothing_accepted_is_lost():
    with build(rows=1, queue=2) as engine:
        handles, refused = [], 0
        for _ in range(40):
            try:
                handles.append(engine.submit(asked(1)[0], Settings(6)))
            except Overloaded as error:
                assert error.retry_after >= 1
                refused += 1
        assert refused > 0 and engine.gauges().refused == refused
        texts = {handle.result(PATIENCE).text for handle in handles}
        assert len(texts) == 1


def test_a_started_engine_answers_and_streams_as_one_that_is_not(engine):
    still = build()
    engine.queue = 2
    samples = asked(9)
    assert engine.generate(samples, 6) == still.generate(samples, 6)
    assert engine.generate(samples[:3], 4, beam.Config(beams=2)) == still.generate(samples[:3], 4, beam.Config(beams=2))
    assert (
        list(engine.stream(samples[1], 9))
        and "".join(engine.stream(samples[1], 9)) == still.generate(samples[1:2], 9)[0]
    )
    stream = engine.stream(samples[0], 200)
    next(stream)
    stream.close()
    assert engine.generate(samples[:1], 3) == still.generate(samples[:1], 3)
    assert engine.gauges().rows == 0


@pytest.mark.parametrize("drain", [False, True])
def test_closing_leaves_nobody_waiting(drain):
    engine = build(rows=1).start()
    thread = engine._worker._thread
    handles = [engine.submit(one, Settings(20 if drain else 250)) for one in asked(3)]
    next(iter(handles[0]))
    engine.close(drain)
    reasons = [handle.result(0.0).reason for handle in handles]
    assert "cancelled" not in reasons if drain else reasons[1:] == ["cancelled"] * 2
    assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="not started"):
        engine.submit(asked(1)[0])
    engine.close()
    with engine:
        assert engine.submit(asked(1)[0], Settings(2)).result(PATIENCE).tokens


def test_an_error_of_the_scheduler_itself_reaches_everyone_and_ends_nothing(engine, caplog):
    scheduler = engine._worker.scheduler
    handle = engine.submit(asked(1)[0], Settings(250))
    next(iter(handle))
    admit = scheduler._admit

    def broken() -> None:
        scheduler._admit = admit
        raise RuntimeError("unheard of")

    scheduler._admit = broken
    with pytest.raises(RuntimeError, match="unheard of"):
        handle.result(PATIENCE)
    assert engine.submit(asked(1)[0], Settings(3)).result(PATIENCE).tokens
    assert "the engine failed" in caplog.text


def test_a_result_may_be_waited_for_so_long(engine):
    handle = engine.submit(asked(1)[0], Settings(250))
    with pytest.raises(TimeoutError):
        handle.result(0.0)
    handle.cancel()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Settings(0), "max_new_tokens"),
        (lambda: Settings(stop=("",)), "non-empty"),
        (lambda: Settings(logprobs=-1), "logprobs"),
        (lambda: build(rows=0), "rows"),
        (lambda: build(capacity=1), "capacity"),
    ],
)
def test_settings_without_meaning_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
