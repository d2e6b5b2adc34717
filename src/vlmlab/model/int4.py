"""Frozen linear layers in four bits, in groups of neighbouring inputs: `step * (code - 8) + middle`.

A group's 16 levels stand evenly from its smallest to its largest weight. On a CPU the product is one of torch's own
kernels in bfloat16, which wants the codes in an order of its own: they are laid out so at the first product, in place,
and put back for a file. Published AWQ checkpoints are of this kind, too.
"""

from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vlmlab.model.packed import Packed
from vlmlab.model.products import Linear

GROUPS = (32, 64, 128, 256)
"""How many inputs may share a step: what torch's kernels know."""

BLOCK = 64
"""The kernel's rows come in blocks of this many; what is missing is filled up."""


def levels(
    weight: Float[Tensor, "o i"], group: int, cut: float = 1.0
) -> tuple[Float[Tensor, "o s"], Float[Tensor, "o s"]]:
    """The step and the middle of each group of a weight, for levels from its smallest to its largest number times
    `cut`.
    """
    blocks = weight.detach().float().unflatten(1, (-1, group))
    low, high = cut * blocks.amin(2), cut * blocks.amax(2)
    steps = ((high - low) / 15).clamp_min(1e-9).to(torch.bfloat16)
    return steps, (low + 8 * steps.float()).to(torch.bfloat16)


def encode(
    weight: Float[Tensor, "o i"], steps: Float[Tensor, "o s"], middles: Float[Tensor, "o s"]
) -> UInt8[Tensor, "o i"]:
    """The nearest level of each weight, 0 to 15."""
    blocks = weight.detach().float().unflatten(1, (steps.shape[1], -1))
    codes = (blocks - middles.float()[..., None]) / steps.float()[..., None]
    return (codes.round() + 8).clamp(0, 15).to(torch.uint8).flatten(1)


def decode(
    codes: UInt8[Tensor, "o i"], steps: Float[Tensor, "o s"], middles: Float[Tensor, "o s"]
) -> Float[Tensor, "o i"]:
    """The weight that codes, steps and middles stand for, in single precision."""
    blocks = codes.unflatten(1, (steps.shape[1], -1)).float() - 8
    return (blocks * steps.float()[..., None] + middles.float()[..., None]).flatten(1)


def pair(codes: UInt8[Tensor, "o i"]) -> UInt8[Tensor, "o m"]:
    """Two codes in a byte, the earlier in the lower half."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpair(pairs: UInt8[Tensor, "o m"]) -> UInt8[Tensor, "o i"]:
    """The codes of bytes."""
    return torch.stack([pairs & 15, pairs >> 4], 2).flatten(1)


class Groups4(Packed):
    """A linear layer in four bits. `scales` [s, o, 2] are each group's step and middle, in the kernel's order."""

    kind = "int4"
    codes: UInt8[Tensor, "o m"]
    scales: Float[Tensor, "s o 2"]

    def __init__(
        self,
        layer: Linear,
        group: int,
        found: tuple[UInt8[Tensor, "o i"], Float[Tensor, "o s"], Float[Tensor, "o s"]] | None = None,
    ) -> None:
        """Of a layer whose inputs `group` divides; `found` are its codes, steps and middles, where they are known."""
        super().__init__(layer.weight, layer.bias)
        if group not in GROUPS or self.in_features % group:
            raise ValueError(f"groups of {group} do not fit {self.in_features} inputs; groups may be {GROUPS}")
        self.group = group
        if found is None:
            found = (encode(layer.weight, *(steps := levels(layer.weight, group))), *steps)
        self.register_buffer("codes", pair(found[0]))
        self.register_buffer("scales", torch.stack([found[1].t(), found[2].t()], 2).contiguous())
        self._laid = False
        self._sixteen: Tensor | None = None

    @property
    def parts(self) -> tuple[UInt8[Tensor, "o i"], Float[Tensor, "o s"], Float[Tensor, "o s"]]:
        """Codes, steps and middles."""
        pairs = _back(self.codes, self.out_features, self.in_features) if self._laid else self.codes
        return unpair(pairs), self.scales[..., 0].t(), self.scales[..., 1].t()

    def unpacked(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """The weight, unpacked into a dtype."""
        return decode(*self.parts).to(dtype)

    def product(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """`x` times the transposed weight, in `x`'s dtype."""
        if not x.is_cpu or x.numel() == 0:
            return super().product(x)
        if not self._laid:
            self._lay()
        assert self._sixteen is not None
        rows = x.reshape(-1, self.in_features).bfloat16()
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.codes, self.group, self._sixteen)
        return out[:, : self.out_features].reshape(*x.shape[:-1], -1).to(x.dtype)

    def path(self, device: torch.device) -> str:
        """How a product is computed there, in words."""
        if device.type == "cpu" and self.kernel is None:
            return "torch.ops.aten._weight_int4pack_mm_for_cpu in bfloat16 (cpu)"
        return super().path(device)

    def rest(self) -> None:
        """Put the codes back into the order of a file."""
        if self._laid:
            self.codes = _back(self.codes, self.out_features, self.in_features)
            self._laid, self._sixteen = False, None

    @torch.inference_mode(False)
    def _lay(self) -> None:
        more = -self.out_features % BLOCK
        self.codes = _kernel_order(F.pad(unpair(self.codes).int(), (0, 0, 0, more)))
        whole = self.scales if not more else F.pad(self.scales, (0, 0, 0, more))
        self._sixteen = whole.to(torch.bfloat16)  # where nothing is to do, the same numbers
        self._laid = True

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        self.rest()  # the kernel's order is this device's
        return super()._apply(fn, recurse)


def _kernel_order(codes: Int[Tensor, "o i"]) -> UInt8[Tensor, "o m"]:
    out: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return out


@torch.inference_mode(False)
def _back(laid: UInt8[Tensor, "r m"], out: int, inputs: int) -> UInt8[Tensor, "o m"]:
    """Codes from the kernel's order into a file's. The order is asked of the kernel: it is given each place's number,
    a hexadecimal digit at a time.
    """
    rows = -(-out // BLOCK) * BLOCK
    places = torch.arange(rows * inputs).view(rows, inputs)
    order = torch.zeros(rows, inputs, dtype=torch.long)
    for shift in range(0, (rows * inputs).bit_length(), 4):
        digit = _kernel_order(((places >> shift) & 15).int())
        order |= unpair(digit.view(rows, -1)).long() << shift
    codes = torch.empty(rows * inputs, dtype=torch.uint8)
    codes[order.flatten()] = unpair(laid.cpu().view(rows, -1)).flatten()
    return pair(codes.view(rows, inputs)[:out]).to(laid.device)
