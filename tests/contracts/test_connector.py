"""What every connector keeps: it makes as many visual tokens as it says, each image's from that image alone."""

import pytest
import torch

from model.tiny import CONNECTOR, GRID, far, pictures, scramble, tables
from vlmlab.batch import Images
from vlmlab.component import parse, plugins
from vlmlab.model.connectors import Connector, ConnectorConfig, perceiver

VISION_WIDTH, LANGUAGE_WIDTH = 24, 32
FIXED = {"linear"}
"""Connectors that read one grid only."""

every_connector = pytest.mark.parametrize("name", plugins(ConnectorConfig))


def connector(name: str) -> Connector:
    assert name in CONNECTOR, f"give the new connector plug-in {name} a tiny table in tests/model/tiny.py"
    config = parse(ConnectorConfig, tables(connector=name)["connector"])
    return scramble(config.build(VISION_WIDTH, LANGUAGE_WIDTH)).double()


def sizes(name: str) -> list[tuple[int, int]]:
    return [GRID] * 4 if name in FIXED else [(3, 4), (1, 1), (4, 3), (2, 9), (5, 5), (3, 4)]


def seen(name: str) -> tuple[torch.Tensor, Images]:
    images = pictures(sizes(name))
    return torch.randn(len(images.patches), VISION_WIDTH, generator=torch.Generator().manual_seed(3)).double(), images


@every_connector
def test_it_makes_what_it_counts(name: str) -> None:
    model = connector(name)
    features, images = seen(name)
    counts = model.count(images.grid)
    assert len(counts) == len(images.grid) and min(counts) > 0
    assert model(features, images).shape == (sum(counts), model.width) == (sum(counts), LANGUAGE_WIDTH)


@every_connector
def test_an_image_alone_is_the_image_in_company(name: str) -> None:
    model = connector(name)
    features, images = seen(name)
    with torch.no_grad():
        together = model(features, images).split(model.count(images.grid))
        at = 0
        for (rows, columns), visual in zip(images.sizes(), together, strict=True):
            own = slice(at, at + rows * columns)
            one = Images(images.patches[own], torch.tensor([[rows, columns]]))
            assert far(visual, model(features[own], one)) < 1e-9
            at += rows * columns


@every_connector
def test_every_parameter_and_every_patch_gets_a_gradient(name: str) -> None:
    model = connector(name)
    features, images = seen(name)
    features.requires_grad_()
    model(features, images).pow(3).sum().backward()
    for path, parameter in model.named_parameters():
        if path.endswith("attention.k.bias"):  # shifts every score of a query alike: softmax does not see it
            continue
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, path
    assert features.grad.abs().sum(1).min() > 0


@every_connector
def test_an_image_gets_no_gradient_from_another(name: str) -> None:
    model = connector(name)
    features, images = seen(name)
    features.requires_grad_()
    model(features, images).split(model.count(images.grid))[0].sum().backward()
    first = images.sizes()[0][0] * images.sizes()[0][1]
    assert features.grad[:first].abs().min(1).values.max() > 0 and features.grad[first:].abs().max() == 0


@every_connector
def test_half_precision_is_near_single(name: str) -> None:
    model = connector(name)
    features, images = seen(name)
    with torch.no_grad():
        single, half = model(features, images), model.to(torch.bfloat16)(features.to(torch.bfloat16), images)
    assert half.dtype == torch.bfloat16 and far(half, single) < 0.1


def test_one_grid_only_names_the_grid() -> None:
    model = connector("linear")
    with pytest.raises(ValueError, match=r"image 1 has a grid of 2 x 9 patches, .* only 3 x 4"):
        model.count(torch.tensor([GRID, (2, 9)]))
    images = pictures([(4, 3)])
    with pytest.raises(ValueError, match="4 x 3"):
        model(torch.randn(12, VISION_WIDTH), images)


@pytest.mark.parametrize("init", ["reference", "unit"])
def test_the_perceiver_starts_at_the_scale_it_was_given(init: str) -> None:
    """The root mean square of the first visual tokens is `scale`; `unit` keeps the variance through each product."""
    torch.manual_seed(0)
    shape = {"latents": 8, "depth": 2, "projection_inner": 96, "heads": 2, "kv_heads": 1, "head_width": 32}
    made = parse(ConnectorConfig, {"name": "perceiver", **shape, "init": init, "scale": 0.25}).build(48, 64)
    assert isinstance(made, perceiver.Perceiver)
    images = Images(torch.zeros(12, 0), torch.tensor([[3, 4]]))
    with torch.no_grad():
        visual = made(torch.randn(12, 48), images)
    torch.testing.assert_close(visual.pow(2).mean(1).sqrt(), torch.full((8,), 0.25), rtol=1e-3, atol=0)
    spread = made.projection.gate.weight.std().item()
    assert spread == pytest.approx(48**-0.5 if init == "unit" else (0.4 / 64) ** 0.5, rel=0.1)
    assert made.latents.std().item() == pytest.approx(1.0 if init == "unit" else 64**-0.5, rel=0.15)
