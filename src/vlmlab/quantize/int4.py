"""Four bits in groups, from each group's smallest weight to its largest: no data needed.

torchao 0.18 has no kernel for four bits on a CPU; there torch's own is called. On a GPU with torchao installed, and
from compute capability 8.0, products are its tensor-core kernel's, in bfloat16.
"""

import dataclasses
import functools
import importlib.util
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vlmlab.model.int4 import GROUPS, Groups4
from vlmlab.model.packed import Kernel, Packed, Rows8
from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM
from vlmlab.quantize import Quantizer, QuantizerConfig, of

TILES = 8
"""How the kernel's tiles are laid: a number of torchao's."""


@dataclasses.dataclass(frozen=True)
class Config(QuantizerConfig):
    """`group` neighbouring inputs share a step and a middle. A matrix that it does not divide is held in int8."""

    group: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group not in GROUPS:
            raise ValueError(f"group = {self.group} is not one of {', '.join(map(str, GROUPS))}")


class GroupsOfFour(Quantizer):
    """Every matrix in four bits."""

    config: Config

    def matrix(self, layer: Linear, path: str) -> Packed:
        """A matrix that is neither embedding nor head in few bits."""
        if layer.in_features % self.config.group:
            return Rows8(layer)
        return Groups4(layer, self.config.group)

    def speed_up(self, model: VLM) -> None:
        """On a GPU, torchao's kernel, where it is here."""
        if model.device.type != "cuda" or importlib.util.find_spec("torchao") is None:
            return
        if torch.cuda.get_device_capability(model.device) < (8, 0):
            return
        for layer in of(Groups4, model):
            assert isinstance(layer, Groups4)
            if layer.kernel is None:
                product = functools.partial(F.linear, weight=tiled(layer))
                layer.kernel = Kernel("torchao's tinygemm in bfloat16", product)
                layer.codes = layer.codes.cpu()  # the tiles stand for them; they are kept for files


def tiled(layer: Groups4) -> Any:
    """A layer's weight as torchao's tensor for that kernel, on the layer's device."""
    from torchao.quantization import Int4TilePackedTo4dTensor

    codes, steps, middles = layer.parts
    more_rows, more = -len(codes) % TILES, -layer.in_features % 1024
    codes = F.pad(codes, (0, more, 0, more_rows))
    data = torch.ops.aten._convert_weight_to_int4pack((codes[:, ::2] << 4 | codes[:, 1::2]).contiguous(), TILES)
    return Int4TilePackedTo4dTensor(
        data,
        _padded(steps, middles, more // layer.group, more_rows),
        [1, layer.group],
        torch.Size((layer.out_features, layer.in_features)),
    )


def _padded(
    steps: Float[Tensor, "o s"], middles: Float[Tensor, "o s"], groups: int, rows: int
) -> Float[Tensor, "s o 2"]:
    both = torch.stack([steps.t(), middles.t()], 2).to(torch.bfloat16)
    return F.pad(both, (0, 0, 0, rows, 0, groups)).contiguous()


PLUGIN = GroupsOfFour
