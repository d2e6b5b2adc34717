"""The matrix product of a linear layer and what is done to its result, and the only file that knows their kernels.

On a CPU in single precision, the usual product leaves much of the memory's bandwidth unused when there are few rows, as
in decoding, and on some processors much of their arithmetic. There the same product goes through kernels that do better
(`benchmarks/decode.py` and `benchmarks/training.py` measure it): without gradients a batched product over slices of the
weight for a few rows, oneDNN's linear for more, which also applies an activation before the result leaves the
processor's caches; with gradients oneDNN's where the weight itself does not learn, and a low-rank product beside it is
added inside the kernels. Everywhere else this is `torch.nn.functional.linear`.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
    few = x.numel() <= FEW * x.shape[-1]
    learning = torch.is_grad_enabled()
    if not _plain(x, weight) or (few and learning) or (not few and not HAS_ONEDNN):
        out = _product(x, weight, bias)
    elif few:
        out = few_rows(x, weight) if bias is None else few_rows(x, weight) + bias
    elif not learning:
        name, algorithm = FUSED.get(activation or "", ("none", ""))
        out = _onednn(x, weight, bias, name, algorithm)
        activation = None if activation in FUSED else activation
    elif weight.requires_grad or (bias is not None and bias.requires_grad):
        out = F.linear(x, weight, bias)
    else:
        out = _Frozen.apply(x, weight, bias)
    return out if activation is None else ACTIVATIONS[activation](out)


def _onednn(
    x: Float[Tensor, "*n i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None = None,
    activation: str = "none",
    algorithm: str = "",
) -> Float[Tensor, "*n o"]:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)
    return out


class _Frozen(torch.autograd.Function):
    """oneDNN's product with a weight that does not learn, and of the gradient that goes back through it."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
    ) -> Float[Tensor, "*n o"]:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "*n o"]) -> tuple[Float[Tensor, "*n i"], None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn(gradient.contiguous(), weight.t()), None, None


def adapted(
    x: Float[Tensor, "*n i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None,
    a: Float[Tensor, "k i"],
    b: Float[Tensor, "o k"],
    scale: float,
) -> Float[Tensor, "*n o"]:
    """A linear layer and beside it a product of low rank: `x wᵀ + bias + scale · (x aᵀ) bᵀ`."""
    frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
    plain = _plain(x, weight) and a.dtype == b.dtype == x.dtype
    if plain and frozen and HAS_ONEDNN and torch.is_grad_enabled() and x.numel() > FEW * x.shape[-1]:
        out: Tensor = _Adapted.apply(x, weight, bias, a, b, scale)
        return out
    return linear(x, weight, bias) + linear(linear(x, a) * scale, b)


class _Adapted(torch.autograd.Function):
    """A frozen layer and a learning low-rank product, each sum added where the larger product has just been written.

    As separate steps every sum is one more walk through memory over numbers as many as the layer's result, forward and
    backward: a fifth of a training step of adapters on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*n i"],
        weight: Float[Tensor, "o i"],
        bias: Float[Tensor, " o"] | None,
        a: Float[Tensor, "k i"],
        b: Float[Tensor, "o k"],
        scale: float,
    ) -> Float[Tensor, "*n o"]:
        rows = x.flatten(0, -2)
        low = _onednn(rows, a).mul_(scale)
        out = _onednn(rows, weight, bias).addmm_(low, b.t())
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scale = scale
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Float[Tensor, "*n o"]
    ) -> tuple[Float[Tensor, "*n i"] | None, None, None, Float[Tensor, "k i"], Float[Tensor, "o k"], None]:
        rows, low, weight, a, b = ctx.saved_tensors
        back = gradient.contiguous().flatten(0, -2)
        to_low = _onednn(back, b.t()).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = _onednn(back, weight.t()).addmm_(to_low, a).view(*gradient.shape[:-1], weight.shape[1])
        to_a = _onednn(to_low.t().contiguous(), rows.t())
        to_b = _onednn(
            low.t().contiguous(), back.t()
        ).t()  # the wide matrix is read as it lies: up to eight times faster
        return to_x, None, None, to_a, to_b, None


def _plain(x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"]) -> bool:
    """Whether this is a product of two whole matrices in single precision on a CPU, and not being compiled."""
    if torch.compiler.is_compiling() or not x.is_cpu or x.numel() == 0 or torch.is_autocast_enabled("cpu"):
        return False
    return x.dtype == weight.dtype == torch.float32 and x.is_contiguous() and weight.is_contiguous()


def _product(
    x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "*n o"]:
    if weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    out = F.linear(x.to(weight.dtype), weight).to(x.dtype)
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


class Embedding(nn.Embedding):
    """The vectors of tokens, which can be read backwards too, as a tied head."""

    def backwards(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n w"]:
        """How well each token's vector fits: the product with the whole table."""
        return linear(hidden, self.weight)
