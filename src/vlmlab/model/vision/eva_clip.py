"""EVA-CLIP (Sun et al., 2023): the paper's EVA-CLIP-5B (Tables 2 and 10), and EVA01-CLIP-g as BLIP-2 uses it.

EVA02-CLIP-E/14+ has 5.0 billion parameters, 4.35 of them in this tower. It norms each branch where it ends; the g/14
tower where it begins. The smaller EVA02 towers (B, L: rotary positions, gated MLPs) are another architecture.
"""

import dataclasses

from jaxtyping import Float
from torch import Tensor, nn

from vlmlab.batch import Images
from vlmlab.model.attention import Blocks
from vlmlab.model.layers import EncoderLayer, init_normal
from vlmlab.model.products import Activation, Linear
from vlmlab.model.vision import ClassTokenConfig, ClassTokenTower


@dataclasses.dataclass(frozen=True)
class Config(ClassTokenConfig):
    """The numbers of EVA02-CLIP-E/14+ at 224 pixels. `after` norms a branch where it ends, before it is added."""

    width: int = 1792
    patch: int = 14
    layers: int = 64
    heads: int = 16
    inner: int = 15360
    side: int = 16
    activation: Activation = "gelu"
    eps: float = 1e-6
    after: bool = True


class Layer(EncoderLayer):
    """A layer whose keys have no bias, and whose norms may stand at the end of each branch."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.width, config.heads, config.inner, config.activation, config.eps)
        self.attention.k = Linear(config.width, config.width, bias=False)
        self.after = config.after

    def forward(self, x: Float[Tensor, "p v"], blocks: Blocks) -> Float[Tensor, "p v"]:
        """`x` plus attention, plus MLP."""
        if not self.after:
            return super().forward(x, blocks)
        x = x + self.norm1(self.attention(x, blocks))
        return x + self.norm2(self.mlp(x))


class EVACLIP(ClassTokenTower):
    """The tower; features are the last layer's, after the final norm."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, patch_bias=True)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.eps)
        init_normal(self, 0.02)

    def forward(self, images: Images) -> Float[Tensor, "p v"]:
        """The features of every patch, in the order of `images.patches`."""
        x, blocks, back = self.weave(images)
        for layer in self.layers:
            x = layer(x, blocks)
        return self.norm(x[back])


PLUGIN = EVACLIP
