"""The engine: the same text alone, in company and in pieces; ends, stops and limits; every picture seen once."""

import gc
import random

import pytest
import torch

from generate import tiny
from vlmlab.batch import Sample
from vlmlab.generate.decoding import Request, beam, greedy, sample
from vlmlab.generate.engine import Engine
from vlmlab.generate.sights import Sight
from vlmlab.generate.telling import held_back

CLOSE = 1e-4
"""Two logits nearer than this may change places in company (a product of many rows rounds differently)."""


@pytest.fixture(scope="module", params=["interleave", "cross_attention"])
def engine(request) -> Engine:
    model = tiny.build(fusion=request.param, dtype=torch.float32)
    frame = "<fake_token_around_image>" if request.param == "interleave" else None
    return Engine(model, tiny.processor(model, frame=frame))


WAYS = [greedy.Config(), greedy.Config(repetition_penalty=1.3), sample.Config(1.0, 1.5, 20, 0.9), beam.Config(beams=3)]


@pytest.mark.parametrize("way", WAYS, ids=["greedy", "penalty", "sample", "beam"])
def test_text_is_the_same_alone_and_in_any_company(engine, way):
    every = tiny.samples()
    alone = [engine.answers([s], 14, way, seed=5 + at)[0].tokens for at, s in enumerate(every)]
    assert len({tuple(tokens) for tokens in alone}) >= len(every) - 1
    assert [a.tokens for a in engine.answers(every, 14, way, seed=5)] == alone
    if way != WAYS[2]:  # a draw's seed goes with its place
        order = list(range(len(every)))
        for shuffle in range(4):
            random.Random(shuffle).shuffle(order)
            few = order[: 2 + shuffle % 3]
            assert [a.tokens for a in engine.answers([every[i] for i in few], 14, way)] == [alone[i] for i in few]


def test_greedy_differs_in_company_only_at_ties(engine, capsys):
    """Many random mixes; where a token differs, the two likeliest were closer than rounding."""
    every, differ = tiny.samples(), 0
    alone = [a for s in every for a in engine.answers([s], 10)]
    for seed in range(12):
        chosen = random.Random(seed).choices(range(len(every)), k=6)
        mixed = engine.answers([every[i] for i in chosen], 10)
        for i, answer in zip(chosen, mixed, strict=True):
            if answer.tokens != alone[i].tokens:
                at = next(n for n, (a, b) in enumerate(zip(answer.tokens, alone[i].tokens, strict=False)) if a != b)
                batch = engine.processor([every[i]], add_generation_prompt=True)
                tokens = torch.cat([batch.tokens, torch.tensor([alone[i].tokens[:at]], dtype=torch.long)], 1)
                ones = torch.ones_like(tokens)
                longer = type(batch)(tokens, ones, torch.arange(tokens.shape[1])[None], images=batch.images)
                top = engine.model(longer)[0, -1].index_fill(0, engine.banned, -torch.inf).topk(2).values
                assert top[0] - top[1] < CLOSE
                differ += 1
    with capsys.disabled():
        print(f" [{differ} of 72 texts differed at a tie]", end="")


def test_greedy_takes_the_likeliest_token_of_the_uncached_model(engine):
    for one in tiny.samples():
        written = engine.answers([one], 8)[0].tokens
        batch = engine.processor([one], add_generation_prompt=True)
        tokens = batch.tokens
        for token in written:
            ones = torch.ones_like(tokens)
            whole = type(batch)(tokens, ones, torch.arange(tokens.shape[1])[None], images=batch.images)
            with torch.no_grad():
                logits = engine.model(whole)[0, -1].index_fill(0, engine.banned, -torch.inf)
            assert logits[token] > logits.max() - CLOSE
            tokens = torch.cat([tokens, torch.tensor([[token]])], 1)


