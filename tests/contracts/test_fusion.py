"""What every fusion keeps: documents do not see each other, nor the future, and a cache changes nothing."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.tiny import FUSION, IMAGE, Document, alone, build, far, lay, picture, text
from vlmlab.batch import Batch, Images
from vlmlab.component import plugins
from vlmlab.model.cache import Cache
from vlmlab.model.fusion import FusionConfig
from vlmlab.model.vlm import VLM

BOUND = 1e-9

every_fusion = pytest.mark.parametrize("name", plugins(FusionConfig))


@pytest.fixture(scope="module", params=plugins(FusionConfig))
def model(request: pytest.FixtureRequest) -> VLM:
    assert request.param in FUSION, f"give the new fusion plug-in {request.param} a tiny table in tests/model/tiny.py"
    return build(fusion=request.param)


DOCUMENTS: list[Document] = [
    [*text(3, 1), picture(3, 4), *text(4, 2)],
    text(9, 3),
    [picture(2, 2), picture(5, 3), *text(2, 4)],
    [*text(2, 5), picture(3, 4, 1), *text(6, 6), picture(1, 5), *text(3, 7)],
    text(1, 8),
    [picture(4, 4)],
    [*text(3, 9), picture(3, 4, 2), *text(4, 10)],
]


def test_packed_is_alone(model: VLM) -> None:
    rows = [[DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[2]], [DOCUMENTS[3]], [DOCUMENTS[4], [], DOCUMENTS[5], DOCUMENTS[6]]]
    batch, places = lay(model, rows, width=48)
    with torch.no_grad():
        logits = model(batch)
    documents = [document for row in rows for document in row]
    assert len(documents) == len(places)
    for document, (row, start, end) in zip(documents, places, strict=True):
        if document:
            assert far(logits[row, start:end], alone(model, document)) < BOUND


pieces = st.lists(
    st.one_of(
        st.integers(1, IMAGE - 1),
        st.builds(picture, st.integers(1, 4), st.integers(1, 4), st.integers(0, 9)),
    ),
    min_size=1,
    max_size=9,
)


@every_fusion
@settings(max_examples=20)
@given(rows=st.lists(st.lists(pieces, min_size=1, max_size=4), min_size=1, max_size=3), spare=st.integers(0, 3))
def test_packed_is_alone_however_it_is_packed(name: str, rows: list[list[Document]], spare: int) -> None:
    model = build(fusion=name)
    widest = lay(model, rows)[0].tokens.shape[1]
    batch, places = lay(model, rows, widest + spare)
    with torch.no_grad():
        logits = model(batch)
    for document, (row, start, end) in zip(itertools.chain.from_iterable(rows), places, strict=True):
        assert far(logits[row, start:end], alone(model, document)) < BOUND


def test_text_only_works(model: VLM) -> None:
    logits = alone(model, text(12))
    assert logits.shape == (12, 103) and logits.isfinite().all()


def test_the_future_is_not_seen(model: VLM) -> None:
    before = [*text(4, 1), picture(3, 4), *text(5, 2)]
    after = [picture(2, 3), *text(4, 3)]
    other = [*text(3, 4), picture(2, 3, 5), *text(1, 5)]
    first, second = alone(model, [*before, *after]), alone(model, [*before, *other])
    length = len(first) - len(alone(model, after))
    assert far(first[:length], second[:length]) < BOUND
    assert far(first[-1:], second[-1:]) > 1e-3


def test_an_image_is_seen_by_what_follows(model: VLM) -> None:
    one = alone(model, [*text(4, 1), picture(3, 4, 1), *text(5, 2)])
    two = alone(model, [*text(4, 1), picture(3, 4, 2), *text(5, 2)])
    moved = (one - two).abs().amax(-1)
    assert moved[:4].max() == 0 and moved[-5:].min() > 1e-3


def test_every_parameter_gets_a_gradient(model: VLM) -> None:
    model.zero_grad()
    batch, _ = lay(model, [[DOCUMENTS[0], DOCUMENTS[1]], [DOCUMENTS[3]]])
    model(batch).pow(2).mean().backward()
    for path, parameter in model.named_parameters():
        if path.endswith("attention.k.bias"):  # shifts every score of a query alike: softmax does not see it
            continue
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-7, path
    model.zero_grad()


def test_counts_must_agree(model: VLM) -> None:
    batch, _ = lay(model, [[[*text(3), picture(3, 4), 5]]])
    images = Images.join([picture(3, 4), picture(3, 4)])
    with pytest.raises(ValueError, match=r"the batch has \d+ image tokens for \d+ (visual tokens|images)"):
        model(Batch(batch.tokens, batch.segments, batch.positions, images=images))
    with pytest.raises(ValueError, match=r"image tokens for 0"):
        model(Batch(batch.tokens, batch.segments, batch.positions))


class Reader:
    """Reads documents through a cache, in whatever pieces a test asks for."""

    def __init__(self, model: VLM, slots: int, capacity: int = 64) -> None:
        self.model, self.cache = model, model.language.cache(slots, capacity)

    def read(self, parts: dict[int, tuple[list[int], Tensor | None, list[int]]]) -> dict[int, Tensor]:
        """Tokens, visual tokens and their counts for each slot; the logits of each slot's tokens."""
        width = max(len(tokens) for tokens, _, _ in parts.values())
        grid = torch.tensor(
            [
                [
                    (tokens[at], 1, self.cache.lengths[slot] + at) if at < len(tokens) else (0, 0, 0)
                    for at in range(width)
                ]
                for slot, (tokens, _, _) in parts.items()
            ]
        )
        seen = [visual for _, visual, _ in parts.values() if visual is not None]
        counts = [count for _, _, counts in parts.values() for count in counts]
        with torch.no_grad():
            logits = self.model.read(
                Batch(*grid.unbind(-1)),
                torch.cat(seen) if seen else None,
                counts,
                cache=self.cache,
                slots=list(parts),
            )
        return {slot: logits[i, : len(tokens)] for i, (slot, (tokens, _, _)) in enumerate(parts.items())}


