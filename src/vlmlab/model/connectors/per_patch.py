"""One linear layer for every patch: the "no Perceiver" arm (Table 3), where each patch becomes a visual token."""

import dataclasses

from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.batch import Images
from vlmlab.model.connectors import Connector, ConnectorConfig
from vlmlab.model.layers import init_normal
from vlmlab.model.products import Linear


@dataclasses.dataclass(frozen=True)
class Config(ConnectorConfig):
    """Nothing to choose."""


class PerPatch(Connector):
    """Every patch's features, projected to the language model's width."""

    def __init__(self, config: Config, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.width = language_width
        self.projection = Linear(vision_width, language_width, bias=False)
        init_normal(self.projection, (0.4 / vision_width) ** 0.5)

    def count(self, grid: Int[Tensor, "n 2"]) -> list[int]:
        """One for each patch."""
        return [rows * columns for rows, columns in grid.tolist()]

    def forward(self, features: Float[Tensor, "p v"], images: Images) -> Float[Tensor, "l d"]:
        """The visual tokens of every image, in order."""
        return self.projection(features)


PLUGIN = PerPatch
