"""The model against transformers' Idefics2 on random weights: states, logits, gradients, caches, positions."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Idefics2ForConditionalGeneration
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionEmbeddings

from model.tiny import Document, far, lay, picture, text
from parity.idefics2 import SHAPES, Inputs, Shape, names, oracle, ours, write
from vlmlab.batch import Batch
from vlmlab.model.vision.siglip import buckets, single_range
from vlmlab.model.vlm import VLM

BOUND = 1e-5


class Pair:
    """Both models, and a batch of rows with several images, one image and none."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.theirs: Idefics2ForConditionalGeneration = oracle(shape)
        self.ours: VLM = ours(shape, self.theirs)
        self.documents: list[Document] = [
            [*text(3, 1), self.picture(10, 7), *text(5, 2), self.picture(3, 5), *text(9, 3)],
            [self.picture(25, 2), *text(2, 4)],
            text(21, 5),
            [5, self.picture(1, 1), self.picture(10, 7, 3), self.picture(2, 70), *text(4, 6)],
        ]

    def picture(self, rows: int, columns: int, seed: int = 0) -> Any:
        return picture(rows, columns, seed, self.shape.patch)

    def inputs(self, documents: list[Document] | None = None) -> Inputs:
        return write(self.ours, self.shape, documents or self.documents)


@pytest.fixture(scope="module", params=SHAPES, ids=list(SHAPES))
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(SHAPES[request.param])


def test_vision_states_and_connector(pair: Pair) -> None:
    batch, theirs = pair.inputs()
    size = pair.shape.patch
    pixels, mask = theirs["pixel_values"].flatten(0, 1), theirs["pixel_attention_mask"].flatten(0, 1)
    real = mask.flatten(1).any(1)
    pixels, mask = pixels[real], mask[real][:, ::size, ::size].bool()
    with torch.no_grad():
        states = pair.theirs.model.vision_model(pixel_values=pixels, patch_attention_mask=mask).last_hidden_state
        visual = pair.theirs.model.connector(states, attention_mask=mask.flatten(1))
        features = pair.ours.vision(batch.images)
        assert far(features, states[mask.flatten(1)]) < BOUND
        assert far(pair.ours.connector(features, batch.images), visual.flatten(0, 1)) < BOUND
        assert torch.equal(pair.ours.see(batch.images), pair.ours.see(batch.images, features))


def test_logits(pair: Pair) -> None:
    batch, theirs = pair.inputs()
    with torch.no_grad():
        expected, logits = pair.theirs(**theirs).logits, pair.ours(batch)
    real = batch.segments > 0
    assert far(logits[real], expected[real]) < BOUND


def test_text_alone(pair: Pair) -> None:
    batch, theirs = pair.inputs([text(30, 7), text(11, 8)])
    with torch.no_grad():
        real = batch.segments > 0
        assert far(pair.ours(batch)[real], pair.theirs(**theirs).logits[real]) < BOUND


def test_each_document_alone_in_a_batch_and_packed(pair: Pair) -> None:
    packed, places = lay(pair.ours, [pair.documents])
    padded, _ = pair.inputs()
    with torch.no_grad():
        one_row, many_rows = pair.ours(packed), pair.ours(padded)
        for at, (document, (row, start, end)) in enumerate(zip(pair.documents, places, strict=True)):
            expected = pair.theirs(**pair.inputs([document]).theirs).logits[0]
            assert far(pair.ours(pair.inputs([document]).batch)[0], expected) < BOUND
            assert far(one_row[row, start:end], expected) < BOUND
            assert far(many_rows[at, : end - start], expected) < BOUND


def test_rows_chooses_logits(pair: Pair) -> None:
    batch, _ = pair.inputs()
    rows = (batch.segments.flatten() > 0).nonzero().flatten()[::3]
    with torch.no_grad():
        chosen = pair.ours(batch, rows)
        assert far(chosen, pair.ours(batch).flatten(0, 1)[rows]) < 1e-6
        assert torch.equal(pair.ours(batch, rows, then=lambda hidden, head: head(hidden)), chosen)


def test_cached_reading(pair: Pair) -> None:
    """Prompts of different lengths and images, then token by token, against one uncached pass of transformers."""
    answers = [text(9, 30 + at) for at in range(len(pair.documents))]
    batch, _ = pair.inputs()
    cache = pair.ours.language.cache(len(answers), 128)
    lengths = batch.segments.sum(1).tolist()
    with torch.no_grad():
        logits = pair.ours.read(batch, pair.ours.see(batch.images), cache=cache)
        steps = [[logits[at, length - 1]] for at, length in enumerate(lengths)]
        for step in range(9):
            tokens = torch.tensor([[answer[step]] for answer in answers])
            one = Batch(tokens, torch.ones_like(tokens), torch.tensor(cache.lengths)[:, None])
            for at, row in enumerate(pair.ours.read(one, cache=cache)):
                steps[at].append(row[0])
        for document, answer, got in zip(pair.documents, answers, steps, strict=True):
            expected = pair.theirs(**pair.inputs([[*document, *answer]]).theirs).logits[0, -10:]
            assert far(torch.stack(got), expected) < BOUND


