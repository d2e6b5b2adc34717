"""Puts the tensors of a checkpoint into a model that was built without memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmlab.hub.names import Step


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the module's parameter or buffer of that (dotted) name."""
    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent)
    setattr(owner, leaf, tensor if leaf in dict(owner.named_buffers(recurse=False)) else nn.Parameter(tensor))


def fill(
    module: nn.Module,
    steps: Sequence[Step],
    unknown: Sequence[str],
    weights: Mapping[str, Tensor],
    where: Path,
    device: Any = "cpu",
    dtype: torch.dtype | None = None,
) -> None:
    """Give everything that a module built on the meta device holds its numbers, one tensor at a time.

    `dtype=None` keeps each as stored; on the CPU it then stays a view into the file. Codes and scales of weights in few
    bits stay as stored anyway. Raises ValueError when a tensor is missing, unexpected, or of another shape, naming it.
    """
    fixed = dict(module.named_buffers())
    expected: dict[str, Tensor] = {**dict(module.named_parameters()), **fixed}
    odd = [*unknown, *(step.theirs[0] for step in steps if step.ours not in expected)]
    if odd:
        raise ValueError(f"{where} holds {_some(odd)}, which this model has no place for")
    missing = sorted(expected.keys() - {step.ours for step in steps})
    if missing:
        raise ValueError(f"{where} has no tensor for {_some(missing)}")
    for step in steps:
        tensor = step.make(*(weights[name] for name in step.theirs))
        shape = expected[step.ours].shape
        if tensor.shape != shape:
            raise ValueError(
                f"{where}: {step.theirs[0]} is {list(tensor.shape)}, but {step.ours} of this config is {list(shape)}"
            )
        if step.ours in fixed:
            wanted = fixed[step.ours]
            if tensor.dtype != wanted.dtype and not (tensor.is_floating_point() and wanted.is_floating_point()):
                raise ValueError(f"{where}: {step.theirs[0]} holds {tensor.dtype}, not {wanted.dtype}")
            put(module, step.ours, tensor.to(device))
            continue
        if not tensor.is_floating_point():
            raise ValueError(
                f"{where}: {step.theirs[0]} holds {tensor.dtype} numbers; quantised weights cannot be read"
            )
        put(module, step.ours, tensor.to(device=device, dtype=dtype))


def _some(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more tensors"