def cut(model: VLM, document: Document, bounds: Sequence[int]) -> list[tuple[list[int], Tensor | None, list[int]]]:
    """A document's tokens in chunks that end at `bounds`, each with the visual tokens of its own image tokens."""
    batch, _ = lay(model, [[document]])
    tokens = batch.tokens[0].tolist()
    if batch.images is None:
        return [(tokens[a:b], None, []) for a, b in itertools.pairwise([0, *bounds, len(tokens)])]
    with torch.no_grad():
        visual = model.see(batch.images)
    counts = model.count(batch.images.grid)
    each = model.fusion.shares(counts)
    assert len(each) == tokens.count(IMAGE)
    ends = [0, *itertools.accumulate(each)]
    chunks = []
    for a, b in itertools.pairwise([0, *bounds, len(tokens)]):
        first, last = tokens[:a].count(IMAGE), tokens[:b].count(IMAGE)
        own = visual[ends[first] : ends[last]] if last > first else None
        chunks.append((tokens[a:b], own, each[first:last]))
    return chunks


@pytest.mark.parametrize("bounds", [[], [1], [5], [3, 4, 5, 6, 7], list(range(1, 14))])
def test_chunked_prefill_is_one_reading(model: VLM, bounds: list[int]) -> None:
    document = [*text(3, 1), picture(3, 4), *text(4, 2), picture(2, 2), *text(9, 3)]
    reader = Reader(model, 1)
    logits = torch.cat([reader.read({0: chunk})[0] for chunk in cut(model, document, bounds)])
    assert far(logits, alone(model, document)) < BOUND
    assert reader.cache.lengths == [len(logits)]


def test_cached_rows_of_different_lengths_and_images(model: VLM) -> None:
    prompts = [DOCUMENTS[3], DOCUMENTS[1], DOCUMENTS[2], DOCUMENTS[0]]
    answers = [text(12, 20 + at) for at in range(4)]
    reader = Reader(model, 4)
    got = {
        slot: [logits]
        for slot, logits in reader.read({at: cut(model, p, [])[0] for at, p in enumerate(prompts)}).items()
    }
    for step in range(12):
        for slot, logits in reader.read({at: ([answers[at][step]], None, []) for at in range(4)}).items():
            got[slot].append(logits)
    for at, prompt in enumerate(prompts):
        assert far(torch.cat(got[at]), alone(model, [*prompt, *answers[at]])) < BOUND


