"""Quantizers: VLM -> VLM, with weights in few bits. `vlmlab quantize`, `--quantize`, `load(..., quantize=...)`.

Every quantizer holds the tokens' embeddings and the language head in eight bits, one scale a row, and the other
matrices in a way of its own. Vision and connector are left alone unless `parts` names them.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import nn

from vlmlab.batch import Batch
from vlmlab.component import Plugin, find, plugins
from vlmlab.hub.named import HEAD
from vlmlab.model.adapters import fold
from vlmlab.model.packed import Packed, Rows8, Table8, packed
from vlmlab.model.products import Embedding, Linear
from vlmlab.model.vlm import PARTS, VLM

PIXELS = "vision.patch"
"""The layer over pixels stays as it is: it is small, and everything hangs on it."""


@dataclasses.dataclass(frozen=True)
class QuantizerConfig(Plugin):
    """What every quantizer has: the parts of the model whose matrices it holds in few bits."""

    home: ClassVar[str] = "vlmlab.quantize"

    parts: tuple[str, ...] = ("language", "fusion")

    def __post_init__(self) -> None:
        odd = [part for part in self.parts if part not in PARTS]
        if odd or not self.parts:
            raise ValueError(f"parts: {odd[0] if odd else 'none'} is no part of a model; parts: {', '.join(PARTS)}")


class Quantizer:
    """Changes a model, layer by layer, so that no more memory is taken than the larger of the two and one layer.

    `batches` are what a method that looks at activations looks at.
    """

    def __init__(self, config: QuantizerConfig, batches: Sequence[Batch] = ()) -> None:
        self.config, self.batches = config, batches

    @torch.no_grad()
    def __call__(self, model: VLM) -> VLM:
        """The model itself, with its weights in few bits; what acts of its adapters is put into them first.

        Raises ValueError for a model that was quantized already.
        """
        taken = sorted({layer.kind for layer in packed(model).values()})
        if taken:
            raise ValueError(
                f"weights of this model are held in {' and '.join(taken)} already: quantize the model it was made from"
            )
        fold(model)
        model.eval()
        self.prepare(model)
        for path, layer in list(matrices(model, self.config.parts)):
            model.set_submodule(path, self.pack(layer, path))
        return model

    def prepare(self, model: VLM) -> None:
        """What is to be done to the whole model before its layers are packed."""

    def pack(self, layer: Linear | Embedding, path: str) -> Packed:
        """One layer in few bits."""
        if isinstance(layer, Embedding):
            return Table8(layer)
        return Rows8(layer) if path == HEAD else self.matrix(layer, path)

    def matrix(self, layer: Linear, path: str) -> Packed:
        """A matrix that is neither embedding nor head in few bits."""
        raise NotImplementedError

    def speed_up(self, model: VLM) -> None:
        """Take the products of a model's layers of this kind with a faster kernel, where its package is here."""


def matrices(model: VLM, parts: Sequence[str]) -> Iterator[tuple[str, Linear | Embedding]]:
    """The matrices of some parts that can be held in few bits, by their path."""
    for part in parts:
        for path, module in model.get_submodule(part).named_modules(prefix=part):
            if isinstance(module, Linear | Embedding) and path != PIXELS:
                yield path, module


def speed_up(model: VLM) -> VLM:
    """Take products with faster kernels than torch's own where a package that has them is installed.

    bitsandbytes for NF4, torchao for four bits on a GPU. For a model on its device, quantized here or loaded from a
    quantized folder.
    """
    if packed(model):
        for name in plugins(QuantizerConfig):
            find(QuantizerConfig, name)().build().speed_up(model)
    return model


def told(model: VLM) -> dict[str, tuple[str, ...]]:
    """How each kind of weights in few bits has its products computed: the paths taken, by kind."""
    paths: dict[str, set[str]] = {}
    for layer in packed(model).values():
        paths.setdefault(layer.kind, set()).add(layer.path(model.device))
    return {kind: tuple(sorted(some)) for kind, some in paths.items()}


def of(kind: type[Packed], model: nn.Module) -> list[Packed]:
    """The layers of a model that are of one kind."""
    return [layer for layer in packed(model).values() if isinstance(layer, kind)]
