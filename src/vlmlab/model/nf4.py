"""Frozen linear layers whose weights are held in four bits: NF4, the base of QLoRA (Dettmers et al., 2023).

Sixty-four neighbouring weights share a scale, their largest magnitude; each is the nearest of sixteen levels, spaced as
the quantiles of a normal distribution are: 4.5 bits a weight. Numbers and packing are those of bitsandbytes. A product
unpacks the weight, uses it and drops it; so does the gradient of what goes in, which keeps nothing.
"""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vlmlab.model.products import ACTIVATIONS, Activation, Linear

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


class NF4(nn.Module):
    """A linear layer, as `Linear`, that cannot learn: its weight is in four bits. Its bias is as it was."""

    codes: UInt8[Tensor, " m"]
    scales: Float[Tensor, " s"]

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        codes, scales = pack(layer.weight)
        self.out_features, self.in_features = layer.out_features, layer.in_features
        self.dtype, self.bias = layer.weight.dtype, layer.bias
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    @property
    def weight(self) -> Float[Tensor, "o i"]:
        """The weight, unpacked into the dtype it had."""
        return self.unpacked(self.dtype)

    def unpacked(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """The weight, unpacked into a dtype."""
        return unpack(self.codes, self.scales, (self.out_features, self.in_features), dtype)

    def forward(self, x: Float[Tensor, "*n i"], activation: Activation | None = None) -> Float[Tensor, "*n o"]:
        """`x` times the transposed weight, plus the bias, and then the activation."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        out: Tensor = _Product.apply(x.to(dtype), self)
        out = out if self.bias is None else out + self.bias.to(dtype)
        return out if activation is None else ACTIVATIONS[activation](out)


class _Product(torch.autograd.Function):
    """`x` times a weight that is unpacked twice: once for the product, once for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*n i"], layer: NF4) -> Float[Tensor, "*n o"]:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "*n o"]) -> tuple[Float[Tensor, "*n i"], None]:
        return gradient @ ctx.layer.unpacked(gradient.dtype), None
