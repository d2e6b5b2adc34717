"""EfficientNet-Lite (Tan & Le, 2019; Liu, 2020): a convolutional tower, trained on ImageNet's classes.

A patch is a cell of the picture, as wide as all strides together: patches are put back to the picture that they were
cut from, and each cell becomes one feature, which has seen far beyond it. Pictures of one size are read together, those
of another after them: nothing is padded, but no product holds all of them.

Batch norms are frozen: with statistics that stay, each is part of the convolution before it (`fit.fold_norms`).

Axes of pictures: y rows and x columns of what goes in, r rows and q columns of what comes out.
"""

import dataclasses
import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vlmlab.batch import Images
from vlmlab.model.eager import uncompiled
from vlmlab.model.vision import Vision, VisionConfig


@dataclasses.dataclass(frozen=True)
class Config(VisionConfig):
    """The numbers of EfficientNet-Lite0, which was trained at 224 pixels: a grid of 7 x 7.

    Each of the other lists has a number for every stage; a stride is its first block's, `expansions` say how many times
    wider than its input a block is inside. The stem has a stride of 2.
    """

    width: int = 1280
    patch: int = 32
    stem: int = 32
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    blocks: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    kernels: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)

    def __post_init__(self) -> None:
        lists = (self.widths, self.blocks, self.kernels, self.strides, self.expansions)
        if len({len(numbers) for numbers in lists}) > 1:
            raise ValueError("widths, blocks, kernels, strides and expansions need a number for each stage")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"kernels = {list(self.kernels)}: they have a middle, so they are odd")
        if any(stride not in (1, 2) for stride in self.strides):
            raise ValueError(f"strides = {list(self.strides)}: they are 1 or 2")
        if self.patch != 2 * math.prod(self.strides):
            raise ValueError(f"patch is {self.patch}, but the stem and the strides make {2 * math.prod(self.strides)}")


class Convolution(nn.Conv2d):
    """A convolution with a bias, padded as TensorFlow does: with a stride of 2, windows stand around odd pixels.

    With `each`, every channel is read by itself; `activated` says whether an activation left what it reads. Weights are
    drawn so that numbers keep their size (He et al., 2015).
    """

    def __init__(
        self, width: int, out: int, kernel: int = 1, stride: int = 1, each: bool = False, activated: bool = True
    ) -> None:
        border, self.odd = divmod(kernel - stride, 2)
        super().__init__(width, out, kernel, stride, border, groups=width if each else 1)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu" if activated else "linear")
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "n i y x"]) -> Float[Tensor, "n o r q"]:
        """The convolution of pictures whose sides are whole strides."""
        return super().forward(F.pad(x, (0, 1, 0, 1)) if self.odd else x)


class Block(nn.Module):
    """Widen, look around in each channel, narrow; added to its input where that has the same shape."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = Convolution(width, inner, activated=False) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, kernel, stride, each=True)
        self.project = Convolution(inner, out)
        self.adds = stride == 1 and width == out

    def forward(self, x: Float[Tensor, "n i y x"]) -> Float[Tensor, "n o r q"]:
        """The block's output, of every `stride`-th row and column."""
        inside = x if self.expand is None else F.relu6(self.expand(x))
        inside = self.project(F.relu6(self.depthwise(inside)))
        return x + inside if self.adds else inside


class EfficientNet(Vision):
    """The tower; features are what its classifier takes the mean of."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.width, self.cell = config.width, config.patch
        self.stem = Convolution(3, config.stem, 3, 2, activated=False)
        self.stages = nn.ModuleList()
        width = config.stem
        for out, blocks, *shape in zip(
            config.widths, config.blocks, config.kernels, config.strides, config.expansions, strict=True
        ):
            kernel, stride, expansion = shape
            first = Block(width, out, kernel, stride, expansion)
            others = [Block(out, out, kernel, 1, expansion) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(first, *others))
            width = out
        self.head = Convolution(width, config.width, activated=False)

    def forward(self, images: Images) -> Float[Tensor, "p v"]:
        """The features of every cell, in the order of `images.patches`."""
        sizes = images.sizes()
        parts = images.patches.to(self.stem.weight.dtype).split([rows * columns for rows, columns in sizes])
        found = list(parts)
        for (rows, columns), members in _alike(sizes):
            cells = torch.stack([parts[image] for image in members])
            pictures = rearrange(
                cells, "n (r c) (k y x) -> n k (r y) (c x)", r=rows, c=columns, y=self.cell, x=self.cell
            )
            for image, features in zip(members, self.look(pictures), strict=True):
                found[image] = rearrange(features, "v r c -> (r c) v")
        return torch.cat(found)

    def look(self, pictures: Float[Tensor, "n i y x"]) -> Float[Tensor, "n v r q"]:
        """The features of pictures of one size, whose sides are whole cells."""
        x = F.relu6(self.stem(pictures))
        for stage in self.stages:
            x = stage(x)
        return F.relu6(self.head(x))


@uncompiled
def _alike(sizes: list[tuple[int, int]]) -> list[tuple[tuple[int, int], list[int]]]:
    """The images of each size."""
    return [(size, [at for at, other in enumerate(sizes) if other == size]) for size in dict.fromkeys(sizes)]


PLUGIN = EfficientNet
