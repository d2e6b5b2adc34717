"""Eight bits, one scale a row: the nearest of 255 levels for each weight, no data needed.

What is stored is what torchao's `Int8WeightOnlyConfig` stores, but for a scale of a 127th where it takes 2 / 255ths.
Products are not torchao's: on a CPU its eager path unpacks the whole weight for each, which is slower than no
quantization, so torch's own kernel is called here.
"""

import dataclasses

from vlmlab.model.packed import Packed, Rows8
from vlmlab.model.products import Linear
from vlmlab.quantize import Quantizer, QuantizerConfig


@dataclasses.dataclass(frozen=True)
class Config(QuantizerConfig):
    """Nothing to choose but the parts."""


class RowsOfEight(Quantizer):
    """Every matrix in eight bits."""

    def matrix(self, layer: Linear, path: str) -> Packed:
        """A matrix that is neither embedding nor head in few bits."""
        return Rows8(layer)


PLUGIN = RowsOfEight
