"""Where answers looked: models that can look at one place alone, the books that must balance, and what is refused."""

import contextlib
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from generate import tiny
from generate.law import ask
from vlmlab.batch import Sample
from vlmlab.generate import looking, worker
from vlmlab.generate.answers import Overloaded, Settings, TooLong
from vlmlab.generate.engine import Engine
from vlmlab.processor.processor import Options

PATIENCE = 60.0
"""Seconds that a test waits before it gives up."""

WIDTH, HEIGHT = 20, 14
"""Of the pictures, in pixels: 7 rows of 10 patches."""


class Eye(nn.Module):
    """Sees two things of a patch: that it is there, and whether it is bright."""

    width = 24

    def forward(self, images):
        seen = torch.zeros(len(images.patches), self.width)
        seen[:, 0], seen[:, 1] = 1, (images.patches.mean(1) > 0).float()
        return seen


def planted(**names):
    """A model in which every query means "here" and every key means "bright", and nothing else is computed."""
    changes = {"language.layers": 2, "language.window": None, "language.theta": 1e12}
    if names["connector"] == "perceiver":
        changes["connector.projection"] = "linear"
    model = tiny.build(dtype=torch.float32, changes=changes, **names)
    model.vision = Eye()
    attentions = [layer.attention for layer in model.language.layers]
    with torch.no_grad():
        for part in (model.connector, model.language, model.fusion):
            for name, parameter in part.named_parameters():
                parameter.fill_(0.9 if name.endswith("attention_gate") else float("norm" in name))
        model.language.embedding.weight[:, 0] = 1
        model.connector.projection.weight[[0, 1], [0, 1]] = torch.tensor([1.0, 9.0])
        if isinstance(model.connector, looking.Perceiver):
            model.connector.latents[:, 0] = 1
            attentions += [layer.attention for layer in model.connector.layers]
        if isinstance(model.fusion, looking.CrossAttention):
            attentions += [block.attention for block in model.fusion.blocks]
        for attention in attentions:
            slow = attention.head_width // 2 - 1  # the number of each head that positions hardly turn
            attention.q.weight[slow :: attention.head_width, 0] = 4
            attention.k.weight[slow :: attention.head_width, 1] = 4
    return model


