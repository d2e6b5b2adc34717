"""Activation checkpointing: what a layer computed is made again in the backward pass instead of kept for it."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vlmlab.model.vlm import PARTS, VLM
from vlmlab.train.recipe import Stage


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """A layer's forward that keeps what goes in and nothing of what is inside, dropout's choices included."""

    forward: Callable[..., Any]

    def __call__(self, *inputs: Any) -> Any:
        """What the layer gives."""
        if not torch.is_grad_enabled():
            return self.forward(*inputs)
        return checkpoint(self.forward, *inputs, use_reentrant=False)


def repeated(model: VLM) -> list[nn.Module]:
    """The layers of every part: what it holds in lists."""
    lists = (child for part in PARTS for child in model.get_submodule(part).children())
    return [layer for layers in lists if isinstance(layers, nn.ModuleList) for layer in layers]


@contextlib.contextmanager
def recomputed(model: VLM, stage: Stage) -> Iterator[None]:
    """With `stage.checkpointing`, each layer keeps its input alone while inside. Losses and gradients stay the same."""
    layers = repeated(model) if stage.checkpointing else []
    for layer in layers:
        layer.forward = Recomputed(layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
