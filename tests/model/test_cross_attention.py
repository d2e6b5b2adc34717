"""Gated cross-attention: which image a token looks at, and that it begins as the language model itself."""

import pytest
import torch
from torch import Tensor

from model.tiny import IMAGE, alone, build, far, lay, picture, tables, text
from vlmlab.batch import Batch
from vlmlab.component import parse
from vlmlab.model.vlm import VLM, VLMConfig


def language_alone(model: VLM, batch: Batch) -> Tensor:
    """The decoder without any fusion."""
    reading = model.language.read(batch)
    x = model.language.embedding(batch.tokens.reshape(-1))
    x = x if reading.index is None else x[reading.index]
    for number, layer in enumerate(model.language.layers):
        x = layer(x, reading, number)
    x = model.language.norm(x)
    if reading.index is not None:
        x = x.new_zeros(batch.tokens.numel(), x.shape[1]).index_copy(0, reading.index, x)
    return model.language.head(x.view(*batch.tokens.shape, -1))


def test_it_begins_as_the_language_model() -> None:
    torch.manual_seed(0)
    model = VLM(parse(VLMConfig, tables(fusion="cross_attention")))
    batch, _ = lay(model, [[[5, picture(3, 4), 6, 7], [8, 9]], [[picture(2, 2), 10, 11]]])
    with torch.no_grad():
        assert torch.equal(model(batch), language_alone(model, batch))
    assert [float(gate.detach()) for name, gate in model.fusion.named_parameters() if name.endswith("_gate")] == [
        0.0
    ] * 4


def test_a_shut_gate_still_learns() -> None:
    torch.manual_seed(0)
    model = VLM(parse(VLMConfig, tables(fusion="cross_attention")))
    batch, _ = lay(model, [[[5, picture(3, 4), 6, 7]]])
    model(batch).pow(2).sum().backward()
    for name, parameter in model.fusion.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad.abs().max() > 0) == name.endswith("_gate"), name


def test_an_image_is_one_token() -> None:
    model = build(fusion="cross_attention")
    assert model.count(torch.tensor([[3, 4], [9, 9]])) == [3, 3]
    assert model.placeholders(torch.tensor([[3, 4], [9, 9]])) == [1, 1]
    assert lay(model, [[[1, picture(3, 4), 2]]])[0].tokens.tolist() == [[1, IMAGE, 2]]


def moved(model: VLM, document: list, other: list) -> list[bool]:
    return ((alone(model, document) - alone(model, other)).abs().amax(-1) > 1e-9).tolist()


def test_only_the_latest_image_is_looked_at() -> None:
    """With blocks before the first layer alone and a window of 1, a token knows nothing but its own image."""
    model = build(fusion="cross_attention", changes={"fusion.every": 4, "language.window": 1})
    first, second = picture(3, 4, 1), picture(2, 5, 2)
    document = [1, 2, first, 3, 4, second, 5, 6]
    assert (
        moved(model, document, [1, 2, picture(3, 4, 3), 3, 4, second, 5, 6]) == [False] * 2 + [True] * 3 + [False] * 3
    )
    assert moved(model, document, [1, 2, first, 3, 4, picture(2, 5, 4), 5, 6]) == [False] * 5 + [True] * 3


def test_a_packed_document_does_not_inherit_an_image() -> None:
    model = build(fusion="cross_attention")
    batch, places = lay(model, [[[1, picture(3, 4), 2], [3, 4, 5], [6, picture(2, 2), 7]]])
    with torch.no_grad():
        logits = model(batch)[0]
    assert far(logits[places[1].start : places[1].end], alone(model, [3, 4, 5])) < 1e-9


def test_without_an_image_attention_adds_nothing() -> None:
    """The MLP of a block still passes its gate, as in Idefics1; attention's weights make no difference."""
    model = build(fusion="cross_attention")
    before = alone(model, text(6))
    with torch.no_grad():
        for name, parameter in model.fusion.named_parameters():
            if ".attention" in name:
                parameter.mul_(3)
    assert torch.equal(alone(model, text(6)), before)


@pytest.mark.parametrize(("every", "blocks"), [(1, 4), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_a_block_stands_before_every_kth_layer(every: int, blocks: int) -> None:
    assert len(build(fusion="cross_attention", changes={"fusion.every": every}).fusion.blocks) == blocks


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="every is 0"):
        build(fusion="cross_attention", changes={"fusion.every": 0})
    with pytest.raises(ValueError, match=r"heads \(4\) must be a multiple of kv_heads \(3\)"):
        build(fusion="cross_attention", changes={"fusion.kv_heads": 3})


def test_the_resampler_may_stay_at_the_vision_towers_width() -> None:
    model = build(fusion="cross_attention", changes={"connector.projection": "none"})
    assert model.connector.width == model.vision.width != model.language.config.width
    assert alone(model, [1, picture(3, 4), 2]).isfinite().all()


def test_a_slot_keeps_its_own_images_only() -> None:
    model = build(fusion="cross_attention")
    batch, _ = lay(model, [[[1, picture(3, 4), 2]], [[3, picture(2, 2), 4]]])
    cache = model.language.cache(2, 8)
    with torch.no_grad():
        model.read(batch, model.see(batch.images), cache=cache)
    for slot in (0, 1):
        ((position, keys),) = cache.memory[slot]
        assert position == 1 and len(keys) == 2
        k, v = keys[0]
        assert k.shape == v.shape == (3, 2, 8)
        assert k.untyped_storage().nbytes() == k.numel() * k.element_size()


def test_gradients_reach_the_vision_tower_through_every_image() -> None:
    model = build(fusion="cross_attention")
    batch, _ = lay(model, [[[1, picture(3, 4), 2], [picture(2, 2), 3, picture(3, 4, 2), 4]]])
    batch.images.patches.requires_grad_()
    model(batch).pow(2).sum().backward()
    assert batch.images.patches.grad.abs().sum(1).min() > 0
