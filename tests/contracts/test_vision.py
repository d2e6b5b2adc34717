"""What every vision tower keeps: images do not disturb each other, any grid can be read, every parameter learns."""

import pytest
import torch

from model.tiny import VISION, far, pictures, scramble, tables
from vlmlab.batch import Images
from vlmlab.component import parse, plugins
from vlmlab.model.vision import Vision, VisionConfig

SIZES = [(3, 4), (1, 1), (4, 3), (5, 5), (3, 4), (2, 9), (12, 1)]

every_tower = pytest.mark.parametrize("name", plugins(VisionConfig))


def tower(name: str) -> Vision:
    assert name in VISION, f"give the new vision plug-in {name} a tiny table in tests/model/tiny.py"
    config = parse(VisionConfig, tables(vision=name)["vision"])
    return scramble(config.build()).double()


def split(values: torch.Tensor, images: Images) -> list[torch.Tensor]:
    return list(values.split([rows * columns for rows, columns in images.sizes()]))


@every_tower
def test_an_image_alone_is_the_image_in_company(name: str) -> None:
    model, images = tower(name), pictures(SIZES)
    with torch.no_grad():
        together = split(model(images), images)
        for patches, size, features in zip(split(images.patches, images), SIZES, together, strict=True):
            assert features.shape == (size[0] * size[1], model.width)
            assert far(features, model(Images(patches, torch.tensor([size])))) < 1e-9


@every_tower
def test_the_order_of_images_does_not_matter(name: str) -> None:
    model, images = tower(name), pictures(SIZES)
    order = [4, 2, 0, 6, 1, 5, 3]
    patches = split(images.patches, images)
    shuffled = Images(torch.cat([patches[i] for i in order]), images.grid[order])
    with torch.no_grad():
        straight, crooked = split(model(images), images), split(model(shuffled), shuffled)
    for place, image in enumerate(order):
        assert far(crooked[place], straight[image]) < 1e-9


@every_tower
def test_the_grid_counts_not_only_the_number_of_patches(name: str) -> None:
    model, image = tower(name), pictures([(2, 6)])
    with torch.no_grad():
        wide, tall = model(image), model(Images(image.patches, torch.tensor([[6, 2]])))
    assert far(wide, tall) > 1e-3


@every_tower
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = tower(name)
    model(pictures([(7, 7), (3, 4), (5, 5), (4, 4)])).pow(3).sum().backward()
    for path, parameter in model.named_parameters():
        if path.endswith("attention.k.bias"):  # shifts every score of a query alike: softmax does not see it
            continue
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, path


@every_tower
def test_an_image_gets_no_gradient_from_another(name: str) -> None:
    model, images = tower(name), pictures([(3, 4), (3, 4), (2, 2)])
    patches = images.patches.clone().requires_grad_()
    split(model(Images(patches, images.grid)), images)[1].sum().backward()
    own = [float(part.abs().max()) for part in split(patches.grad, images)]
    assert own[1] > 0 and own[0] == own[2] == 0


@every_tower
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_single(name: str, dtype: torch.dtype) -> None:
    model, images = tower(name), pictures([(3, 4), (5, 5)])
    with torch.no_grad():
        single, half = model(images), model.to(dtype)(images)
    assert half.dtype == dtype and far(half, single) < 0.1
