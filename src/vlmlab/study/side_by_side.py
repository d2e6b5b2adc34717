"""Runs side by side: each a process of its own, on a device of its own; or handed to Ray.

The processes are `vlmlab study STUDY --arm ARM --seed SEED`: what one of them leaves is what it would leave alone.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from vlmlab import cluster
from vlmlab.study import one
from vlmlab.study.plan import Plan
from vlmlab.study.study import check_small, command, prepare, runs


def carry_out(plan: Plan, file: Path, overrides: Sequence[str], root: Path, workers: int, ray: bool) -> None:
    """Do all runs that are left, `workers` at a time. Raises ValueError naming those that failed.

    The budget is looked at before each.
    """
    check_small(plan)
    devices = torch.cuda.device_count()
    prepare(plan, "cuda" if devices else "cpu")
    left = [run for run in runs(plan) if one.result(root, plan, *run) is None]

    def words(arm: str, seed: int) -> list[str]:
        return [sys.executable, "-m", "vlmlab", *command(file, overrides, root, arm, seed)]

    if ray:
        failed = _by_ray([words(*run) for run in left], devices)
    else:
        free: SimpleQueue[int] = SimpleQueue()
        for number in range(workers):
            free.put(number)

        def go(run: tuple[str, int]) -> int:
            used = sum(one.spent(root, plan, *every) for every in runs(plan))
            if used > 60 * plan.study.budget:
                return 0
            place = free.get()
            shown = {"CUDA_VISIBLE_DEVICES": str(place % devices)} if devices else {}
            try:
                return subprocess.run(words(*run), env={**os.environ, **shown}, check=False).returncode
            finally:
                free.put(place)

        with ThreadPoolExecutor(workers) as pool:
            failed = list(pool.map(go, left))
    wrong = [f"{arm}, seed {seed}" for (arm, seed), status in zip(left, failed, strict=True) if status]
    if wrong:
        raise ValueError(f"{len(wrong)} runs of {plan.name} failed ({'; '.join(wrong[:3])}): their output is above")


def _by_ray(commands: Sequence[Sequence[str]], devices: int) -> list[int]:
    """The exit statuses of commands that Ray runs, on one accelerator each where there are some."""
    with cluster.joined(cluster.named_address(), show_output=True):
        import ray

        task: Any = ray.remote(num_gpus=1 if devices else 0)(_status)
        return list(ray.get([task.remote(list(words)) for words in commands]))


def _status(words: list[str]) -> int:
    return subprocess.run(words, check=False).returncode
