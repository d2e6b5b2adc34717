"""Frozen linear layers whose weights are held in four bits: NF4, the base of QLoRA (Dettmers et al., 2023).

Sixty-four neighbouring weights share a scale, their largest magnitude; each is the nearest of sixteen levels, spaced as
the quantiles of a normal distribution are: 4.5 bits a weight. Numbers and packing are those of bitsandbytes. A product
unpacks the weight, uses it and drops it; so does the gradient of what goes in, which keeps nothing.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from vlmlab.model.packed import Packed
from vlmlab.model.products import Linear

BLOCK = 64

LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def pack(weight: Float[Tensor, "o i"]) -> tuple[UInt8[Tensor, " m"], Float[Tensor, " s"]]:
    """A weight as codes, two in a byte (the earlier in the upper half), and the scale of each block of its numbers."""
    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    levels = torch.tensor(LEVELS, device=weight.device)
    ratios = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(ratios.flatten(), (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8)
    return (codes[0::2] << 4) | codes[1::2], scales


def unpack(
    codes: UInt8[Tensor, " m"], scales: Float[Tensor, " s"], shape: tuple[int, int], dtype: torch.dtype
) -> Float[Tensor, "o i"]:
    """The weight that codes and scales stand for."""
    levels = torch.tensor(LEVELS, device=codes.device)
    pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)  # what each byte says
    blocks = pairs.index_select(0, codes.int()).view(-1, BLOCK) * scales[:, None]
    return blocks.flatten()[: shape[0] * shape[1]].view(shape).to(dtype)


class NF4(Packed):
    """A linear layer, as `Linear`, that cannot learn: its weight is in four bits. Its bias is as it was."""

    kind = "nf4"
    codes: UInt8[Tensor, " m"]
    scales: Float[Tensor, " s"]

    def __init__(self, layer: Linear) -> None:
        super().__init__(layer.weight, layer.bias)
        codes, scales = pack(layer.weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    def unpacked(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """The weight, unpacked into a dtype."""
        return unpack(self.codes, self.scales, (self.out_features, self.in_features), dtype)
