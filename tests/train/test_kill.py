"""Exact resume as a promise: killed at any moment, a run goes on to the same losses and weights, to the last bit."""

import random
from pathlib import Path

import pytest

from train import tiny
from train.nursery import Nursery
from train.test_checkpoint import cut
from vlmlab.train import checkpoint
from vlmlab.train.checkpoint import OPTIMIZER, WEIGHTS
from vlmlab.train.log import TIMED, read_metrics

KILLS = 20


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def recipe(tmp_path):
    stage = {"steps": 24, "save_every": 1, "batch": 4, "window": 2, "noise": 1.0, "warmup": 2, "precision": "float32"}
    stage |= {"train": ["vision", "connector", "language"]}
    return tiny.recipe(tmp_path, stage=stage, score={"every": 4, "watched": 4, "others": 2, "pictures": 4})


def steps(folder: Path):
    return [{k: v for k, v in r.items() if k not in TIMED} for r in read_metrics(folder) if r["kind"] != "run"]


def leftovers(folder: Path):
    return [path.name for path in checkpoint.home(folder).glob(".*")]


def written(folder: Path):
    """Every tensor that a run leaves, as bytes."""
    files = [*(folder / "model").glob("*.safetensors"), *checkpoint.latest(folder).folder.glob("*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_twenty_kills_a_full_disk_and_a_cut_checkpoint_change_no_bit(nursery, recipe, tmp_path):
    whole, broken, said = tmp_path / "whole", tmp_path / "broken", tmp_path / "said"
    calls = {}
    for where in ("training", "writing"):
        assert nursery.run(["train", recipe, "--out", tmp_path / where], said, death=(where, 0)) == [0]
        calls[where] = int(Path(f"{said}.0.calls").read_text()) // 24  # those of a step, or of a checkpoint
    (tmp_path / "training").rename(whole)

    def again():
        return ["--resume"] if checkpoint.latest(broken) else []

    drawn, found = random.Random(20), set()
    for kill in range(KILLS):
        where = ("training", "writing")[kill % 2]
        death = (where, drawn.randint(1, calls[where] if where == "writing" else 5 * calls[where]))
        status = nursery.run(["train", recipe, "--out", broken, *again()], said, death=death)
        assert status == [-9], (death, Path(f"{said}.0").read_text())
        found.add((where, bool(leftovers(broken))))
    assert ("writing", True) in found and ("training", False) in found
    assert 1 < checkpoint.latest(broken).step < 24

    kept = {path: path.read_bytes() for one in checkpoint.kept(broken) for path in one.folder.iterdir()}
    size = (checkpoint.latest(broken).folder / OPTIMIZER).stat().st_size
    assert nursery.run(["train", recipe, "--out", broken, "--resume"], said, limit=size - 100) == [1]
    assert "cannot write a checkpoint" in (told := Path(f"{said}.0").read_text()) and "are whole" in told
    assert kept == {path: path.read_bytes() for one in checkpoint.kept(broken) for path in one.folder.iterdir()}
    assert not leftovers(broken)

    last = checkpoint.latest(broken)
    cut(last.folder / WEIGHTS)
    assert nursery.run(["train", recipe, "--out", broken, "--resume"], said) == [0]
    assert f"{last.folder.name} is damaged ({WEIGHTS} has" in " ".join(Path(f"{said}.0").read_text().split())
    assert steps(whole) == [r for r in steps(broken) if r["kind"] != "damaged"]
    assert [r["step"] for r in steps(broken) if r["kind"] == "step"] == [*range(1, 25)]
    assert written(whole) == written(broken) and len(written(whole)) >= 3
    states = [checkpoint.latest(folder).state() for folder in (whole, broken)]
    assert states[0]["stream"] == states[1]["stream"] and states[0]["given"] == states[1]["given"]
    assert not leftovers(broken)
