"""The sharded part of a checkpoint: every process writes what it holds, and any number of them can read it.

By torch.distributed.checkpoint, in safetensors: a file for each process, each piece with its place in the whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vlmlab.train.parallel import Team

STEPS = "steps.json"
"""How often each parameter was moved; where this is, a checkpoint is in shards."""


def write(folder: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, team: Team) -> None:
    """Write this process's share of weights and the optimizer's state. Raises what the writer does, in all."""
    tensors: dict[str, Any] = {f"weights/{name}": p.detach() for name, p in trained.items()}
    for name, p in trained.items():
        state = optimizer.state.get(p, {})
        tensors |= {f"optimizer/{name}/{key}": value for key, value in state.items() if key != "step"}
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    distributed.save(tensors, storage_writer=writer, process_group=team.line, no_dist=team.alone)
    if team.leads:
        steps = {name: float(optimizer.state[p]["step"]) for name, p in trained.items() if p in optimizer.state}
        (folder / STEPS).write_text(json.dumps(steps) + "\n", encoding="utf-8")


def shapes(folder: Path) -> dict[str, list[int]]:
    """The parameters that a folder holds, with their whole shapes."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    told: dict[str, list[int]] = {}
    for key, tensor in found.items():
        if key.startswith("weights/"):
            assert isinstance(tensor, TensorStorageMetadata)
            told[key.removeprefix("weights/")] = list(tensor.size)
    return told


def read(
    folder: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer | None, team: Team
) -> None:
    """Put weights, and the optimizer's state where one is given, in place, whatever is sharded here or was then."""
    steps = json.loads((folder / STEPS).read_text(encoding="utf-8"))
    tensors: dict[str, Any] = {f"weights/{name}": p.detach() for name, p in trained.items()}
    for name in steps if optimizer is not None else ():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"optimizer/{name}/{key}"] = torch.zeros_like(trained[name]).detach()
    reader = HuggingFaceStorageReader(str(folder))
    distributed.load(tensors, storage_reader=reader, process_group=team.line, no_dist=team.alone)
    if optimizer is None:
        return
    for name, count in steps.items():
        parameter = trained[name]
        there: Tensor = torch.tensor(count, dtype=torch.float32)
        # AdamW counts its steps on the host, but for the fused one.
        there = there.to(parameter.device) if optimizer.defaults["fused"] else there
        averages = {key: tensors[f"optimizer/{name}/{key}"] for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": there, **averages}
