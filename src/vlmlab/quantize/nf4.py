"""Four bits at the quantiles of a normal distribution, in blocks of 64 (Dettmers et al., 2023): no data needed.

The numbers are those of QLoRA's base and of bitsandbytes, whose kernels take the products where it is installed.
"""

import dataclasses
import functools
import importlib.util
import logging

import torch
from jaxtyping import Float
from torch import Tensor

from vlmlab.model.nf4 import BLOCK, NF4
from vlmlab.model.packed import Kernel, Packed
from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM
from vlmlab.quantize import Quantizer, QuantizerConfig, of


@dataclasses.dataclass(frozen=True)
class Config(QuantizerConfig):
    """Nothing to choose but the parts."""


class Quantiles(Quantizer):
    """Every matrix in NF4."""

    def matrix(self, layer: Linear, path: str) -> Packed:
        """A matrix that is neither embedding nor head in few bits."""
        return NF4(layer)

    def speed_up(self, model: VLM) -> None:
        """bitsandbytes' kernels, where it is here."""
        for layer in of(NF4, model):
            assert isinstance(layer, NF4)
            whole = layer.in_features % BLOCK == 0  # its kernels want whole blocks in a row
            if layer.kernel is None and whole and importlib.util.find_spec("bitsandbytes") is not None:
                layer.kernel = Kernel("bitsandbytes.matmul_4bit", functools.partial(product, layer))


def product(layer: NF4, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
    """`x` times the transposed weight by bitsandbytes' kernels, in `x`'s dtype."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels that it would fetch from a hub
    import bitsandbytes
    from bitsandbytes.functional import QuantState

    low = torch.float32 if x.dtype == torch.float64 else x.dtype
    shape = torch.Size((layer.out_features, layer.in_features))
    state = QuantState(absmax=layer.scales, shape=shape, blocksize=BLOCK, quant_type="nf4", dtype=low)
    out: Tensor = bitsandbytes.matmul_4bit(x.to(low), layer.codes[:, None].t(), state)
    return out.to(x.dtype)


PLUGIN = Quantiles
