"""Training learns, does not depend on how a step is packed, and goes on after a stop to the same bits."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train import tiny
from vlmlab.batch import IGNORE
from vlmlab.train import checkpoint
from vlmlab.train.log import TIMED, read_metrics
from vlmlab.train.loop import Interrupted, TrainingError, fit
from vlmlab.train.objectives import next_token
from vlmlab.train.optimizer import freeze
from vlmlab.train.origin import Origin
from vlmlab.train.pace import Work, peak
from vlmlab.train.step import accumulate

ORIGIN = Origin("0", "recipe", 0, "pytest", "today")


def train(run: Path, model=None, frozen=True, resume=False, watch=None, watch_every=0, **changes):
    run.mkdir(exist_ok=True)
    model = model or tiny.model()
    feed = tiny.feed(model, frozen=frozen)
    found = checkpoint.find(run) if resume else checkpoint.NOTHING
    fit(model, feed, tiny.ledger(feed), tiny.stage(**changes), 0, run, ORIGIN, watch, watch_every, found)
    return model


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_training_learns_to_see(tmp_path):
    train(tmp_path, steps=150, batch=12, lr=3e-3, train=("connector", "language"), save_every=1000)
    losses = [r["loss"] for r in read_metrics(tmp_path) if r["kind"] == "step"]
    assert len(losses) == 150
    # Twelve colours: telling them apart without seeing costs ln(12) / 3 = 0.83 nats for each of the three tokens.
    assert losses[0] > 4 and sum(losses[-10:]) / 10 < 0.2


def test_only_the_named_parts_move(tmp_path):
    before = weights(tiny.model())
    after = weights(train(tmp_path))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"connector"}


@pytest.mark.parametrize("frozen", [True, False])
def test_resumed_training_is_bit_exact(tmp_path, frozen):
    changes = {"train": ("connector",) if frozen else ("vision", "connector", "language")}
    whole = train(tmp_path / "whole", frozen=frozen, **changes)

    class Stop(Exception):
        pass

    def stop():
        raise Stop

    with pytest.raises(Stop):  # after the third step, which has been saved
        train(tmp_path / "halves", frozen=frozen, watch=stop, watch_every=3, resume=False, **changes)
    assert checkpoint.latest(tmp_path / "halves") is None  # it stopped before the first step, at step 0

    run = tmp_path / "halves"
    calls = []

    def stop_later():
        calls.append(1)
        if len(calls) == 2:
            raise Stop
        return {}

    with pytest.raises(Stop):
        train(run, frozen=frozen, watch=stop_later, watch_every=3, **changes)
    assert checkpoint.latest(run).step == 3
    resumed = train(run, model=tiny.model(), frozen=frozen, resume=True, **changes)
    assert same(weights(whole), weights(resumed))
    told = [[r["loss"] for r in read_metrics(tmp_path / name) if r["kind"] == "step"] for name in ("whole", "halves")]
    assert told[0] == told[1] and len(told[0]) == 6


def test_frozen_features_give_the_same_training(tmp_path):
    kept = weights(train(tmp_path / "kept", frozen=True))
    anew = weights(train(tmp_path / "anew", frozen=False))
    for name in kept:  # half precision in between
        torch.testing.assert_close(kept[name], anew[name], atol=2e-2, rtol=1e-2)


def test_a_packed_step_is_the_samples_one_by_one():
    model, objective = tiny.model(), next_token.Config().build()
    found = []
    for tokens in (10_000, 25, 1):
        stage = tiny.stage(batch=7, tokens=tokens, train=("vision", "connector", "language"))
        freeze(model, stage)
        model.zero_grad()
        feed = tiny.feed(model, frozen=False, tokens=tokens)
        done = accumulate(model, feed, [tiny.pieces(feed, range(7))], stage, objective)
        found.append((done.mean, {name: p.grad.clone() for name, p in model.named_parameters()}))
        assert done.learned == 21
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=1e-6, rtol=1e-4)


def test_a_loss_in_chunks_is_the_loss():
    model = tiny.model()
    batch = tiny.process(tiny.Colours()[0])
    whole = next_token.Config().build()(model, batch).each
    pieces = next_token.Config(chunk=1).build()(model, batch).each
    logits = model(batch)[0]
    plain = torch.nn.functional.cross_entropy(logits, batch.targets[0], ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(whole.sum(), plain)
    torch.testing.assert_close(pieces, whole)
    pieces.sum().backward()
    assert model.connector.latents.grad.abs().sum() > 0


def test_bfloat16_trains(tmp_path):
    before = weights(tiny.model())
    after = weights(train(tmp_path, precision="bfloat16"))
    assert after["connector.latents"].dtype == torch.float32
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("connector"))
    losses = [r["loss"] for r in read_metrics(tmp_path) if r["kind"] == "step"]
    assert losses[-1] < losses[0]


def test_a_score_that_was_missed_is_made_up_for_and_none_is_made_twice(tmp_path):
    class Stop(Exception):
        pass

    calls = []

    def stopping():
        calls.append(1)
        if len(calls) == 2:  # the checkpoint of step 3 is there, its score is not
            raise Stop
        return {"right": 1.0}

    with pytest.raises(Stop):
        train(tmp_path, watch=stopping, watch_every=3)
    train(tmp_path, resume=True, watch=stopping, watch_every=3)
    train(tmp_path, resume=True, watch=stopping, watch_every=3)
    assert [r["step"] for r in read_metrics(tmp_path) if r["kind"] == "score"] == [0, 3, 6]


def test_metrics_and_picture_say_what_made_them(tmp_path):
    train(tmp_path, watch=lambda: {"right": 1.0, "shuffled": 2.0}, watch_every=3)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[0] == {"kind": "run", "step": 0, **ORIGIN.plain()}
    assert [r["step"] for r in records if r["kind"] == "score"] == [0, 3, 6]
    assert {"loss", "lr", "gradient_norm", "tokens", "learned_tokens", "seconds"} <= records[2].keys()
    picture = (tmp_path / "loss.svg").read_text()
    assert picture.startswith("<svg") and "made by: pytest" in picture and "shuffled" in picture


def test_tensorboard_holds_the_same_numbers_after_a_resume_too(tmp_path):
    def watch():
        return {"right": 1.5}

    train(tmp_path, tensorboard=True, watch=watch, watch_every=3)
    shutil.rmtree(checkpoint.home(tmp_path) / "step-000006")
    train(tmp_path, tensorboard=True, resume=True, watch=watch, watch_every=3)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    records = read_metrics(tmp_path)
    losses = {r["step"]: r["loss"] for r in records if r["kind"] == "step"}
    assert {e.step: pytest.approx(e.value) for e in board.Scalars("step/loss")} == losses
    assert [e.step for e in board.Scalars("step/loss")] == sorted(losses)
    assert [(e.step, e.value) for e in board.Scalars("score/right")] == [(0, 1.5), (3, 1.5), (6, 1.5)]


def test_tensorboard_is_asked_for_and_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'vlmlab\[tensorboard\]'"):
        train(tmp_path, tensorboard=True)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_step_says_what_it_read_and_how_fast(tmp_path):
    train(tmp_path, steps=2, mfu=True, train=("connector", "language"))
    for told in (r for r in read_metrics(tmp_path) if r["kind"] == "step"):
        assert set(TIMED) <= told.keys() and all(told[name] >= 0 for name in TIMED)
        # Four squares of eight pixels a side, or half as much again or twice that; patches have four.
        assert told["images"] == 4 and 16 <= told["patches"] <= 32 and told["padding"] == 0
        assert 0 < told["mfu"] < 1 and told["memory"] > 1 << 20
    assert told["seconds_left"] == 0
    assert told["images_per_second"] == pytest.approx(4 / told["seconds"], rel=0.2)


def test_operations_are_counted():
    one, other = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7)
    work = Work(True)
    with work.counted():
        (one @ other).sum().backward()
    assert work.flops == 2 * 2 * 3 * 5 * 7  # forward, and the gradient of the one that learns
    with Work(False).counted():
        one @ other
    assert peak(torch.device("cpu"), torch.float32) > 1e8


def test_a_loss_that_is_not_finite_stops(tmp_path):
    train(tmp_path, steps=3)
    kept = checkpoint.latest(tmp_path)
    broken = tiny.model()
    broken.language.norm.weight.data.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"loss is nan at step 1.*stage\.lr"):
        train(tmp_path, model=broken)
    assert checkpoint.latest(tmp_path) == kept


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    train(tmp_path, steps=3)
    kept = {path: path.read_bytes() for path in checkpoint.latest(tmp_path).folder.iterdir()}

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device; those already there are whole"):
        train(tmp_path, resume=True)
    assert {path: path.read_bytes() for path in checkpoint.latest(tmp_path).folder.iterdir()} == kept
    assert [p.name for p in checkpoint.home(tmp_path).iterdir()] == ["step-000003"]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train(tmp_path, save_every=1, keep=2)
    assert sorted(p.name for p in checkpoint.home(tmp_path).iterdir()) == ["step-000005", "step-000006"]


def test_a_checkpoint_of_other_parts_is_refused(tmp_path):
    train(tmp_path, steps=3)
    with pytest.raises(ValueError, match="other trained parts"):
        train(tmp_path, resume=True, train=("connector", "language"))


def test_a_pass_of_text_alone_teaches_a_connector_nothing():
    model, stage = tiny.model(), tiny.stage()
    freeze(model, stage)
    feed = tiny.feed(model)
    pieces = [
        piece._replace(
            read=piece.read._replace(tokens=piece.read.tokens.clip(tiny.ASK), grid=(), patches=())
        )  # no picture stands in it
        for piece in tiny.pieces(feed, range(4))
    ]
    done = accumulate(model, feed, [pieces], stage, next_token.Config().build())
    assert done.learned == 12 and done.images == 0 and math.isfinite(done.loss)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_learned_is_an_error():
    model, stage = tiny.model(), tiny.stage()
    feed = tiny.feed(model)
    pieces = tiny.pieces(feed, range(4))
    for piece in pieces:
        piece.read.targets.fill(IGNORE)
    with pytest.raises(ValueError, match="nothing in this step's samples is learned"):
        accumulate(model, feed, [pieces], stage, next_token.Config().build())


SCRIPT = """
import sys
from pathlib import Path
from train import test_loop, tiny
from vlmlab.train.loop import Interrupted
try:
    test_loop.train(Path(sys.argv[1]), steps=1_000_000, save_every=1_000_000)
except Interrupted as stopped:
    print(stopped)
    sys.exit(128 + stopped.signal)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path, number):
    tests = Path(__file__).resolve().parents[1]
    places = os.pathsep.join([str(tests), *sys.path])
    told = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "VLMLAB_NO_TYPECHECK": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run")], env=told, stdout=subprocess.PIPE, text=True
    )
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while (
        process.poll() is None
        and time.monotonic() < deadline
        and not (metrics.exists() and metrics.read_text().count('"step"') > 4)
    ):
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    saved = checkpoint.latest(tmp_path / "run")
    assert f"stopped after step {saved.step} of 1000000" in said
    assert read_metrics(tmp_path / "run")[-1]["step"] == saved.step


def test_interrupted_says_where_it_is_saved():
    assert str(Interrupted(3, 6, Path("runs/x/checkpoints/step-000003"), 2)) == (
        "stopped after step 3 of 6; saved in runs/x/checkpoints/step-000003"
    )