def dark(bright=None):
    """A black picture; `bright`: the row and column of its one white patch."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    if bright is not None:
        row, column = bright
        pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 255
    return PIL.Image.fromarray(pixels)


def looked(model, sample, **more):
    return Engine(model, tiny.processor(model)).look(sample, **more).result(0)


@pytest.mark.parametrize("place", [(0, 0), (3, 8), (6, 9)])
@pytest.mark.parametrize(
    ("connector", "fusion", "bright", "much"),
    [
        ("per_patch", "interleave", 0, 1.0),
        ("per_patch", "interleave", 1, 1.0),
        ("perceiver", "interleave", 0, 0.5),  # its latents all say the same: half of them are of the other picture
        ("perceiver", "interleave", 1, 0.5),
        ("per_patch", "cross_attention", 1, 1.0),
        ("perceiver", "cross_attention", 1, 1.0),
    ],
)
def test_a_model_that_can_look_at_one_place_alone(connector, fusion, bright, much, place):
    model = planted(connector=connector, fusion=fusion)
    pictures = [dark(), dark()]
    pictures[bright] = dark(place)
    seen = looked(model, ask("ab", *pictures), written=[5, 6, 7])
    assert seen.tokens == [5, 6, 7] and seen.grid == [(7, 10), (7, 10)]
    for row, other, share in zip(seen.maps[bright], seen.maps[1 - bright], seen.share, strict=True):
        assert divmod(int(row.argmax()), 10) == place
        assert float(row.max()) == pytest.approx(much, abs=0.01) and float(row.sum() + other.sum()) == pytest.approx(1)
        if fusion == "cross_attention":
            assert float(share) == pytest.approx(np.tanh(0.9))
        elif connector == "per_patch":
            assert float(share) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("fusion", ["interleave", "cross_attention"])
@pytest.mark.parametrize("started", [False, True])
def test_an_answer_of_an_engine_is_looked_into(fusion, started):
    model = tiny.build(dtype=torch.float32, fusion=fusion, changes={"language.window": None})
    engine = Engine(model, tiny.processor(model), rows=2, capacity=300)
    asked = ask("What?", tiny.picture(20, 14, 1), tiny.picture(33, 33, 2), before="Hm?")
    with engine if started else contextlib.nullcontext():
        [answer] = engine.answers([asked], 6)
        seen = engine.look(asked, answer.tokens).result(PATIENCE)
        again = engine.answers([asked], 6)
    assert seen.tokens == answer.tokens and [again[0].tokens] == [answer.tokens]
    assert seen.prompt_tokens == answer.cost.prompt_tokens and seen.visual_tokens == answer.cost.visual_tokens
    assert seen.grid == [(7, 10), (16, 16)] and [tuple(m.shape) for m in seen.maps] == [(6, 70), (6, 256)]
    assert torch.allclose(sum(m.sum(1) for m in seen.maps), torch.ones(6), atol=1e-5)
    assert bool(((seen.share > 0) & (seen.share < 1)).all()) and seen.seconds > 0
    if fusion == "cross_attention":
        assert not seen.maps[0].any()  # every token after it reads the latest picture


def test_an_answer_as_text_is_the_same_as_its_tokens():
    model = tiny.build(dtype=torch.float32)
    picture = tiny.picture(20, 14, 1)
    engine = Engine(model, tiny.processor(model))
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    turns += [{"role": "assistant", "content": "One."}, {"role": "user", "content": "And?"}]
    told = Sample.from_messages([*turns, {"role": "assistant", "content": "Two"}], images=[picture])
    before = Sample.from_messages(turns, images=[picture])
    written = engine.processor.tokenizer.encode(" Two", add_special_tokens=False).ids
    one, other = engine.look(told).result(0), engine.look(before, written).result(0)
    assert one.tokens == other.tokens == written
    assert one.prompt_tokens == other.prompt_tokens and torch.equal(one.maps[0], other.maps[0])
    parts = engine.look(told, options=Options(split=True)).result(0)
    assert len(parts.grid) == 5


def test_a_token_has_the_map_of_the_row_that_wrote_it():
    model = tiny.build(dtype=torch.float32, changes={"language.window": None})
    asked = ask("What?", tiny.picture(20, 14, 1))
    one, last, first = (looked(model, asked, written=tokens).maps[0] for tokens in ([5, 6, 7], [5, 6, 8], [9, 6, 7]))
    assert torch.equal(one, last)  # nothing was written after it
    assert torch.equal(one[0], first[0]) and not torch.allclose(one[1], first[1])


def test_what_is_not_looked_into(monkeypatch):
    model = tiny.build(dtype=torch.float32)
    engine = Engine(model, tiny.processor(model), capacity=200)
    seen, blind = ask("What?", tiny.picture(20, 14, 1)), ask("What?")
    for sample, written, told in (
        (seen, None, "last message should be the assistant's"),
        (seen, [], "no answer"),
        (blind, [5], "no picture"),
        (seen, [5] * 513, "longest that is has 512"),
    ):
        with pytest.raises(ValueError, match=told):
            engine.look(sample, written)
    monkeypatch.setattr(looking, "CELLS", 210)
    engine.look(seen, [5] * 3).result(0)
    with pytest.raises(ValueError, match="an answer of 3 tokens would do"):
        engine.look(seen, [5] * 4)
    with engine, pytest.raises(TooLong):
        monkeypatch.setattr(looking, "CELLS", 1 << 22)
        engine.look(seen, [5] * 190)
    other = tiny.build(dtype=torch.float32, connector="mapping")
    with pytest.raises(ValueError, match="Mapping, has no attention over patches"):
        looked(other, seen, written=[5])


def test_looking_waits_its_turn_between_steps(monkeypatch):
    model = tiny.build(dtype=torch.float32, changes={"language.window": None})
    asked = ask("What?", tiny.picture(20, 14, 1))
    begun, go = threading.Event(), threading.Event()
    look = looking.look

    def slowly(*given):
        begun.set()
        assert go.wait(PATIENCE)
        return look(*given)

    monkeypatch.setattr(looking, "look", slowly)
    engine = Engine(model, tiny.processor(model), rows=2, capacity=300).start()
    first = engine.look(asked, [5, 6])
    assert begun.wait(PATIENCE)
    more = [engine.look(asked, [5]) for _ in range(worker.ASIDES)]
    with pytest.raises(Overloaded):
        engine.look(asked, [5])
    handle = engine.submit(asked, Settings(8))
    more[0].cancel()
    go.set()
    assert len(first.result(PATIENCE).maps) == 1 and len(handle.result(PATIENCE).tokens) == 8
    with pytest.raises(CancelledError):
        more[0].result(PATIENCE)
    assert more[-1].result(PATIENCE).tokens == [5]

    go.clear()
    begun.clear()
    last, late = engine.look(asked, [5]), engine.look(asked, [6])
    assert begun.wait(PATIENCE)
    closing = threading.Thread(target=engine.close)
    thread = engine._worker
    closing.start()
    while not thread._closing:
        time.sleep(0.001)
    go.set()
    closing.join(PATIENCE)
    assert last.result(PATIENCE).tokens == [5]
    with pytest.raises(RuntimeError, match="closed"):
        late.result(PATIENCE)


def test_what_fails_is_told_and_harms_nobody():
    model = tiny.build(dtype=torch.float32, connector="mapping")
    asked = ask("What?", tiny.picture(20, 14, 1))
    with Engine(model, tiny.processor(model), rows=2, capacity=300) as engine:
        with pytest.raises(ValueError, match="Mapping"):
            engine.look(asked, [5]).result(PATIENCE)
        assert len(engine.submit(asked, Settings(3)).result(PATIENCE).tokens) == 3
