"""The matrix product of a linear layer, and the only file that knows its kernels.

On a CPU in single precision without gradients, the usual product leaves much of the memory's bandwidth unused when
there are few rows, as in decoding. There the same product goes through kernels that do better (`benchmarks/decode.py`
measures it): a batched product over slices of the weight for one row, oneDNN's linear for more. Everywhere else this
is `torch.nn.functional.linear`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(
    x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "*n o"]:
    """`x` times the transposed weight, plus the bias.

    A weight kept in fewer bits than `x` (bfloat16 under a float32 stream) has its product in those, added in `x`'s.
    """
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        out = F.linear(x.to(weight.dtype), weight).to(x.dtype)
        return out if bias is None else out + bias
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.dtype != torch.float32 or not x.is_cpu:
        return F.linear(x, weight, bias)
    if weight.dtype != torch.float32 or not weight.is_contiguous() or not x.is_contiguous() or x.numel() == 0:
        return F.linear(x, weight, bias)
    if x.numel() == x.shape[-1]:
        out = one_row(x, weight)
        return out if bias is None else out + bias
    if HAS_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def one_row(x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"]) -> Float[Tensor, "*n o"]:
    """A product with one row of input: slices of the weight side by side, so that every thread reads its own."""
    out, width = weight.shape
    slices = next(count for count in (8, 4, 2, 3, 5, 7, 1) if out % count == 0)
    # A column that is a transposed row: laid out the other way the same product takes four times as long.
    column = x.view(1, width).t().expand(slices, width, 1)
    return torch.bmm(weight.view(slices, out // slices, width), column).view(*x.shape[:-1], out)


class Linear(nn.Linear):
    """A linear layer whose product is the one above."""

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """`x` times the transposed weight, plus the bias."""
        return linear(x, self.weight, self.bias)
