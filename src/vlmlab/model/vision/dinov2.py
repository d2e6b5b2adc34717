"""DINOv2 (Oquab et al., 2023): a vision transformer trained without text; each branch has a learned scale."""

import dataclasses

from jaxtyping import Float
from torch import Tensor, nn

from vlmlab.batch import Images
from vlmlab.model.layers import EncoderLayer, init_normal
from vlmlab.model.products import Activation
from vlmlab.model.vision import ClassTokenConfig, ClassTokenTower


@dataclasses.dataclass(frozen=True)
class Config(ClassTokenConfig):
    """The numbers of DINOv2 ViT-S/14, whose position table was trained at 518 pixels."""

    width: int = 384
    patch: int = 14
    layers: int = 12
    heads: int = 6
    inner: int = 1536
    side: int = 37
    activation: Activation = "gelu"
    eps: float = 1e-6


class DINOv2(ClassTokenTower):
    """The tower; features are the last layer's, after the final norm."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, patch_bias=True)
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.inner, config.activation, config.eps, scaled=True)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, config.eps)
        init_normal(self, 0.02)

    def forward(self, images: Images) -> Float[Tensor, "p v"]:
        """The features of every patch, in the order of `images.patches`."""
        x, blocks, back = self.weave(images)
        for layer in self.layers:
            x = layer(x, blocks)
        return self.norm(x[back])


PLUGIN = DINOv2
