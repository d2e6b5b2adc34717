"""Weights held in few bits, as files: the table `[quantized]` of `vlmlab.toml`, and tensors named as the model's own.

    [quantized]
    method = { name = "int8" }      how they came to be so
    group = 32                      of four bits: how many weights share a step
    [quantized.layers]
    int8 = ["language.embedding", "language.layers.*.attention.q"]

A `*` stands for any one piece of a path.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn

from vlmlab import component
from vlmlab.model.adapters import fold
from vlmlab.model.int4 import Groups4
from vlmlab.model.nf4 import NF4
from vlmlab.model.packed import Packed, Rows8, Table8
from vlmlab.model.packed import packed as layers
from vlmlab.model.products import Embedding, Linear
from vlmlab.model.vlm import VLM

TABLE, RECIPE = "quantized", "vlmlab.toml"


@dataclasses.dataclass(frozen=True)
class Held:
    """Which layers of a checkpoint are held in few bits, by kind, and how they came to be so."""

    method: dict[str, Any]
    layers: dict[str, tuple[str, ...]]
    group: int = 32


KINDS: dict[str, Callable[[Linear, int], Packed]] = {
    Rows8.kind: lambda layer, group: Rows8(layer),
    Groups4.kind: Groups4,
    NF4.kind: lambda layer, group: NF4(layer),
}


def read(folder: Path) -> Held | None:
    """What the `vlmlab.toml` of a folder says of weights in few bits; None when it says nothing."""
    data = component.read_toml(folder / RECIPE)
    if TABLE not in data:
        return None
    try:
        return component.parse(Held, data[TABLE], TABLE, trusted=False)
    except ValueError as error:
        raise ValueError(f"{folder / RECIPE}: {error}") from None


def prepare(model: VLM, held: Held, where: Path) -> None:
    """Put packed layers, still without numbers, into a model on the meta device. Raises ValueError naming a path."""
    for kind, patterns in held.layers.items():
        if kind not in KINDS:
            raise ValueError(f"{where}: weights in {kind!r} cannot be read; known: {', '.join(KINDS)}")
        for pattern in patterns:
            for path, layer in _matching(model, pattern, where).items():
                try:
                    made = Table8(layer) if isinstance(layer, Embedding) else KINDS[kind](layer, held.group)
                except ValueError as error:
                    raise ValueError(f"{where}: {path}: {error}") from None
                model.set_submodule(path, made)


def describe(model: VLM, method: Mapping[str, Any]) -> Held:
    """What `vlmlab.toml` is to say of a model that `method` has quantized."""
    kinds: dict[str, list[str]] = {}
    group = 32
    for path, layer in layers(model).items():
        kinds.setdefault(layer.kind, []).append(path)
        group = layer.group if isinstance(layer, Groups4) else group
    linear = [path for path, module in model.named_modules() if isinstance(module, Linear | Embedding | Packed)]
    return Held(dict(method), {kind: _short(paths, linear) for kind, paths in kinds.items()}, group)


def state(model: VLM) -> dict[str, Shaped[Tensor, "..."]]:
    """What of a quantized model goes into files: its tensors as they are held, adapters put into what is not packed."""
    fold(model)
    for layer in layers(model).values():
        layer.rest()
    return dict(model.state_dict())


def _matching(model: nn.Module, pattern: str, where: Path) -> dict[str, Any]:
    shape = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))
    found = {
        path: module
        for path, module in model.named_modules()
        if shape.fullmatch(path) and isinstance(module, Linear | Embedding)
    }
    if not found:
        raise ValueError(f"{where}: {TABLE}.layers names {pattern}, but this model has no such layer")
    return found


def _short(paths: list[str], linear: list[str]) -> tuple[str, ...]:
    """Paths with `*` for their numbers, where that names no other layer."""
    taken = set(paths)
    found: dict[str, None] = {}
    for path in paths:
        pattern = ".".join("*" if piece.isdigit() else piece for piece in path.split("."))
        shape = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))
        others = {other for other in linear if shape.fullmatch(other)} - taken
        found[path if others else pattern] = None
    return tuple(found)
