"""The training loop: what it does can be stopped at any step and resumed to the same bits."""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch

from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM
from vlmlab.train import checkpoint
from vlmlab.train.log import Log, Meter
from vlmlab.train.objectives import Objective
from vlmlab.train.optimizer import course, freeze, optimizer, set_rate
from vlmlab.train.origin import Origin
from vlmlab.train.prepare import Prepared, Preparer, order, pack
from vlmlab.train.recipe import Stage


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class Interrupted(Exception):
    """Training was asked to stop by a signal, and is saved at `step`."""

    def __init__(self, step: int, steps: int, place: Path, number: int) -> None:
        super().__init__(f"stopped after step {step} of {steps}; saved in {place}")
        self.step, self.place, self.signal = step, place, number


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step did: its loss in nats per learned token, the gradient's norm before clipping, and its size."""

    loss: float
    norm: float
    rate: float
    samples: int
    tokens: int
    learned: int
    parts: dict[str, float]


Watch = Callable[[], dict[str, float]]
"""Measures the model as it is; what it returns is written to the metrics."""


def fit(
    model: VLM,
    samples: Preparer,
    stage: Stage,
    seed: int,
    run: Path,
    origin: Origin,
    watch: Watch | None = None,
    watch_every: int = 0,
    resume: bool = False,
) -> int:
    """Train `model` in place for `stage.steps` steps, from the latest checkpoint of `run` when `resume`.

    Returns how many steps this call did. Raises Interrupted after SIGINT or SIGTERM, with the step finished and
    saved; TrainingError when the loss is not finite; OSError when the disk is full (earlier checkpoints are whole).
    """
    if not len(samples):
        raise ValueError("the source has no samples to train on")
    objective, adam, trained = stage.objective.build(), optimizer(model, stage), freeze(model, stage)
    before = checkpoint.latest(run) if resume else None
    start = 0
    if before is not None:
        checkpoint.restore(before, trained, adam)
        start = before.step

    def save(done: int) -> checkpoint.Checkpoint:
        return checkpoint.save(run, done, trained, adam, {"origin": origin.plain()}, stage.keep)

    log = Log(run, origin, start)
    try:
        with lowered(model, stage), _signals() as asked, Meter("training", stage.steps, start) as meter:
            for step in range(start, stage.steps):
                if watch is not None and watch_every and step % watch_every == 0 and (step > start or not start):
                    log.write("score", step, watch())
                began = time.monotonic()
                done = _step(model, samples, stage, seed, step, objective, adam)
                _record(log, stage, step + 1, done, time.monotonic() - began)
                meter.advance(said=f"loss {done.loss:.3f}")
                if asked:
                    raise Interrupted(step + 1, stage.steps, save(step + 1).folder, asked[0])
                if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
                    save(step + 1)
            if watch is not None and start < stage.steps:
                log.write("score", stage.steps, watch())
    finally:
        samples.close()
        log.close()
    return stage.steps - start


def _step(
    model: VLM,
    samples: Preparer,
    stage: Stage,
    seed: int,
    step: int,
    objective: Objective,
    adam: torch.optim.Optimizer,
) -> Step:
    """One step: draw, pack, go forward and back pass by pass, clip, update."""
    chosen = samples.get(order(seed, step, stage.batch, len(samples)))
    # On a CPU the next samples would be processed on cores that this step needs: it would be slower, not faster.
    if step + 1 < stage.steps and model.device.type != "cpu":
        samples.expect(order(seed, step + 1, stage.batch, len(samples)))
    model.train()
    adam.zero_grad(set_to_none=True)
    total, parts, learned = accumulate(model, chosen, stage, objective)
    if not math.isfinite(total):
        raise TrainingError(
            f"the loss is {total} at step {step + 1}: try a smaller stage.lr (now {stage.lr:g}) or a longer "
            "stage.warmup; the checkpoints written before are as they were"
        )
    everything = [p for group in adam.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(everything, stage.clip or math.inf)
    if not norm.isfinite():
        raise TrainingError(f"the gradient is not finite at step {step + 1}: try a smaller stage.lr (now {stage.lr:g})")
    rate = course(step, stage)
    set_rate(adam, rate)
    adam.step()
    return Step(total, float(norm), rate, len(chosen), sum(len(s.tokens) for s in chosen), learned, parts)


def accumulate(
    model: VLM, chosen: list[Prepared], stage: Stage, objective: Objective
) -> tuple[float, dict[str, float], int]:
    """Gradients of the mean loss over some samples, pass by pass. Returns the loss, its parts, and its weight."""
    passes = pack(chosen, stage.tokens)
    weights = [objective.weight(batch) for batch, _ in passes]
    weight, total = sum(weights), 0.0
    parts: dict[str, float] = {}
    if not weight:
        raise ValueError("nothing in this step's samples is learned: they need answers (or stage.learn = everything)")
    for (batch, features), learned in zip(passes, weights, strict=True):
        if not learned:
            continue
        batch = batch.to(model.device, model.dtype)
        known = None if features is None else features.to(model.device, model.dtype)
        with _autocast(model, stage):
            loss, named = objective(model, batch, known)
        (loss / weight).backward()
        total += float(loss.detach()) / weight
        for name, value in named.items():
            parts[name] = parts.get(name, 0.0) + value / weight
    return total, parts, weight


@contextlib.contextmanager
def lowered(model: VLM, stage: Stage) -> Iterator[None]:
    """With `precision = "bfloat16"`, hold the matrices of a decoder that does not learn in bfloat16 while training.

    They are put back as they were at the end. What learns stays in float32; so do norms, embeddings and the stream
    between layers, and the vision tower, which sees each picture once.
    """
    held = {
        layer.weight: layer.weight.data
        for name in ("language", "fusion")
        for layer in model.get_submodule(name).modules()
        if stage.precision == "bfloat16" and name not in stage.train and isinstance(layer, Linear)
    }
    try:
        for weight in held:
            weight.data = weight.data.to(torch.bfloat16)
        yield
    finally:
        for weight, data in held.items():
            weight.data = data


def _autocast(model: VLM, stage: Stage) -> contextlib.AbstractContextManager[None]:
    """On CUDA, what learns is computed in bfloat16 too; on a CPU the products of frozen parts are what takes time."""
    if stage.precision == "float32" or model.device.type != "cuda":
        return contextlib.nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


def _record(log: Log, stage: Stage, number: int, step: Step, seconds: float) -> None:
    if number % stage.log_every and number != stage.steps:
        return
    log.write(
        "step",
        number,
        {
            "loss": round(step.loss, 6),
            **{name: round(value, 6) for name, value in step.parts.items()},
            "gradient_norm": round(step.norm, 6),
            "lr": step.rate,
            "samples": step.samples,
            "tokens": step.tokens,
            "learned_tokens": step.learned,
            "seconds": round(seconds, 3),
        },
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that a step is finished first; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    # Only a process's first thread may set handlers; elsewhere the caller decides what a signal does.
    ours = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    old = {number: signal.signal(number, note) for number in ours}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
