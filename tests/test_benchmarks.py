"""Benchmarks that need a machine of their own still run, at a tiny size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


BOTH = {"vlmlab", "transformers"}


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("gpu", BOTH),
        ("cold_start", BOTH),
        ("serve", BOTH),
        ("stream", BOTH),
        ("training", BOTH),
        ("evaluation", BOTH),
        ("quantize", {"vlmlab"}),
    ],
)
def test_it_runs(name: str, sides: set[str]) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--tiny", "--no-write", "--rounds", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=BENCHMARKS)
    assert done.returncode == 0, done.stderr[-2000:]
    table = [line.split() for line in done.stdout.splitlines() if line.startswith(("vlmlab", "transformers"))]
    assert {line[0].rstrip(",") for line in table} == sides
    assert "written" not in done.stdout


def test_kernels_that_are_kept_take_memory() -> None:
    command = [sys.executable, str(BENCHMARKS / "kept_kernels.py"), "--tiny", "--no-write"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=BENCHMARKS)
    assert done.returncode == 0, done.stderr[-2000:]
    few, many = (line.split() for line in done.stdout.splitlines()[1:])
    assert few[0] == "16" and many[0] == "1024" and float(many[2]) > float(few[2]) + 1


def test_the_cards_table_has_a_row_for_each_of_the_cards() -> None:
    command = [sys.executable, str(BENCHMARKS / "card.py"), "--tiny", "--no-write"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=BENCHMARKS)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("True", "False"))]
    assert len(rows) == 16 + 8
    for name in ("dense", "eager", "sdpa"):
        assert any(name in row for row in rows)
    assert ["41.3", "34.3"] in [row[5:7] for row in rows]
