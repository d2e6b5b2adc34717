"""A linear layer from the flattened vision features to a shorter sequence: Table 11's "Linear Projection" (A.1.3).

A full matrix between 729 features of 1,152 numbers and 64 tokens of 4,096 would hold 220 billion weights. This one is a
product of two: `mix` makes each visual token a weighted sum of the patches, `projection` changes the width.
"""

import dataclasses

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.batch import Images
from vlmlab.model.connectors import Connector, ConnectorConfig
from vlmlab.model.layers import init_normal
from vlmlab.model.products import Linear


@dataclasses.dataclass(frozen=True)
class Config(ConnectorConfig):
    """The only grid it reads (27 x 27: squares of 384 pixels), and how many visual tokens an image becomes."""

    rows: int = 27
    columns: int = 27
    tokens: int = 64


class FlattenAndProject(Connector):
    """`tokens` visual tokens for every image of one fixed grid."""

    def __init__(self, config: Config, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.width, self.config = language_width, config
        patches = config.rows * config.columns
        self.mix = Linear(patches, config.tokens, bias=False)
        self.projection = Linear(vision_width, language_width, bias=False)
        init_normal(self.mix, (0.4 / patches) ** 0.5)
        init_normal(self.projection, (0.4 / vision_width) ** 0.5)

    def count(self, grid: Int[Tensor, "n 2"]) -> list[int]:
        """`tokens` for every image. Raises ValueError for a grid other than the one it is built for."""
        only = self.config.rows, self.config.columns
        for at, size in enumerate(grid.tolist()):
            if tuple(size) != only:
                raise ValueError(
                    f"image {at} has a grid of {size[0]} x {size[1]} patches, but the linear connector reads only "
                    f"{only[0]} x {only[1]}: give images of one fixed size, or use another connector"
                )
        return [self.config.tokens] * len(grid)

    def forward(self, features: Float[Tensor, "p v"], images: Images) -> Float[Tensor, "l d"]:
        """The visual tokens of every image, in order."""
        mixed = self.mix(rearrange(features, "(n p) v -> n v p", n=len(self.count(images.grid))))
        return self.projection(rearrange(mixed, "n v l -> (n l) v"))


PLUGIN = FlattenAndProject
