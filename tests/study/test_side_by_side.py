"""Runs in processes of their own, some at a time or on Ray: what they leave is what they leave one after the other."""

import importlib.util
import sys

import pytest
import torch

from study import small
from vlmlab.study import plan as plans
from vlmlab.study import side_by_side
from vlmlab.study import study as studies
from vlmlab.writing import alone


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Runs of other processes are computed as those of this one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_two_at_a_time_give_what_one_after_the_other_does(tmp_path):
    path = small.study(tmp_path)
    plan = plans.load(path)
    side_by_side.carry_out(plan, path, (), tmp_path / "many", 2, ray=False)
    studies.carry_out(plan, tmp_path / "one", tmp_path / "cards", "cpu", lambda line: None)
    many, one = studies.collected(plan, tmp_path / "many"), studies.collected(plan, tmp_path / "one")
    assert list(many) == list(one) and len(many) == 4
    for key, result in many.items():
        assert result["losses"] == one[key]["losses"] and result["answers"] == one[key]["answers"]


def test_runs_that_fail_are_named_and_the_others_done(tmp_path, capfd):
    path = small.study(tmp_path)
    plan = plans.load(path)
    held = alone(tmp_path / "runs" / plan.name / "three" / "1")
    with held, pytest.raises(ValueError, match=r"1 runs of latents failed \(three, seed 1\)"):
        side_by_side.carry_out(plan, path, (), tmp_path / "runs", 2, ray=False)
    assert "another process is at work there" in " ".join(capfd.readouterr().err.split())
    assert set(studies.collected(plan, tmp_path / "runs")) == {("two", 0), ("two", 1), ("three", 0)}


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_runs_commands_and_tells_how_they_ended(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    commands = [[sys.executable, "-c", f"raise SystemExit({status})"] for status in (0, 3, 0)]
    assert side_by_side._by_ray(commands, 0) == [0, 3, 0]