@pytest.mark.parametrize("way", WAYS, ids=["greedy", "penalty", "sample", "beam"])
def test_image_tokens_are_never_written(engine, way):
    """Even by a model that wants nothing else."""
    head = engine.model.language.output.weight
    before = head.detach().clone()
    try:
        with torch.no_grad():
            head[engine.banned] = 50 * head[engine.banned].abs()
            head[100] = 50 * head[100].abs()
        written = [t for a in engine.answers(tiny.samples(), 12, way) for t in a.tokens]
    finally:
        with torch.no_grad():
            head.copy_(before)
    assert written and not set(written) & set(engine.processor.never_written)


def test_a_text_ends_at_an_end_token_and_says_why(engine):
    one = tiny.samples()[0]
    free = engine.answers([one], 20)[0]
    assert len(free.tokens) == 20 and free.reason == "length"
    ends, engine.ends = engine.ends, frozenset([free.tokens[6]])
    try:
        cut = engine.answers([one], 20)[0]
    finally:
        engine.ends = ends
    first = free.tokens.index(free.tokens[6])
    assert cut.tokens == free.tokens[: first + 1] and cut.reason == "end"


def test_stop_strings_cut_the_text_also_across_tokens(engine):
    one = tiny.samples()[3]
    text = engine.generate([one], 20)[0]
    stop = text[7:10]
    answer = engine.answers([one], 20, stop=["never here", stop])[0]
    assert answer.text == text[: text.index(stop)] and answer.reason == "stop"
    assert len(answer.tokens) <= text.index(stop) + len(stop)
    assert "".join(engine.stream(one, 20, stop=[stop])) == answer.text


def test_a_stream_says_what_generate_returns_in_pieces(engine):
    for one in tiny.samples():
        pieces = list(engine.stream(one, 12))
        assert "".join(pieces) == engine.generate([one], 12)[0]
    assert len(pieces) > 5


def test_a_stream_left_early_leaves_the_engine_as_it_was(engine):
    one = tiny.samples()[2]
    stream = engine.stream(one, 12)
    first = next(stream)
    stream.close()
    assert engine.generate([one], 12)[0].startswith(first)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("text", "stop", "held"),
    [
        ("abc", [], 0),
        ("abc\N{REPLACEMENT CHARACTER}", [], 1),
        ("ab\nUs", ["\nUser"], 3),
        ("ab\nUs\N{REPLACEMENT CHARACTER}", ["\nUs\N{GRINNING FACE}"], 4),
        ("ab\nUser: x", ["\nUser"], 8),
        ("aUse", ["User", "e!"], 3),
        ("aab", ["aac"], 0),
        ("aaa", ["aab"], 2),
    ],
)
def test_what_may_not_be_said_yet(text, stop, held):
    assert held_back(text, stop) == held


def test_each_picture_is_seen_once_and_the_memory_is_bounded():
    model = tiny.build(dtype=torch.float32)
    engine = Engine(model, tiny.processor(model))
    seen = []
    see, model.see = model.see, lambda images: seen.append(images.sizes()) or see(images)
    first, again = tiny.samples()[2], tiny.samples()[0]
    engine.generate([first, again], 2)
    assert [len(s) for s in seen] == [2], "the picture that comes twice is computed once"
    engine.generate([again], 2)
    assert len(seen) == 1, "and not again in the next call"
    small = Engine(model, engine.processor, memory=next(iter(engine.sights.seen.values())).nbytes)
    texts = small.generate([first, again], 6)
    assert len(small.sights.seen) == 1 and texts == engine.generate([first, again], 6)


def test_pictures_that_differ_in_one_number_or_in_shape_are_different():
    model = tiny.build(dtype=torch.float32)
    engine = Engine(model, tiny.processor(model))
    encoded = engine.processor.encode(tiny.samples()[0])
    [patches], [size] = encoded.patches, encoded.grid
    other = patches.clone()
    other[3, 2] += 1
    pairs = ((patches, size), (other, size), (patches, size[::-1]), (patches.clone(), size))
    one, two, three, same = engine.sights.look([Sight.of(*pair) for pair in pairs])
    assert len(engine.sights.seen) == 3 and not torch.equal(one, two) and not torch.equal(one, three)
    assert torch.equal(one, same)


