"""CLIP-ViT (Radford et al., 2021): the paper's CLIP-ViT-H (Tables 2 and 10), and OpenAI's towers with other numbers."""

import dataclasses
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vlmlab.batch import Images
from vlmlab.model.layers import EncoderLayer, init_normal
from vlmlab.model.products import Activation
from vlmlab.model.vision import ClassTokenConfig, ClassTokenTower


@dataclasses.dataclass(frozen=True)
class Config(ClassTokenConfig):
    """The numbers of CLIP-ViT-H/14 (LAION-2B) at 224 pixels; OpenAI's towers have `activation = "quick_gelu"`.

    `features` says whose output is read: the `last` layer's, or the `penultimate`'s (LLaVA), in which case the last of
    the `layers` is not built.
    """

    width: int = 1280
    patch: int = 14
    layers: int = 32
    heads: int = 16
    inner: int = 5120
    side: int = 16
    activation: Activation = "gelu"
    eps: float = 1e-5
    features: Literal["last", "penultimate"] = "last"


class CLIP(ClassTokenTower):
    """The tower; features are a layer's output as it stands: CLIP norms only the class token, which is not used."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, patch_bias=False)
        self.pre_norm = nn.LayerNorm(config.width, config.eps)
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.inner, config.activation, config.eps)
            for _ in range(config.layers - (config.features == "penultimate"))
        )
        init_normal(self, 0.02)

    def forward(self, images: Images) -> Float[Tensor, "p v"]:
        """The features of every patch, in the order of `images.patches`."""
        x, blocks, back = self.weave(images)
        x = self.pre_norm(x)
        for layer in self.layers:
            x = layer(x, blocks)
        return x[back]


PLUGIN = CLIP
