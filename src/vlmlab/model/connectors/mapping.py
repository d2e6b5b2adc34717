"""MAPL's mapping network (Mañas et al., 2023), the second of the pooling strategies compared in Table 11 (A.1.3).

Patches are projected down to a small width and read, together with learned queries, by a small pre-norm transformer;
what becomes of the queries is projected up to the language model's width.
"""

import dataclasses

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmlab.batch import Images
from vlmlab.model.attention import Weave
from vlmlab.model.connectors import Connector, ConnectorConfig
from vlmlab.model.layers import EncoderLayer
from vlmlab.model.products import Linear


@dataclasses.dataclass(frozen=True)
class Config(ConnectorConfig):
    """The numbers of MAPL; `ratio` is the MLP's width over the transformer's own."""

    queries: int = 32
    inner: int = 256
    layers: int = 4
    heads: int = 8
    ratio: int = 2
    eps: float = 1e-5


class Mapping(Connector):
    """`queries` visual tokens for every image, whatever its size."""

    def __init__(self, config: Config, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.width = language_width
        self.down = Linear(vision_width, config.inner)
        self.queries = nn.Parameter(torch.empty(config.queries, config.inner))
        self.layers = nn.ModuleList(
            EncoderLayer(config.inner, config.heads, config.ratio * config.inner, "relu", config.eps)
            for _ in range(config.layers)
        )
        self.up = Linear(config.inner, language_width)
        self._initialise(config)

    def _initialise(self, config: Config) -> None:
        """As MAPL's code does: torch's own, which draws queries, keys and values as one matrix (Glorot)."""
        nn.init.normal_(self.queries)
        bound = (6 / (4 * config.inner)) ** 0.5
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            for projection in (layer.attention.q, layer.attention.k, layer.attention.v):
                nn.init.uniform_(projection.weight, -bound, bound)
                nn.init.zeros_(projection.bias)
            nn.init.zeros_(layer.attention.o.bias)

    def count(self, grid: Int[Tensor, "n 2"]) -> list[int]:
        """`queries` for every image, whatever its size."""
        return [len(self.queries)] * len(grid)

    def forward(self, features: Float[Tensor, "p v"], images: Images) -> Float[Tensor, "l d"]:
        """The visual tokens of every image, in order."""
        weave = Weave.of([rows * columns for rows, columns in images.sizes()], self.count(images.grid))
        queries = repeat(self.queries, "l k -> (n l) k", n=len(images.grid))
        x = torch.cat([self.down(features), queries])[weave.gather.to(features.device)]
        for layer in self.layers:
            x = layer(x, weave.blocks)
        return self.up(x[weave.back.to(x.device)])


PLUGIN = Mapping
