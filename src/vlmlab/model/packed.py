"""Frozen layers whose weights are held in few bits: what they share, and rows of eight bits.

Eight bits: each row of a weight shares a scale, a 127th of its largest magnitude, and a weight is a whole number of
those. On a CPU the product is in bfloat16 and its sum in float32, whatever the stream's numbers are: for a few rows of
input torch reads the codes as they are, for more they are unpacked first. (In float32 the same product is slower than
the plain one.)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, Int8, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from vlmlab.model.products import ACTIVATIONS, Activation, Embedding, Linear

FEW = 8
"""Up to this many rows of input torch's kernel for eight bits is the faster way; above it is unpacking them."""

LANES = 16
"""That kernel reads inputs this many at a time, beyond their end if need be: they must be a multiple of it."""

FOURS = 4
"""It computes so many outputs together, and the last ones, where they are fewer, with instructions that end the process
when the codes do not stand at a round address, as in a mapped file: those few are unpacked."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Another way to take the product of some rows with a layer's weight, from outside, in the rows' dtype."""

    name: str
    product: Callable[[Float[Tensor, "*n i"]], Float[Tensor, "*n o"]]


class Packed(nn.Module):
    """A linear layer, as `Linear`, that cannot learn: its weight is held in few bits. Its bias is as it was.

    `dtype` is that of the numbers that the weight stands for. With a `kernel`, products are taken its way.
    """

    kind: ClassVar[str]
    """The word for this way to hold a weight."""

    def __init__(self, weight: Float[Tensor, "o i"], bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype, self.bias = weight.dtype, bias
        self.kernel: Kernel | None = None

    @property
    def weight(self) -> Float[Tensor, "o i"]:
        """The weight, unpacked into the dtype it had."""
        return self.unpacked(self.dtype)

    def unpacked(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """The weight, unpacked into a dtype."""
        raise NotImplementedError

    def product(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """`x` times the transposed weight, in `x`'s dtype."""
        return F.linear(x, self.unpacked(x.dtype))

    def path(self, device: torch.device) -> str:
        """How a product is computed there, in words."""
        way = "unpacked for each product, in the stream's dtype" if self.kernel is None else self.kernel.name
        return f"{way} ({device.type})"

    def rest(self) -> None:
        """Hold the codes as a file holds them, where a kernel has them laid out in its own way."""

    def forward(self, x: Float[Tensor, "*n i"], activation: Activation | None = None) -> Float[Tensor, "*n o"]:
        """`x` times the transposed weight, plus the bias, and then the activation."""
        kind = x.device.type
        x = x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
        if torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = _Product.apply(x, self)
        else:
            out = self.product(x) if self.kernel is None else self.kernel.product(x)
        out = out if self.bias is None else out + self.bias.to(out.dtype)
        return out if activation is None else ACTIVATIONS[activation](out)


class _Product(torch.autograd.Function):
    """`x` times a weight that is unpacked twice: once for the product, once for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*n i"], layer: Packed) -> Float[Tensor, "*n o"]:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "*n o"]) -> tuple[Float[Tensor, "*n i"], None]:
        return gradient @ ctx.layer.unpacked(gradient.dtype), None


class Rows8(Packed):
    """A linear layer in eight bits, one scale for each row of its weight."""

    kind = "int8"
    codes: Int8[Tensor, "o i"]
    scales: Float[Tensor, " o"]

    def __init__(self, layer: Linear | Embedding) -> None:
        super().__init__(layer.weight, layer.bias if isinstance(layer, Linear) else None)
        weight = layer.weight.detach().float()
        scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        self.register_buffer("codes", (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scales", scales)
        self._ones: Tensor | None = None

    def unpacked(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """The weight, unpacked into a dtype."""
        wide = torch.promote_types(dtype, self.scales.dtype)
        return (self.codes.to(wide) * self.scales[:, None]).to(dtype)

    def product(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """`x` times the transposed weight, in `x`'s dtype."""
        low = torch.bfloat16 if x.is_cpu else x.dtype
        if x.is_cpu and 0 < x.numel() <= FEW * self.in_features and self.in_features % LANES == 0:
            out = self._few(x.reshape(-1, self.in_features).to(low)).view(*x.shape[:-1], -1)
        else:
            out = F.linear(x.to(low), self.codes.to(low))
        return (out * self.scales).to(x.dtype)  # scaled here, where scales are not rounded

    def _few(self, rows: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        """The product of a few rows with the codes, by torch's kernel."""
        codes, units = self.codes, self._units(rows.dtype)
        fours = self.out_features // FOURS * FOURS
        if fours == self.out_features:  # slices would cost a small product a third of its time
            return torch._weight_int8pack_mm(rows, codes, units)
        out = torch._weight_int8pack_mm(rows, codes[:fours], units[:fours])
        return torch.cat([out, F.linear(rows, codes[fours:].to(rows.dtype))], 1)

    def path(self, device: torch.device) -> str:
        """How a product is computed there, in words."""
        if device.type == "cpu" and self.kernel is None:
            return f"torch._weight_int8pack_mm in bfloat16 up to {FEW} rows, above them unpacked to bfloat16 (cpu)"
        return super().path(device)

    def _units(self, dtype: torch.dtype) -> Float[Tensor, " o"]:
        if self._ones is None or self._ones.device != self.codes.device:
            self._ones = torch.ones(self.out_features, dtype=dtype, device=self.codes.device)
        return self._ones


class Table8(Rows8):
    """An embedding in eight bits, one scale for each token, which can be read backwards too, as a tied head."""

    def forward(  # type: ignore[override]
        self, ids: Int[Tensor, "*n"]
    ) -> Float[Tensor, "*n d"]:
        """The vectors of tokens."""
        return (self.codes[ids] * self.scales[ids][..., None]).to(self.dtype)

    def backwards(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n w"]:
        """How well each token's vector fits: the product with the whole table."""
        return super().forward(hidden)


def packed(model: nn.Module) -> dict[str, Packed]:
    """The layers of a model whose weights are held in few bits, by their path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Packed)}


def held(module: nn.Module) -> int:
    """How many bytes a module's numbers take, each counted once."""
    tensors: dict[int, Shaped[Tensor, "..."]] = {
        id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensor.nbytes for tensor in tensors.values())