def test_waves_of_rows_change_nothing():
    model = tiny.build(dtype=torch.float32)
    wide, narrow = Engine(model, tiny.processor(model)), Engine(model, tiny.processor(model), rows=2)
    way = sample.Config(temperature=2.0)
    assert wide.generate(tiny.samples(), 9, way, seed=3) == narrow.generate(tiny.samples(), 9, way, seed=3)


def test_draws_follow_the_seed_and_the_probabilities():
    model = tiny.build(dtype=torch.float32)
    engine = Engine(model, tiny.processor(model))
    one, way = tiny.samples()[1], sample.Config(temperature=1.0)
    assert engine.generate([one], 9, way, seed=1) == engine.generate([one], 9, way, seed=1)
    assert engine.generate([one], 9, way, seed=1) != engine.generate([one], 9, way, seed=2)
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    drawn = [sample.Sample(way).choose(logits, [Request([], 1, seed)])[0] for seed in range(3000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / 3000
    assert (shares - logits.exp()[0]).abs().max() < 0.04


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (sample.Config(top_k=2), [0, 1]),
        (sample.Config(top_p=0.5), [0]),
        (sample.Config(top_p=0.51), [0, 1]),
        (sample.Config(top_p=0.96), [0, 1, 2, 3]),
        (sample.Config(top_k=3, top_p=0.9), [0, 1, 2]),
        (sample.Config(top_k=99), [0, 1, 2, 3]),
    ],
)
def test_narrowing_keeps_the_likeliest(config, kept):
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert sample.Sample(config).narrow(logits).isfinite().nonzero()[:, 1].tolist() == kept


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda e, s: e.generate([s], 0), "max_new_tokens"),
        (lambda e, s: e.generate([s], 5, stop="User"), "list"),
        (lambda e, s: e.generate([s], 5, stop=[""]), "non-empty"),
        (lambda e, s: e.generate([s], 40000), "32768 positions"),
        (lambda e, s: list(e.stream(s, 5, beam.Config())), "beam search"),
        (lambda e, s: e.generate([Sample(())], 5), "empty"),
    ],
)
def test_requests_that_cannot_be_served(engine, call, says):
    with pytest.raises(ValueError, match=says):
        call(engine, tiny.samples()[0])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: greedy.Config(0.0), "repetition_penalty"),
        (lambda: sample.Config(temperature=0.0), "temperature"),
        (lambda: sample.Config(top_p=0.0), "top_p"),
        (lambda: beam.Config(beams=1), "beams"),
    ],
)
def test_settings_without_meaning_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_engine_takes_no_samples_and_gives_no_texts(engine):
    assert engine.generate([]) == []


def test_requests_of_one_engine_do_not_share_generators():
    """A generator belongs to its request, not to a place in memory that another request may take over."""
    drawing = sample.Sample(sample.Config())
    logits = torch.zeros(1, 50)
    drawn = [drawing.choose(logits, [Request([], 1, seed=7)]) for _ in range(20)]
    assert len({tuple(d) for d in drawn}) == 1


@pytest.mark.parametrize(
    "extreme",
    [{"temperature": 1e-300}, {"temperature": 1e300}, {"repetition_penalty": 1e-300}, {"repetition_penalty": 1e300}],
)
def test_extreme_settings_of_sampling_still_draw_a_token(extreme):
    way = sample.Config(**extreme).build()
    logits = torch.tensor([[0.0, 5.0, -3.0, 5.0, -torch.inf]])
    request = Request([1], 8, 0)
    (token,) = way.choose(way.prepare(logits, [request], torch.tensor([], dtype=torch.long)), [request])
    assert token in ({1, 3} if extreme == {"temperature": 1e-300} else {0, 1, 2, 3})


def test_what_requests_ask_for_is_not_kept_when_they_are_over(engine):
    """Each temperature and each penalty is a way of decoding of its own; none of them stays."""
    (one, *_) = tiny.samples()
    for at in range(30):
        engine.generate([one], 2, sample.Config(1.0 + at / 100, 1.0 + at / 50, 3 + at), stop=[f"stop {at}"], seed=at)
    gc.collect()
    assert len(engine._methods) <= 2
