"""What two parts use: norms, gated and plain MLPs, and the transformer block of image encoders."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vlmlab.model.attention import Blocks, attend
from vlmlab.model.products import Activation, Linear


class RMSNorm(nn.Module):
    """Root-mean-square norm: computed in fp32 at least, the weight multiplied after the cast back (as Mistral does)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """`x` over its root mean square, times the weight."""
        if x.dtype.itemsize < 4:
            return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight
        if torch.is_grad_enabled():
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # The same in fewer steps: for one token, starting them is what takes the time.
        power = torch.linalg.vecdot(x, x) / x.shape[-1]
        return x * (power + self.eps).rsqrt()[..., None] * self.weight


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, inner: int, out: int | None = None, activation: Activation = "silu") -> None:
        super().__init__()
        self.gate = Linear(width, inner, bias=False)
        self.up = Linear(width, inner, bias=False)
        self.down = Linear(inner, out or width, bias=False)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        """The MLP of each token."""
        return self.down(self.gate(x, self.activation) * self.up(x))


class MLP(nn.Module):
    """down(activation(up(x))), with biases."""

    def __init__(self, width: int, inner: int, out: int | None = None, activation: Activation = "gelu") -> None:
        super().__init__()
        self.up = Linear(width, inner)
        self.down = Linear(inner, out or width)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        """The MLP of each token."""
        return self.down(self.up(x, self.activation))


class SelfAttention(nn.Module):
    """Full attention among the tokens of an image, with biases (all four projections)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (Linear(width, width) for _ in range(4))

    def forward(self, x: Float[Tensor, "p v"], blocks: Blocks) -> Float[Tensor, "p v"]:
        """Each token reads the tokens of its own image."""
        q, k, v = (rearrange(f(x), "p (h k) -> p h k", h=self.heads) for f in (self.q, self.k, self.v))
        return self.o(rearrange(attend(q, k, v, blocks), "p h k -> p (h k)"))


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer of an image encoder; with `scaled`, each branch has a learned scale (DINOv2)."""

    def __init__(
        self, width: int, heads: int, inner: int, activation: Activation, eps: float, scaled: bool = False
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention = SelfAttention(width, heads)
        self.mlp = MLP(width, inner, activation=activation)
        self.scale1 = nn.Parameter(torch.ones(width)) if scaled else None
        self.scale2 = nn.Parameter(torch.ones(width)) if scaled else None

    def forward(self, x: Float[Tensor, "p v"], blocks: Blocks) -> Float[Tensor, "p v"]:
        """`x` plus attention, plus MLP."""
        seen = self.attention(self.norm1(x), blocks)
        x = x + seen if self.scale1 is None else torch.addcmul(x, seen, self.scale1)
        thought = self.mlp(self.norm2(x))
        return x + thought if self.scale2 is None else torch.addcmul(x, thought, self.scale2)


def init_normal(module: nn.Module, std: float) -> None:
    """Draw the weights of the linear and embedding layers in `module` from N(0, std²); zero their biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=std)
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
