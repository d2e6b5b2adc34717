"""Two processes train as one does: the same losses, counts and weights; their checkpoints are read by any number."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train import tiny
from train.nursery import TESTS, Nursery
from vlmlab import component
from vlmlab.train import checkpoint, shards
from vlmlab.train.log import TIMED, read_metrics


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


def recipe(folder: Path, pictures: float = 1, score: int = 0, **changes) -> Path:
    """Pictures and sums without any, so that passes differ from process to process, in number too.

    Every `score` steps (0: never) held-out pictures are measured.
    """
    folder.mkdir(exist_ok=True)
    stage = {"steps": 6, "batch": 8, "window": 2, "tokens": 70, "noise": 1.0, "save_every": 1, "keep": 9, "lr": 3e-4}
    stage |= {"train": ["vision", "connector", "language"], **changes}
    path = tiny.recipe(folder, stage=stage)
    data = component.read_toml(path)
    data["score"]["every"] = score
    if not score:
        del data["score"]
    lines = [[("user", f"{n} + {n}?"), ("assistant", f"{2 * n}, " * (n % 7 + 1))] for n in range(50)]
    told = [{"messages": [{"role": role, "content": text} for role, text in line]} for line in lines]
    (folder / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told), encoding="utf-8")
    sources = {
        "squares": {"weight": pictures, "data": {"name": "train.tiny"}},
        "sums": {"weight": 2, "tokens": 64, "data": {"name": "jsonl", "path": str(folder / "sums.jsonl")}},
    }
    data["data"] = {"name": "mixture", "unit": "samples", "sources": sources}
    path.write_text(component.write_toml(data), encoding="utf-8")
    return path


def losses(run: Path) -> list[float]:
    return [r["loss"] for r in read_metrics(run) if r["kind"] == "step"]


def counts(run: Path) -> list[dict]:
    """What is told but for losses and times: equal to the last digit."""
    inexact = (*TIMED, "loss", "gradient_norm", "loss_by_source", "loss_by_kind", "padding")
    return [{k: v for k, v in r.items() if k not in inexact} for r in read_metrics(run) if r["kind"] != "run"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {k: v for path in (run / "model").glob("*.safetensors") for k, v in load_file(path).items()}


def check_same(one: Path, other: Path) -> None:
    assert losses(other) == pytest.approx(losses(one), rel=1e-6)
    assert len(losses(one)) == 6 and counts(one) == counts(other)
    found, expected = weights(other), weights(one)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


CASES = {
    "plain": {},
    "sharded": {"shard": True},
    "steps without pictures": {"shard": True, "pictures": 0.2, "warmup": 0, "lr": 1e-3},
    "frozen tower": {"shard": True, "train": ["connector"], "adapters": {"language": {"kind": "dora", "rank": 2}}},
    "bfloat16": {"shard": True, "train": ["connector"], "precision": "bfloat16", "checkpointing": True},
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_as_one(nursery, tmp_path, case):
    path = recipe(tmp_path, **CASES[case])
    for size in (1, 2):
        status = nursery.run(["train", path, "--out", tmp_path / str(size)], tmp_path / "said", size)
        assert status == [0] * size, Path(f"{tmp_path}/said.0").read_text()
    check_same(tmp_path / "1", tmp_path / "2")
    assert not Path(f"{tmp_path}/said.1").read_text()
    if "pictures" in CASES[case]:
        images = [r["images"] for r in read_metrics(tmp_path / "1") if r["kind"] == "step"]
        assert any(images) and 0 in images[images.index(max(images)) :]
    spread = (checkpoint.latest(tmp_path / "2").folder / shards.STEPS).exists()
    assert spread == ("shard" in CASES[case])


SCORED = {
    "plain": {},
    "sharded": {"shard": True},
    "sharded, frozen tower": {"shard": True, "train": ["connector"], "precision": "bfloat16"},
}


@pytest.mark.parametrize("case", SCORED)
def test_two_processes_measure_what_one_does(nursery, tmp_path, case):
    """While they train, and then: the same scores, and losses as if nothing had been measured."""
    for size, score in ((1, 2), (2, 2), (2, 0)):
        path = recipe(tmp_path / f"of {size}{score}", score=score, steps=4, **SCORED[case])
        status = nursery.run(["train", path, "--out", tmp_path / f"{size}{score}"], tmp_path / "said", size)
        assert status == [0] * size, Path(f"{tmp_path}/said.0").read_text()
    one, two, unscored = (tmp_path / name for name in ("12", "22", "20"))
    assert losses(two) == pytest.approx(losses(one), rel=1e-6) and losses(two) == losses(unscored)
    (alone, together) = ([r for r in read_metrics(run) if r["kind"] == "score"] for run in (one, two))
    assert [r["step"] for r in together] == [0, 2, 4] == [r["step"] for r in alone]
    for expected, found in zip(alone, together, strict=True):
        assert found.keys() == {"kind", "step", "right", "shuffled", "right_by_source", "shuffled_by_source"}
        assert found["right_by_source"] == {"squares": found["right"]}
        for key in ("right", "shuffled"):
            assert found[key] == pytest.approx(expected[key], rel=1e-5)
    assert together[0]["right"] != together[2]["right"]
    told = [json.loads((run / "scores.json").read_text())["after"]["squares"] for run in (one, two)]
    assert told[0]["pictures"] == told[1]["pictures"] == 24
    assert told[1]["right"] == pytest.approx(told[0]["right"], rel=1e-5)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("sizes", [(2, 1), (1, 2)])
def test_a_checkpoint_is_read_at_another_size(nursery, tmp_path, sizes, shard):
    path, first, then = recipe(tmp_path, shard=shard), tmp_path / "first", tmp_path / "then"
    assert nursery.run(["train", path, "--out", first], tmp_path / "said", sizes[0]) == [0] * sizes[0]
    shutil.copytree(first, then)
    for one in checkpoint.kept(then)[:3]:
        shutil.rmtree(one.folder)
    assert checkpoint.find(then).whole.step == 3
    status = nursery.run(["train", path, "--out", then, "--resume"], tmp_path / "said", sizes[1])
    assert status == [0] * sizes[1], Path(f"{tmp_path}/said.0").read_text()
    check_same(first, then)


def test_a_signal_to_one_stops_all_behind_the_same_step(nursery, tmp_path):
    path, run = recipe(tmp_path, steps=100_000, save_every=100_000), tmp_path / "run"
    pids = nursery.start(["train", path, "--out", run], tmp_path / "said", 2)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (run.exists() and len(losses(run)) > 3):
        time.sleep(0.05)
    os.kill(pids[1], signal.SIGTERM)
    assert nursery.end() == [143, 143]
    step = checkpoint.find(run).whole.step
    for rank in range(2):
        assert f"stopped after step {step} of 100000" in Path(f"{tmp_path}/said.{rank}").read_text()
    assert read_metrics(run)[-1]["step"] == step


def test_more_processes_than_windows_are_refused(nursery, tmp_path):
    path = recipe(tmp_path, window=8)
    assert nursery.run(["train", path, "--out", tmp_path / "run"], tmp_path / "said", 2) == [2, 2]
    assert "2 processes, but a step has 1 windows of 8 samples" in Path(f"{tmp_path}/said.0").read_text()


@pytest.mark.slow
def test_torchrun_starts_them(tmp_path):
    path = recipe(tmp_path, steps=2, shard=True)
    told = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    words = [
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "vlmlab",
        "train",
        str(path),
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words], env=told, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "run")) == 2
