"""SigLIP as Idefics2 runs it: any size and aspect ratio, patches laid end to end, positions in buckets (section 3.3).

Each image's rows and columns are placed on the position table by their fraction of the image's height and width, so
that a small image still spans the whole table (NaViT, Dehghani et al., 2023).
"""

import dataclasses
import functools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmlab.batch import Images
from vlmlab.model.attention import Blocks, grouped, reorder
from vlmlab.model.eager import uncompiled
from vlmlab.model.layers import EncoderLayer, init_normal
from vlmlab.model.products import Activation, Linear
from vlmlab.model.vision import Vision, VisionConfig


@dataclasses.dataclass(frozen=True)
class Config(VisionConfig):
    """The numbers of SigLIP-SO400M as released inside Idefics2; the position table is `side` x `side`."""

    width: int = 1152
    patch: int = 14
    layers: int = 27
    heads: int = 16
    inner: int = 4304
    side: int = 70
    activation: Activation = "gelu_tanh"
    eps: float = 1e-6


def single_range(end: float, step: float, start: float = 0.0) -> Float[Tensor, " m"]:
    """start, start + step, ... below `end`, in the single precision of `torch.arange` on an x86 CPU, on any machine.

    There eight numbers are made at a time, in pairs of eights: the first of each is rounded, the others are steps from
    it, rounded again; what fills no pair is rounded once. Other processors do otherwise, which moves patches on the
    position table.
    """
    count = math.ceil((end - start) / step)
    index = torch.arange(count, dtype=torch.float64)
    lane = torch.where(index < count - count % 16, index % 8, 0)
    return ((start + step * (index - lane)).float().double() + step * lane).float()


@functools.lru_cache(maxsize=4096)
def buckets(count: int, side: int) -> tuple[int, ...]:
    """The table row (or column) of each of `count` patches along an axis, for a table of `side` rows.

    This is the arithmetic the released weights were trained with (single precision, the step 1/count rounded too): for
    25, 49, 50, 55 and 58 patches on a table of 70 it differs from exact fractions, in 19 places.
    """
    boundaries = single_range(1.0, 1 / side, 1 / side)
    fractions = single_range(1 - 1e-6, float(torch.tensor(1 / count)))
    return tuple(torch.bucketize(fractions, boundaries, right=True).tolist())


@functools.lru_cache(maxsize=1024)
def table_rows(rows: int, columns: int, side: int) -> Int[Tensor, " p"]:
    """The row of the flattened position table for each patch of one image, row after row."""
    down, across = torch.tensor(buckets(rows, side)), torch.tensor(buckets(columns, side))
    return (down[:, None] * side + across).flatten()


class SigLIP(Vision):
    """The tower; features are the last layer's, after the final norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.width, self.side = config.width, config.side
        self.patch = Linear(3 * config.patch**2, config.width)
        self.position = nn.Embedding(config.side**2, config.width)
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.inner, config.activation, config.eps)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, config.eps)
        init_normal(self, 0.02)

    def forward(self, images: Images) -> Float[Tensor, "p v"]:
        """The features of every patch, in the order of `images.patches`."""
        at, index, blocks = self._plan(images)
        x = self.patch(images.patches.to(self.patch.weight.dtype)) + self.position(at)
        if index is not None:
            x = x[index]
        for layer in self.layers:
            x = layer(x, blocks)
        x = self.norm(x)
        return x if index is None else torch.empty_like(x).index_copy(0, index, x)

    @uncompiled
    def _plan(self, images: Images) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"] | None, Blocks]:
        """The table's row for each patch; an order in which images of equal length are neighbours; its blocks."""
        sizes, device = images.sizes(), images.patches.device
        at = torch.cat([table_rows(rows, columns, self.side) for rows, columns in sizes]).to(device)
        counts = [rows * columns for rows, columns in sizes]
        order = grouped(counts)
        if order is None:
            return at, None, Blocks.of(counts)
        return at, reorder(counts, order).to(device), Blocks.of([counts[image] for image in order])


PLUGIN = SigLIP
