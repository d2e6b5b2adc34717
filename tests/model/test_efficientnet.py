"""The convolutional tower's own: its published size, how its numbers fit together, what a cell sees, a random one."""

from typing import Any

import pytest
import torch

from model.tiny import pictures, tables
from vlmlab.component import parse
from vlmlab.model.count import describe
from vlmlab.model.vision import VisionConfig
from vlmlab.model.vlm import VLMConfig


def test_lite0s_published_size() -> None:
    """4.65 million weights, of them 1.281 in the classifier; a norm's two a channel are one bias here. 0.4 GMACs."""
    config = parse(VLMConfig, tables() | {"vision": {"name": "efficientnet"}})
    vision = next(part for part in describe(config, [(7, 7)], text=1).parts if part.name == "vision")
    channels = 21_008
    assert vision.parameters == 4_652_008 - 1_281_000 - channels
    assert 0.37e9 < vision.prefill / 2 < 0.41e9


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"widths": [8, 8]}, "a number for each stage"),
        ({"kernels": [3, 4, 3]}, r"kernels = \[3, 4, 3\]"),
        ({"strides": [1, 3, 1]}, r"strides = \[1, 3, 1\]"),
        ({"strides": [1, 2, 1]}, "patch is 2, but the stem and the strides make 4"),
    ],
)
def test_numbers_that_do_not_fit(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(VisionConfig, tables(vision="efficientnet")["vision"] | changes)


def test_a_random_tower_is_neither_dead_nor_saturated() -> None:
    torch.manual_seed(0)
    tower = parse(VisionConfig, {"name": "efficientnet"}).build()
    with torch.no_grad():
        features = tower(pictures([(2, 2)], 32))
    assert features.std() > 0.2 and (features > 0).float().mean() > 0.25 and (features == 6).float().mean() < 0.1


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_cell_is_seen_with_what_is_around_it(kernel: int) -> None:
    """A feature looks at cells around its own, three further at most: the grid put back is the one that was cut."""
    config = tables(vision="efficientnet")["vision"] | {"patch": 4, "strides": [1, 2, 1], "kernels": [3, kernel, 3]}
    config["blocks"] = [1, 1, 1]
    torch.manual_seed(0)
    tower = parse(VisionConfig, config).build().double()
    images = pictures([(8, 8)], 4)
    patches = images.patches.double().requires_grad_()
    features = tower(type(images)(patches, images.grid))
    (gradient,) = torch.autograd.grad(features[18].sum(), patches)
    reached = gradient.abs().amax(1).view(8, 8) > 0
    assert reached[1:4, 1:4].all() and not reached[:, 6:].any() and not reached[6:].any()