def test_gradients_of_a_training_step(pair: Pair) -> None:
    """The mean loss over what is learned (neither padding, nor images, nor the first half) has the same gradients."""
    batch, theirs = pair.inputs()
    learned = (batch.segments > 0) & (batch.tokens != 101) & (torch.arange(batch.tokens.shape[1]) > 4)
    labels = torch.where(learned, batch.tokens, -100)
    pair.theirs.zero_grad()
    pair.ours.zero_grad()
    expected = pair.theirs(**theirs, labels=labels).loss
    expected.backward()
    loss = cross_entropy(pair.ours(batch)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    assert abs(float(loss.detach() - expected.detach())) < 1e-5 * float(expected.detach())
    gradients = {name: parameter.grad for name, parameter in pair.ours.named_parameters()}
    checked = set()
    for name, parameter in pair.theirs.named_parameters():
        mine = names([name])[name]
        if mine.endswith("attention.k.bias"):  # nothing but rounding: softmax does not see it
            checked.add(mine)
            continue
        assert far(gradients[mine], parameter.grad.reshape(gradients[mine].shape)) < 1e-4, name
        checked.add(mine)
    assert checked == set(gradients)
    pair.ours.zero_grad()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    pair = Pair(SHAPES["grouped, window 7"])
    batch, _ = pair.inputs()
    real = batch.segments > 0
    with torch.no_grad():
        single = pair.ours(batch)
        half = pair.ours.to(dtype)(batch)
    assert half.dtype == dtype and far(half[real], single[real]) < 0.06


@pytest.mark.parametrize(("window", "length"), [(1, 9), (2, 9), (8, 8), (8, 9), (5, 40)])
def test_a_window_shorter_than_the_text(window: int, length: int) -> None:
    shape = SHAPES["grouped, window 7"]
    pair = Pair(shape._replace(language=shape.language | {"window": window}))
    batch, theirs = pair.inputs([text(length, 1), [pair.picture(2, 3), *text(length, 2)]])
    with torch.no_grad():
        real = batch.segments > 0
        assert far(pair.ours(batch)[real], pair.theirs(**theirs).logits[real]) < BOUND


# Positions.

LEGACY = {
    25: {5: 13, 10: 27, 15: 41, 20: 55},
    49: {7: 9, 14: 19, 35: 49, 42: 59},
    50: {5: 6, 10: 13, 15: 20, 20: 27, 30: 41, 40: 55},
    55: {11: 13, 22: 27, 33: 41, 44: 55},
    58: {29: 34},
}
"""The 19 places of 2,485 where the published arithmetic is not floor(70 i / n)."""

DRIFTED = {49: {28: (40, 39), 42: (59, 60)}, 58: {29: (34, 35)}}
"""Where transformers 5.23 differs: the published bucket, and its own."""

X86 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
"""`torch.arange` rounds otherwise on other processors: published code, and transformers' today, would differ there."""


def single(start: float, end: float, step: float) -> np.ndarray:
    """`arange` in single precision as the published code ran it: by hand, eight numbers at a time."""
    count = int(np.ceil((end - start) / step))
    values = np.empty(count, np.float32)
    for at in range(count):
        if at < count // 16 * 16:
            values[at] = float(np.float32(start + step * (at - at % 8))) + step * (at % 8)
        else:
            values[at] = start + step * at
    return values


def by_hand(count: int, side: int) -> list[int]:
    boundaries = single(1 / side, 1.0, 1 / side)
    fractions = single(0.0, 1 - 1e-6, float(np.float32(1) / np.float32(count)))
    return [int((boundaries <= fraction).sum()) for fraction in fractions]


def theirs_now(count: int, side: int) -> list[int]:
    """The rows of the table that transformers picks for a column of `count` patches."""
    config = oracle(SHAPES["tied, equal heads"]).config.vision_config
    config.image_size, config.hidden_size = side * config.patch_size, side
    embeddings = Idefics2VisionEmbeddings(config)
    with torch.no_grad():  # the table's row r holds r, in every number; the patches are nothing
        embeddings.position_embedding.weight.copy_(torch.arange(side**2, dtype=torch.float32)[:, None].expand(-1, side))
        embeddings.patch_embedding.weight.zero_()
        embeddings.patch_embedding.bias.zero_()
        pixels = torch.zeros(1, 3, count * config.patch_size, config.patch_size)
        out = embeddings(pixels, patch_attention_mask=torch.ones(1, count, 1, dtype=torch.bool))
    return [int(value) // side for value in out[0, :, 0]]


@pytest.mark.parametrize("count", range(1, 71))
def test_position_buckets(count: int) -> None:
    expected = [LEGACY.get(count, {}).get(at, 70 * at // count) for at in range(count)]
    assert list(buckets(count, 70)) == expected == by_hand(count, 70)
    if not X86:
        return
    now = theirs_now(count, 70)
    drift = {at: (a, b) for at, (a, b) in enumerate(zip(expected, now, strict=True)) if a != b}
    assert drift == DRIFTED.get(count, {})


def test_position_buckets_of_other_tables() -> None:
    for side, count in itertools.product((1, 2, 16, 27, 37, 64, 70), (*range(1, 40), 71, 96, 97, 140, 333)):
        assert list(buckets(count, side)) == by_hand(count, side)
        assert len(buckets(count, side)) == count and max(buckets(count, side)) < side


@pytest.mark.skipif(not X86, reason="only an x86 processor can tell; test_position_buckets pins the numbers")
def test_ranges_are_those_of_an_x86_processor() -> None:
    for count in range(1, 300):
        step = 1 / torch.tensor(count)
        assert torch.equal(single_range(1 - 1e-6, float(step)), torch.arange(0, 1 - 1e-6, step))
        assert torch.equal(single_range(1.0, 1 / count, 1 / count), torch.arange(1 / count, 1.0, 1 / count))


def test_a_small_image_spans_the_table() -> None:
    assert buckets(1, 70) == (0,) and buckets(2, 70) == (0, 35) and buckets(70, 70) == tuple(range(70))
