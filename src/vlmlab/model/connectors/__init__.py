"""Connectors: the vision tower's features become visual tokens that a language model can read."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmlab.batch import Images
from vlmlab.component import Plugin


@dataclasses.dataclass(frozen=True)
class ConnectorConfig(Plugin):
    """Base of the configs of connectors. A connector is built as `PLUGIN(config, vision_width, language_width)`."""

    home: ClassVar[str] = "vlmlab.model.connectors"


class Connector(nn.Module):
    """A connector: `features [p, v], Images -> visual [l, d]`, image after image."""

    width: int
    """Width of the visual tokens (`d`): the language model's, unless the fusion takes another."""

    def forward(self, features: Float[Tensor, "p v"], images: Images) -> Float[Tensor, "l d"]:
        """The visual tokens of every image, in order: `count(images.grid)` of them each."""
        raise NotImplementedError

    def count(self, grid: Int[Tensor, "n 2"]) -> list[int]:
        """How many visual tokens each image of `grid` (rows, columns) becomes: a pure function of the grid."""
        raise NotImplementedError
