"""Checkpoints: what was trained and the optimizer's state, written whole or not at all."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: `step` steps are done."""

    folder: Path
    step: int

    def state(self) -> dict[str, Any]:
        """What was written beside the tensors."""
        return json.loads((self.folder / STATE).read_text(encoding="utf-8"))


def home(run: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run / "checkpoints"


def latest(run: Path) -> Checkpoint | None:
    """The checkpoint of a run that got furthest, or None."""
    found = [Checkpoint(f, int(f.name.removeprefix("step-"))) for f in home(run).glob("step-*") if f.is_dir()]
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def save(
    run: Path,
    step: int,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int = 2,
) -> Checkpoint:
    """Write a checkpoint into `run`, then drop all but the newest `keep`.

    It is written beside its place and moved there when it is whole: one that exists is complete. Raises OSError when
    the disk is full; those written before stay as they were.
    """
    place = home(run) / f"step-{step:06d}"
    partial = home(run) / f".{place.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({name: p.detach().contiguous() for name, p in trained.items()}, partial / WEIGHTS)
        held = {
            f"{name}/{key}": value.contiguous()
            for name, p in trained.items()
            for key, value in optimizer.state[p].items()
        }
        save_file(held, partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps({**state, "step": step}, indent=1) + "\n", encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _sync(path)
        if place.exists():
            shutil.rmtree(place)
        partial.replace(place)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        # safetensors reports a full disk as an error of its own.
        raise OSError(f"cannot write a checkpoint into {home(run)}: {error}; those already there are whole") from error
    for old in sorted(home(run).glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(place, step)


def restore(
    checkpoint: Checkpoint, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Put a checkpoint's weights, and the optimizer's state where one is given, back in place.

    Raises ValueError when it holds other parameters than `trained`.
    """
    weights = load_file(checkpoint.folder / WEIGHTS)
    odd = sorted(weights.keys() ^ trained.keys())
    if odd:
        raise ValueError(f"{checkpoint.folder} was written for other trained parts: {odd[0]} is in only one of the two")
    with torch.no_grad():
        for name, parameter in trained.items():
            if weights[name].shape != parameter.shape:
                raise ValueError(
                    f"{checkpoint.folder}: {name} is {list(weights[name].shape)}, the model's {list(parameter.shape)}"
                )
            parameter.copy_(weights[name])
    if optimizer is None:
        return
    state = load_file(checkpoint.folder / OPTIMIZER)
    for key, value in state.items():
        name, _, kind = key.rpartition("/")
        parameter = trained[name]
        # AdamW counts its steps on the host, but for the fused one.
        there = kind != "step" or optimizer.defaults["fused"]
        optimizer.state[parameter][kind] = value.to(parameter.device) if there else value


def _sync(path: Path) -> None:
    """Have the disk hold what was written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
