"""Puts the tensors of a checkpoint into a model that was built without memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmlab.hub.names import Step


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the module's parameter of that (dotted) name."""
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, nn.Parameter(tensor))


def fill(
    module: nn.Module,
    steps: Sequence[Step],
    unknown: Sequence[str],
    weights: Mapping[str, Tensor],
    where: Path,
    device: Any = "cpu",
    dtype: torch.dtype | None = None,
) -> None:
    """Give every parameter of a module built on the meta device its numbers, one tensor at a time.

    `dtype=None` keeps each as stored; on the CPU it then stays a view into the file. Raises ValueError when a tensor is
    missing, unexpected, or of another shape, naming it.
    """
    expected = dict(module.named_parameters())
    odd = [*unknown, *(step.theirs[0] for step in steps if step.ours not in expected)]
    if odd:
        raise ValueError(f"{where} holds {_some(odd)}, which this model has no place for")
    missing = sorted(expected.keys() - {step.ours for step in steps})
    if missing:
        raise ValueError(f"{where} has no tensor for {_some(missing)}")
    for step in steps:
        tensor = step.make(*(weights[name] for name in step.theirs))
        wanted = expected[step.ours].shape
        if tensor.shape != wanted:
            raise ValueError(
                f"{where}: {step.theirs[0]} is {list(tensor.shape)}, but {step.ours} of this config is {list(wanted)}"
            )
        if not tensor.is_floating_point():
            raise ValueError(
                f"{where}: {step.theirs[0]} holds {tensor.dtype} numbers; quantised weights cannot be read"
            )
        put(module, step.ours, tensor.to(device=device, dtype=dtype))


def _some(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more tensors"