def test_slots_may_be_read_in_any_order_and_beside_each_other(model: VLM) -> None:
    first, second = [DOCUMENTS[0], [7, picture(2, 3), 8, 9]]
    reader = Reader(model, 3)
    reader.read({2: cut(model, first, [])[0]})
    got = reader.read({1: cut(model, second, [])[0], 2: ([11, 12, 13], None, [])})
    assert far(got[1], alone(model, second)) < BOUND
    assert far(got[2], alone(model, [*first, 11, 12, 13])[-3:]) < BOUND
    got = reader.read({2: ([14], None, []), 1: ([15], None, [])})
    assert far(got[2], alone(model, [*first, 11, 12, 13, 14])[-1:]) < BOUND
    assert far(got[1], alone(model, [*second, 15])[-1:]) < BOUND


def test_a_turn_with_another_image_follows(model: VLM) -> None:
    turns = [[*text(3, 1), picture(3, 4), 5, 6], [7, picture(2, 5), 8, picture(3, 4, 3)], [9, 10, 11]]
    reader = Reader(model, 1)
    logits = torch.cat([reader.read({0: cut(model, turn, [])[0]})[0] for turn in turns])
    assert far(logits, alone(model, [piece for turn in turns for piece in turn])) < BOUND


def test_rewound_is_never_read(model: VLM) -> None:
    start, wrong, right = [*text(3, 1), picture(3, 4), 5], [6, picture(2, 5), 7], [8, 9, 10]
    reader = Reader(model, 1)
    reader.read({0: cut(model, start, [])[0]})
    length = reader.cache.lengths[0]
    reader.read({0: cut(model, wrong, [])[0]})
    reader.cache.rewind(0, length)
    assert far(reader.read({0: (right, None, [])})[0], alone(model, [*start, *right])[-3:]) < BOUND
    reader.cache.rewind(0)
    assert far(reader.read({0: (right, None, [])})[0], alone(model, right)) < BOUND


def test_a_copied_prefix_goes_its_own_way(model: VLM) -> None:
    start = [*text(3, 1), picture(3, 4), 5]
    more, less = [6, picture(2, 5), 7], [8, 9]
    reader = Reader(model, 2)
    reader.read({0: cut(model, start, [])[0]})
    length = reader.cache.lengths[0]
    reader.read({0: cut(model, more, [])[0]})
    reader.cache.copy(0, 1, length)
    got = reader.read({0: (less, None, []), 1: (less, None, [])})
    assert far(got[0], alone(model, [*start, *more, *less])[-2:]) < BOUND
    assert far(got[1], alone(model, [*start, *less])[-2:]) < BOUND


@pytest.mark.parametrize("swaps", [[(0, 2)], [(2, 0), (0, 1)], [(1, 3), (3, 0), (2, 2)]])
def test_slots_change_places(model: VLM, swaps: list[tuple[int, int]]) -> None:
    starts: list[Document] = [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[2], []]
    reader, order = Reader(model, 4), [0, 1, 2, 3]
    reader.read({at: cut(model, start, [])[0] for at, start in enumerate(starts) if start})
    for one, other in swaps:
        reader.cache.swap(one, other)
        order[one], order[other] = order[other], order[one]
    got = reader.read({at: ([50 + at], None, []) for at in range(4)})
    for at, source in enumerate(order):
        assert far(got[at], alone(model, [*starts[source], 50 + at])[-1:]) < BOUND


def test_a_full_slot_says_so(model: VLM) -> None:
    reader = Reader(model, 1, capacity=6)
    reader.read({0: (text(5), None, [])})
    with pytest.raises(ValueError, match="slot 0 of the cache holds 5 of 6 tokens; 3 more do not fit"):
        reader.read({0: (text(3), None, [])})
    reader.read({0: ([1], None, [])})
    with pytest.raises(ValueError, match="slot 0"):
        reader.read({0: ([1], None, [])})


def test_two_documents_in_a_cached_row_are_refused(model: VLM) -> None:
    batch, _ = lay(model, [[text(3), text(4)]])
    with pytest.raises(ValueError, match="one document"):
        model.read(batch, cache=model.language.cache(1, 20))


def test_a_cache_is_empty_at_first(model: VLM) -> None:
    cache = model.language.cache(2, 10)
    assert isinstance(cache, Cache) and cache.lengths == [0, 0] and cache.memory == [[], []]
    assert (cache.slots, cache.capacity) == (2, 10)
