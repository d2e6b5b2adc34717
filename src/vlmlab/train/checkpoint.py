"""Checkpoints: what was trained and the optimizer's state, written whole or not at all, and checked before use."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vlmlab.train import shards
from vlmlab.train.parallel import ALONE, Team

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
MANIFEST = "manifest.json"
"""The size and SHA-256 of every other file of a checkpoint."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: `step` steps are done."""

    folder: Path
    step: int

    def state(self) -> dict[str, Any]:
        """What was written beside the tensors."""
        return json.loads((self.folder / STATE).read_text(encoding="utf-8"))


class Found(NamedTuple):
    """Where a run goes on: its furthest checkpoint that is whole, and what is wrong with those that got further."""

    whole: Checkpoint | None = None
    damaged: tuple[str, ...] = ()


NOTHING = Found()
"""A run that starts anew."""


def home(run: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run / "checkpoints"


def kept(run: Path) -> list[Checkpoint]:
    """The checkpoints of a run, damaged ones included, the furthest first."""
    found = [Checkpoint(f, int(f.name.removeprefix("step-"))) for f in home(run).glob("step-*") if f.is_dir()]
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def latest(run: Path) -> Checkpoint | None:
    """The checkpoint of a run that got furthest, damaged or not, or None."""
    return next(iter(kept(run)), None)


def find(run: Path, team: Team = ALONE) -> Found:
    """The checkpoint to go on from: the furthest that is whole.

    Raises ValueError, naming each and what is wrong with it, when a run has checkpoints and none is whole.
    """

    def look() -> tuple[int | None, list[str]]:
        damaged: list[str] = []
        for checkpoint in kept(run):
            wrong = damage(checkpoint)
            if not wrong:
                return checkpoint.step, damaged
            damaged.append(f"{checkpoint.folder.name} is damaged ({wrong})")
        if damaged:
            raise ValueError(
                f"no checkpoint in {home(run)} is whole: {'; '.join(damaged)}. Start again in another folder"
            )
        return None, []

    step, damaged = team.led(look)
    return Found(None if step is None else Checkpoint(_place(run, step), step), tuple(damaged))


def damage(checkpoint: Checkpoint) -> str:
    """What is wrong with a checkpoint's files; empty when they are as they were written."""
    try:
        manifest = json.loads((checkpoint.folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {name: (told["bytes"], told["sha256"]) for name, told in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    for name, (size, digest) in listed.items():
        path = checkpoint.folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
        if _digest(path) != digest:
            return f"{name} has other bytes than were written"
    return ""


def save(
    run: Path,
    step: int,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int = 2,
    team: Team = ALONE,
) -> Checkpoint:
    """Write a checkpoint into `run`, then drop all but the newest `keep`, and any that got further.

    It is written beside its place and moved there when it is whole: by the first process, or if weights are sharded, by
    all. Raises OSError when the disk is full; those written before stay as they were.
    """
    place = _place(run, step)
    partial = home(run) / f".{place.name}.partial"
    spread = any(isinstance(p, DTensor) for p in trained.values())

    def begin() -> None:
        for old in home(run).glob(".step-*.partial"):  # of a process that died while it wrote
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir(parents=True)
        if not spread:
            _write(partial, trained, optimizer)

    def share() -> None:
        shards.write(partial, trained, optimizer, team)

    def end() -> None:
        (partial / STATE).write_text(json.dumps({**state, "step": step}, indent=1) + "\n", encoding="utf-8")
        write_manifest(partial)
        if place.exists():  # a damaged one, or of a time that a run went back from
            shutil.rmtree(place)
        partial.replace(place)
        _sync(home(run))

    for work, by_all in ((begin, False), (share, True), (end, False)):
        if by_all and not spread:
            continue
        error = _caught(work) if by_all or team.leads else None
        wrong = next(filter(None, team.gather("" if error is None else str(error) or type(error).__name__)), "")
        if wrong:
            if team.leads:
                shutil.rmtree(partial, ignore_errors=True)
            told = f"cannot write a checkpoint into {home(run)}: {wrong}; those already there are whole"
            raise OSError(told) from error
    if team.leads:
        past = [checkpoint for checkpoint in kept(run) if checkpoint.step <= step]
        for old in {*kept(run)} - {*past[:keep]}:
            shutil.rmtree(old.folder, ignore_errors=True)
    return Checkpoint(place, step)


def restore(
    checkpoint: Checkpoint,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer | None = None,
    team: Team = ALONE,
) -> None:
    """Put a checkpoint's weights, and the optimizer's state where one is given, back in place.

    How many processes wrote it makes no difference. Raises ValueError when it holds other parameters than `trained`.
    """
    spread = (checkpoint.folder / shards.STEPS).exists()
    weights = {} if spread else load_file(checkpoint.folder / WEIGHTS)
    shapes = shards.shapes(checkpoint.folder) if spread else {name: list(w.shape) for name, w in weights.items()}
    odd = sorted(shapes.keys() ^ trained.keys())
    if odd:
        raise ValueError(f"{checkpoint.folder} was written for other trained parts: {odd[0]} is in only one of the two")
    for name, parameter in trained.items():
        if shapes[name] != list(parameter.shape):
            raise ValueError(f"{checkpoint.folder}: {name} is {shapes[name]}, the model's {list(parameter.shape)}")
    if spread:
        shards.read(checkpoint.folder, trained, optimizer, team)
        return
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(_like(weights[name], parameter))
    for key, value in load_file(checkpoint.folder / OPTIMIZER).items() if optimizer is not None else ():
        assert optimizer is not None
        name, _, kind = key.rpartition("/")
        parameter = trained[name]
        # AdamW counts its steps on the host, but for the fused one.
        there = parameter.device if optimizer.defaults["fused"] else value.device
        optimizer.state[parameter][kind] = value.to(there) if kind == "step" else _like(value, parameter)


def _write(folder: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    save_file({name: p.detach().contiguous() for name, p in trained.items()}, folder / WEIGHTS)
    held = {
        f"{name}/{key}": value.contiguous() for name, p in trained.items() for key, value in optimizer.state[p].items()
    }
    save_file(held, folder / OPTIMIZER)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor where a parameter is, and spread as it is."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _caught(work: Callable[[], None]) -> Exception | None:
    """Whatever goes wrong, for the other processes to know; safetensors reports a full disk as an error of its own."""
    try:
        work()
    except Exception as error:
        return error
    return None


def _place(run: Path, step: int) -> Path:
    return home(run) / f"step-{step:06d}"


def write_manifest(folder: Path) -> None:
    """Say what a folder's files are, last of all, and have the disk hold them."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    told = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files}
    (folder / MANIFEST).write_text(json.dumps({"files": told}, indent=1) + "\n", encoding="utf-8")
    for path in (*files, folder / MANIFEST, folder):
        _sync(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the disk hold what was written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
