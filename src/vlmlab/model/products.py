"""The matrix product of a linear layer and what is done to its result, and the only file that knows their kernels.

On a CPU in single precision without gradients, the usual product leaves much of the memory's bandwidth unused when
there are few rows, as in decoding. There the same product goes through kernels that do better (`benchmarks/decode.py`
measures it): a batched product over slices of the weight for a few, oneDNN's linear for more, which also applies an
activation before the result leaves the processor's caches. Everywhere else this is `torch.nn.functional.linear`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["silu", "relu", "gelu", "gelu_tanh", "quick_gelu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}

FUSED = {"silu": ("swish", "none"), "relu": ("relu", "none"), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}
"""Activations that oneDNN applies itself: its name and algorithm for each."""

FEW = 4
"""Up to this many rows a product over slices of the weight is the faster one; at 8 there is no difference."""

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(
    x: Float[Tensor, "*n i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None = None,
    activation: Activation | None = None,
) -> Float[Tensor, "*n o"]:
    """`x` times the transposed weight, plus the bias, and then the activation.

    A weight kept in fewer bits than `x` (bfloat16 under a float32 stream) has its product in those, added in `x`'s.
    """
    if HAS_ONEDNN and x.numel() > FEW * x.shape[-1] and _plain(x, weight):
        name, algorithm = FUSED.get(activation or "", ("none", ""))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
        return out if activation is None or activation in FUSED else ACTIVATIONS[activation](out)
    out = _product(x, weight, bias)
    return out if activation is None else ACTIVATIONS[activation](out)


def _plain(x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"]) -> bool:
    """Whether this is a product on a CPU in single precision, without gradients, of two whole matrices."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not x.is_cpu or x.numel() == 0:
        return False
    return x.dtype == weight.dtype == torch.float32 and x.is_contiguous() and weight.is_contiguous()


def _product(
    x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "*n o"]:
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        out = F.linear(x.to(weight.dtype), weight).to(x.dtype)
    elif x.numel() <= FEW * x.shape[-1] and _plain(x, weight):
        out = few_rows(x, weight)
    else:
        return F.linear(x, weight, bias)
    return out if bias is None else out + bias


def few_rows(x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"]) -> Float[Tensor, "*n o"]:
    """A product with few rows of input: slices of the weight side by side, so that every thread reads its own."""
    out, width = weight.shape
    slices = next(count for count in (8, 4, 2, 3, 5, 7, 1) if out % count == 0)
    # Columns that are transposed rows: laid out the other way the same product takes four times as long.
    columns = x.view(-1, width).t().expand(slices, width, -1)
    made = torch.bmm(weight.view(slices, out // slices, width), columns).view(out, -1)
    return made.t().contiguous().view(*x.shape[:-1], out)


class Linear(nn.Linear):
    """A linear layer whose product is the one above."""

    def forward(self, x: Float[Tensor, "*n i"], activation: Activation | None = None) -> Float[Tensor, "*n o"]:
        """`x` times the transposed weight, plus the bias, and then the activation."""
        return linear(x, self.weight, self.bias, activation)
