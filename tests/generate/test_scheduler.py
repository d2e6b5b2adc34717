"""The scheduler: chunks between steps, places freed at once, prefixes shared, errors that stay where they happen."""

import dataclasses

import pytest
import torch

from generate import tiny
from generate.law import ask
from vlmlab.batch import Sample
from vlmlab.generate.answers import Overloaded, Settings, TooLong
from vlmlab.generate.decoding import beam, sample
from vlmlab.generate.engine import Engine
from vlmlab.generate.slots import WORTH, common

LONG = ask("x" * 100)
SHORT = ask("Hi?")


class Bench:
    """An engine and a scheduler that a test moves on tick by tick."""

    def __init__(self, rows: int = 3, capacity: int = 300, chunk: int = 512, **names: str) -> None:
        changes = {"language.layers": 2, "language.window": None, "vision.layers": 1}
        model = tiny.build(dtype=torch.float32, changes=changes, **names)
        frame = None if names else "<fake_token_around_image>"
        self.engine = Engine(model, tiny.processor(model, frame=frame), chunk=chunk)
        self.scheduler = self.engine._build(rows, capacity, None)

    def add(self, one: Sample, limit: int = 8, **settings):
        [job] = self.engine._jobs([one], Settings(limit, **settings), 0)
        self.scheduler.add(job)
        return job

    def run(self, *jobs) -> list:
        while self.scheduler.tick():
            pass
        return [job.handle.result(0.0) for job in jobs]

    def alone(self, one: Sample, limit: int = 8, **settings) -> list[int]:
        other = Engine(self.engine.model, self.engine.processor)
        return other.answers([one], limit, **settings)[0].tokens


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_long_prompt_is_read_between_the_steps_of_others():
    bench = Bench(chunk=10)
    short = bench.add(SHORT, 30)
    while not short.request.written:
        bench.scheduler.tick()
    before, long = len(short.request.written), bench.add(LONG)
    held = []
    while not long.request.written:
        bench.scheduler.tick()
        held.append(0 if not long.slots else bench.scheduler.slots.held(long.slots[0]))
    ticks = -(-len(long.prompt.tokens) // 10)
    assert held[:-1] == [10 * at for at in range(1, ticks)] and len(held) == ticks
    assert len(short.request.written) - before == ticks, "one token a tick, as if there were no long prompt"
    answers = bench.run(short, long)
    assert answers[0].tokens == bench.alone(SHORT, 30) and answers[1].tokens == bench.alone(LONG)


def test_prompts_share_a_chunk():
    bench = Bench(chunk=60)
    one, other = bench.add(SHORT), bench.add(ask("Ho?!"))
    bench.scheduler.tick()
    assert one.request.written and other.request.written


@pytest.mark.parametrize("stage", ["waiting", "reading", "writing"])
def test_a_cancelled_request_frees_its_place_at_once(stage):
    bench = Bench(rows=1, chunk=10)
    first = bench.add(LONG, 50)
    if stage == "waiting":
        bench.scheduler.tick()
        first = bench.add(LONG, 50)
    while stage == "writing" and not first.request.written:
        bench.scheduler.tick()
    if stage == "reading":
        bench.scheduler.tick()
    assert first in getattr(bench.scheduler, stage)
    next_one = bench.add(SHORT)
    first.handle.cancel()
    bench.scheduler.tick()
    answer = first.handle.result(0.0)
    assert answer.reason == "cancelled" and answer.tokens == first.request.written
    if stage == "waiting":
        assert first.handle.done and answer.tokens == []
    else:
        assert next_one.slots, "the next request has the place in the same tick"
        assert bench.run(next_one)[0].tokens == bench.alone(SHORT)


def test_rows_change_places_as_others_end(bench):
    """Every order of ending, with more requests than rows."""
    limits = [9, 2, 5, 1, 7, 3, 8]
    jobs = [bench.add(ask("abcdefg"[at] * (3 + at)), limit) for at, limit in enumerate(limits)]
    for at, answer in enumerate(bench.run(*jobs)):
        assert answer.tokens == bench.alone(ask("abcdefg"[at] * (3 + at)), limits[at])
    gauges = bench.scheduler.gauges()
    assert (gauges.finished, gauges.rows, gauges.held_tokens, gauges.slots) == (7, 0, 0, 3)
    assert gauges.room_tokens == 900 and gauges.written_tokens == sum(limits)


def test_the_memory_is_fixed(bench):
    cache = bench.scheduler.session.cache
    places = cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape
    bench.run(*[bench.add(one) for one in tiny.samples() * 3])
    assert places == (cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape)


@pytest.mark.parametrize("names", [{}, {"fusion": "cross_attention"}], ids=["interleave", "cross_attention"])
def test_a_conversation_goes_on_where_it_stood(names):
    bench = Bench(**names)
    picture = tiny.picture(20, 14, 1)
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it? Say so."}]}]
    [first] = bench.run(bench.add(Sample.from_messages(turns, images=[picture])))
    assert first.cost.reused_tokens == 0 and first.cost.image_hits == 0 and first.cost.images == 1
    turns += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And then?"}]
    again = Sample.from_messages(turns, images=[picture])
    job = bench.add(again)
    [second] = bench.run(job)
    assert second.tokens == bench.alone(again)
    assert second.cost.reused_tokens >= first.cost.prompt_tokens - 1
    assert second.cost.image_hits == 1, "a picture within the prefix is not looked at"


def test_what_was_written_is_part_of_the_prefix(bench):
    word, letters = " abcdefg", bench.engine.processor.tokenizer

    def allowed(written):
        return torch.arange(103) == letters.token_to_id(word[len(written)])

    turns = [{"role": "user", "content": "Say the alphabet."}]
    [first] = bench.run(bench.add(Sample.from_messages(turns), len(word), allowed=allowed))
    turns += [{"role": "assistant", "content": first.text.strip()}, {"role": "user", "content": "Go on."}]
    [second] = bench.run(bench.add(Sample.from_messages(turns)))
    assert first.text == word
    assert second.cost.reused_tokens == first.cost.prompt_tokens + len(word) - 1, "all that was read, the last was not"
    assert second.tokens == bench.alone(Sample.from_messages(turns))


def test_equal_requests_at_once_are_read_once():
    bench = Bench(rows=4, chunk=20)
    one = ask("What is this, and who made it?", tiny.picture(20, 14, 1))
    jobs = [bench.add(one, 8, decoding=sample.Config(temperature=2.0), seed=seed) for seed in range(4)]
    answers = bench.run(*jobs)
    length = answers[0].cost.prompt_tokens
    reused = [a.cost.reused_tokens for a in answers]
    assert reused[0] == 0 and all(length - WORTH < each < length for each in reused[1:])
    assert len({tuple(a.tokens) for a in answers}) == 4
    assert bench.scheduler.gauges().image_hits == 3
    for seed, answer in enumerate(answers):
        assert answer.tokens == bench.alone(one, 8, decoding=sample.Config(temperature=2.0), seed=seed)


def test_a_prefix_ends_where_a_picture_differs(bench):
    before = "Look closely, for the next one is new."
    first, other = (ask("Who?", tiny.picture(20, 14, seed), before=before) for seed in (1, 2))
    a, b = bench.add(first), bench.add(other)
    answers = bench.run(a, b)
    image = bench.engine.processor.image_id
    assert a.request.prompt == b.request.prompt, "the tokens do not tell them apart"
    assert answers[1].cost.reused_tokens == a.request.prompt.index(image)
    assert answers[1].tokens == bench.alone(other)


def test_prefixes_are_shared_from_what_is_idle_and_live_and_last_used_goes_last(bench):
    texts = [letter * 60 for letter in "abc"]
    bench.run(*[bench.add(ask(text)) for text in texts])
    assert bench.run(bench.add(ask("a" * 60 + "!")))[0].cost.reused_tokens > 60  # `a` is now the last used
    bench.run(bench.add(ask("d" * 60)))  # takes the place of `b`
    assert bench.run(bench.add(ask("a" * 60 + "?")))[0].cost.reused_tokens > 60
    live = bench.add(ask("e" * 60), 30)
    while len(live.request.written) < 3:
        bench.scheduler.tick()
    sharing = bench.add(ask("e" * 60 + "?"))
    assert bench.run(sharing)[0].cost.reused_tokens > 60
    assert sharing.handle.result().tokens == bench.alone(ask("e" * 60 + "?"))
    assert bench.run(bench.add(ask("b" * 60)))[0].cost.reused_tokens < WORTH


def test_common():
    assert common([1, 2, b"x"], [1, 2, b"y", 3]) == 2
    assert common([1], [1, 2]) == 1 and common([], [1]) == 0


def test_a_picture_that_cannot_be_seen_fails_its_request_only(bench):
    see, bad = bench.engine.model.see, (6, 6)

    def seen(images):
        if bad in images.sizes():
            raise RuntimeError("a bad picture")
        return see(images)

    bench.engine.model.see = seen
    wrong, right = ask("What?", tiny.picture(12, 12, 1)), ask("What?", tiny.picture(20, 14, 1))
    jobs = [bench.add(right), bench.add(wrong), bench.add(SHORT)]
    while bench.scheduler.tick():
        pass
    with pytest.raises(RuntimeError, match="a bad picture"):
        jobs[1].handle.result(0.0)
    del bench.engine.model.see
    assert [job.handle.result(0.0).tokens for job in (jobs[0], jobs[2])] == [bench.alone(right), bench.alone(SHORT)]
    assert bench.scheduler.gauges().failed == 1


@pytest.mark.parametrize("what", ["step", "read"])
def test_an_error_fails_those_in_the_pass_and_the_engine_goes_on(bench, what):
    bench = Bench(rows=2)
    jobs = [bench.add(ask(letter * 40)) for letter in "ab"] + [bench.add(ask("a" * 40 + "?"))]
    good = getattr(bench.scheduler.session, what)
    calls = []

    def breaks(*given):
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return good(*given)

    setattr(bench.scheduler.session, what, breaks)
    while bench.scheduler.tick():
        pass
    for job in jobs[:2]:
        with pytest.raises(RuntimeError, match="out of memory"):
            job.handle.result(0.0)
    last = jobs[2].handle.result(0.0)
    assert last.cost.reused_tokens == 0, "what a failed pass left behind is not to be trusted"
    assert last.tokens == bench.alone(ask("a" * 40 + "?"))


def test_the_queue_is_bounded_and_says_when_to_come_back():
    now = [0.0]
    bench = Bench(rows=2)
    bench.scheduler.queue, bench.scheduler.clock = 3, lambda: now[0]
    jobs = [bench.add(ask(text), 4) for text in ("Hi?", "Ho?", "Hu?")]
    with pytest.raises(Overloaded, match="3 requests are waiting") as caught:
        bench.add(SHORT)
    assert caught.value.retry_after == 2, "nothing is known yet: a second each, two at a time, four of them"
    while bench.scheduler.tick():
        now[0] += 10
    cost = jobs[0].handle.result(0.0).cost
    assert (cost.queue_seconds, cost.prefill_seconds, cost.decode_seconds) == (0, 0, 20)
    cost = jobs[2].handle.result(0.0).cost
    assert cost.queue_seconds == 30 and cost.first_token_seconds == cost.prepare_seconds + 30
    for _ in range(3):
        bench.add(SHORT)
    with pytest.raises(Overloaded) as caught:
        bench.scheduler.check_queue()
    assert caught.value.retry_after == 40
    assert bench.scheduler.gauges().refused == 2


def test_logprobs_are_the_models_own(bench):
    one = tiny.samples()[0]
    way = sample.Config(temperature=3.0, repetition_penalty=2.0)
    [answer] = bench.run(bench.add(one, 6, decoding=way, seed=3, logprobs=4))
    batch = bench.engine.processor([one], add_generation_prompt=True)
    tokens = torch.cat([batch.tokens, torch.tensor([answer.tokens])], 1)
    ones = torch.ones_like(tokens)
    with torch.no_grad():
        logits = bench.engine.model(type(batch)(tokens, ones, torch.arange(tokens.shape[1])[None], images=batch.images))
    right = logits[0, batch.tokens.shape[1] - 1 :].log_softmax(-1)
    assert [scored.token for scored in answer.scored] == answer.tokens
    for scored, row in zip(answer.scored, right, strict=False):
        assert abs(scored.logprob - row[scored.token]) < 1e-4
        assert [token for token, _ in scored.likeliest] == row.topk(4).indices.tolist()
    none = bench.run(bench.add(one, 6, logprobs=0))[0]
    assert len(none.scored) == 6 and none.scored[0].likeliest == ()


@pytest.mark.parametrize("way", [None, sample.Config(), beam.Config(beams=2)], ids=["greedy", "sample", "beam"])
def test_what_is_written_may_be_constrained(bench, way):
    words = ["yes", "you", "no"]
    letters = bench.engine.processor.tokenizer

    def allowed(written):
        mask = torch.zeros(103, dtype=torch.bool)
        said = "".join(letters.id_to_token(token) for token in written)
        for word in words:
            if word == said:
                mask[letters.token_to_id("</s>")] = True
            elif word.startswith(said):
                mask[letters.token_to_id(word[len(said)])] = True
        return mask

    free = bench.add(SHORT)
    answers = bench.run(bench.add(SHORT, decoding=way, allowed=allowed), bench.add(SHORT, allowed=lambda _: None), free)
    assert answers[0].text in words and answers[0].reason == "end"
    assert answers[1].tokens == answers[2].tokens == bench.alone(SHORT)


@pytest.mark.parametrize(
    ("allowed", "says"),
    [
        (lambda written: 1 / 0, "division"),
        (lambda written: torch.zeros(103, dtype=torch.bool), "no token to write after 0"),
        (lambda written: torch.zeros(103, dtype=torch.bool).index_fill(0, torch.tensor([101]), True), "no token"),
        (lambda written: torch.ones(50, dtype=torch.bool), r"\[103\]"),
    ],
)
def test_a_constraint_that_fails_fails_its_request_only(bench, allowed, says):
    wrong, right = bench.add(SHORT, allowed=allowed), bench.add(LONG)
    while bench.scheduler.tick():
        pass
    with pytest.raises((ValueError, ZeroDivisionError), match=says):
        wrong.handle.result(0.0)
    assert right.handle.result(0.0).tokens == bench.alone(LONG)


def test_pictures_are_looked_at_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("vlmlab.generate.scheduler.PIECE", 100)
    bench = Bench()
    looks, see = [], bench.engine.model.see
    bench.engine.model.see = lambda images: looks.append(images.sizes()) or see(images)
    short = bench.add(SHORT, 30)
    bench.scheduler.tick()
    pictures = [tiny.picture(20, 16, seed) for seed in range(3)]  # of 80 patches
    many = bench.add(ask("Which?", *pictures))
    written = []
    while not many.request.written:
        bench.scheduler.tick()
        written.append(len(short.request.written))
    assert looks == [[(8, 10)]] * 3 and written == [3, 4, 5]
    assert bench.run(many)[0].tokens == bench.alone(ask("Which?", *pictures))


def test_beams_take_rows_and_give_them_back():
    bench = Bench(rows=4)
    way = beam.Config(beams=3)
    jobs = [bench.add(one, 6, decoding=way) for one in tiny.samples()[:3]] + [bench.add(SHORT, 6)]
    answers = bench.run(*jobs)
    right = [bench.alone(one, 6, decoding=way) for one in tiny.samples()[:3]] + [bench.alone(SHORT, 6)]
    assert [a.tokens for a in answers] == right
    assert bench.scheduler.gauges().rows == 0 and len(bench.scheduler.slots.idle()) == 4


def test_costs_add_up(bench):
    one = tiny.samples()[2]
    answers = bench.run(bench.add(one), bench.add(one))
    cost = answers[0].cost
    assert cost.prompt_tokens == len(bench.engine.processor.encode(one, True).tokens)
    assert (
        cost.visual_tokens == 6
        and cost.images == 2
        and cost.image_hits == 0
        and cost.written_tokens == len(answers[0].tokens)
    )
    assert answers[1].cost.image_hits == 2
    assert all(value >= 0 for value in dataclasses.asdict(cost).values())
    gauges = bench.scheduler.gauges()
    assert (gauges.images, gauges.image_hits, gauges.written_tokens) == (4, 2, 2 * cost.written_tokens)
    assert gauges.prompt_tokens == 2 * cost.prompt_tokens and gauges.reused_tokens == answers[1].cost.reused_tokens


def test_requests_that_never_fit_say_what_would():
    model = tiny.build(dtype=torch.float32)
    with Engine(model, tiny.processor(model), rows=2, capacity=60) as engine:
        with pytest.raises(TooLong, match="38 new ones would") as caught:
            engine.submit(SHORT, Settings(50))
        assert len(engine.submit(SHORT, Settings(caught.value.fits)).result(60.0).tokens) == caught.value.fits
        with pytest.raises(TooLong, match="a prompt of 52 would") as caught:
            engine.submit(LONG, Settings(8))
        assert caught.value.fits == 52
        with pytest.raises(TooLong, match="3 beams take 3 rows; this engine has 2"):
            engine.submit(SHORT, Settings(5, beam.Config(beams=3)))
        with pytest.raises(ValueError, match="logprobs with greedy"):
            engine.submit(SHORT, Settings(5, beam.Config(beams=2), logprobs=1))
        with pytest.raises(ValueError, match="the vocabulary has 103"):
            engine.submit(SHORT, Settings(5, logprobs=104))
        assert engine.gauges().waiting == 0
