"""Benchmarks that need a machine of their own still run, at a tiny size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", ["gpu", "cold_start", "stream", "training", "evaluation"])
def test_it_runs(name: str) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--tiny", "--no-write", "--rounds", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=BENCHMARKS)
    assert done.returncode == 0, done.stderr[-2000:]
    table = [line.split() for line in done.stdout.splitlines() if line.startswith(("vlmlab", "transformers"))]
    assert {line[0].rstrip(",") for line in table} == {"vlmlab", "transformers"}
    assert "written" not in done.stdout
