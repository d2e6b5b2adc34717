"""Weights that do not learn, held in bfloat16 while others do; and how a model is spread over processes with them."""

import contextlib
from collections.abc import Iterator

import torch

from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM
from vlmlab.train import parallel
from vlmlab.train.optimizer import freeze
from vlmlab.train.parallel import Team
from vlmlab.train.recipe import Stage


@contextlib.contextmanager
def lowered(model: VLM, stage: Stage) -> Iterator[None]:
    """With `precision = "bfloat16"`, hold those matrices of a decoder that do not learn in bfloat16 while training.

    They are put back as they were at the end. What learns stays in float32; so do norms, embeddings and the stream
    between layers, and the vision tower, which sees each picture once. A sharded model was lowered before; see
    `spread`.
    """
    held = {} if parallel.sharded(model) else {weight: weight.data for weight in _lowering(model, stage)}
    try:
        for weight in held:
            weight.data = weight.data.to(torch.bfloat16)
        yield
    finally:
        for weight, data in held.items():
            weight.data = data


def _lowering(model: VLM, stage: Stage) -> list[torch.Tensor]:
    return [
        layer.weight
        for name in ("language", "fusion")
        for layer in model.get_submodule(name).modules()
        if stage.precision == "bfloat16" and isinstance(layer, Linear) and not layer.weight.requires_grad
    ]


def spread(model: VLM, stage: Stage, team: Team) -> None:
    """Shard a model for a stage, for good: what it would hold in bfloat16 while training stays so."""
    freeze(model, stage)
    for weight in _lowering(model, stage):
        weight.data = weight.data.to(torch.bfloat16)
    parallel.shard(model, stage, team)
