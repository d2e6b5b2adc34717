"""The training loop: what it does can be stopped at any step and resumed to the same bits."""

import contextlib
import dataclasses
import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import torch

from vlmlab.data.stream import windows
from vlmlab.data.workers import WorkerDied
from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM
from vlmlab.train import checkpoint
from vlmlab.train.feed import Feed, Piece, Window
from vlmlab.train.ledger import Ledger
from vlmlab.train.log import METRICS, Log, Meter
from vlmlab.train.noise import Place, drawn, noised, seeded
from vlmlab.train.objectives import Objective
from vlmlab.train.optimizer import course, freeze, optimizer, set_rate
from vlmlab.train.origin import Origin
from vlmlab.train.prepare import join
from vlmlab.train.recipe import Stage
from vlmlab.train.recompute import recomputed


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class Interrupted(Exception):
    """Training was asked to stop by a signal, and is saved at `step`."""

    def __init__(self, step: int, steps: int, place: Path, number: int) -> None:
        super().__init__(f"stopped after step {step} of {steps}; saved in {place}")
        self.step, self.place, self.signal = step, place, number


@dataclasses.dataclass
class Step:
    """What a step has done: sums over its passes so far.

    `loss` is in nats, over `learned` tokens; `sources` and `kinds` part both by where samples came from. `odd` names
    samples whose loss is not finite.
    """

    loss: float = 0.0
    learned: int = 0
    samples: int = 0
    tokens: int = 0
    norm: float = 0.0
    rate: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    sources: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    kinds: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    odd: list[str] = dataclasses.field(default_factory=list)

    @property
    def mean(self) -> float:
        """The loss in nats per learned token."""
        return self.loss / self.learned


Watch = Callable[[], dict[str, float]]
"""Measures the model as it is; what it returns is written to the metrics."""


def fit(
    model: VLM,
    feed: Feed,
    ledger: Ledger,
    stage: Stage,
    seed: int,
    run: Path,
    origin: Origin,
    watch: Watch | None = None,
    watch_every: int = 0,
    found: checkpoint.Found = checkpoint.NOTHING,
) -> int:
    """Train `model` in place for `stage.steps` steps, from the checkpoint that was `found` where one was.

    Returns how many steps this call did. Raises Interrupted after SIGINT or SIGTERM, with the step finished and
    saved; TrainingError when the loss is not finite or too many samples are broken; ValueError when the samples are no
    longer those that the checkpoint was trained on; OSError when the disk is full (earlier checkpoints are whole).
    """
    objective, adam, trained = stage.objective.build(), optimizer(model, stage), freeze(model, stage)
    start = 0 if found.whole is None else found.whole.step
    if found.whole is not None:
        _go_on(found.whole, feed, ledger, stage)
        checkpoint.restore(found.whole, trained, adam)

    def save(done: int) -> checkpoint.Checkpoint:
        state = {"origin": origin.plain(), "stream": feed.order.state(done * stage.batch), "given": ledger.state()}
        return checkpoint.save(run, done, trained, adam, state, stage.keep)

    log = Log(run, origin, start)
    try:
        with (
            lowered(model, stage),
            recomputed(model, stage),
            _signals() as asked,
            Meter("training", stage.steps, start) as meter,
        ):
            for kind, values in ledger.opening if not start else []:
                log.write(kind, 0, values)
            for why in found.damaged:
                log.write("damaged", start, {"why": why})
                meter.console.print(f"  {why}: going on from step {start} instead", highlight=False)
            for step in range(start, stage.steps):
                if watch is not None and watch_every and step % watch_every == 0 and step not in log.scored:
                    log.write("score", step, watch())
                began = time.monotonic()
                done = _step(model, feed, stage, seed, step, objective, adam, _Diary(log, ledger, step + 1))
                _record(log, stage, step + 1, done, time.monotonic() - began)
                for said in _tell_shares(log, ledger, stage, step + 1):
                    meter.console.print(f"  {said}", highlight=False)
                meter.advance(said=f"loss {done.mean:.3f}")
                if asked:
                    raise Interrupted(step + 1, stage.steps, save(step + 1).folder, asked[0])
                if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
                    save(step + 1)
            if watch is not None and stage.steps not in log.scored:
                log.write("score", stage.steps, watch())
    except WorkerDied as error:
        raise TrainingError(f"{error}; the checkpoints written before are as they were") from error
    finally:
        feed.close()
        log.close()
    return stage.steps - start


def _go_on(before: checkpoint.Checkpoint, feed: Feed, ledger: Ledger, stage: Stage) -> None:
    """Check that the samples are those the checkpoint was trained on, and take up their counts."""
    state = before.state()
    try:
        feed.order.check(state["stream"], before.step * stage.batch)
    except ValueError as error:
        raise ValueError(f"{before.folder} cannot be gone on from: {error}") from error
    ledger.restore(state["given"])


@dataclasses.dataclass(frozen=True)
class _Diary:
    """Where what is read in a step is counted and told."""

    log: Log
    ledger: Ledger
    step: int

    def note(self, window: Window, rows: Mapping[str, int]) -> None:
        """Count a window. Raises TrainingError when too much of the stream cannot be read."""
        for kind, values in self.ledger.add(window, rows):
            self.log.write(kind, self.step, values)
        wrong = self.ledger.too_broken()
        if wrong and window.broken:
            draw, why = window.broken[-1]
            raise TrainingError(f"{wrong}. The last was {draw}: {why}. {METRICS} names them all")


def _step(
    model: VLM,
    feed: Feed,
    stage: Stage,
    seed: int,
    step: int,
    objective: Objective,
    adam: torch.optim.Optimizer,
    diary: _Diary,
) -> Step:
    """One step: draw, pack, go forward and back window by window, clip, update."""
    model.train()
    adam.zero_grad(set_to_none=True)

    def read() -> Iterator[list[Piece]]:
        for number, places in enumerate(here := windows(step, stage.batch, stage.together)):
            window = feed.window(places)
            diary.note(window, feed.budgets)
            later = (windows(at, stage.batch, stage.together) for at in range(step + 1, stage.steps))
            feed.expect(itertools.chain(here[number + 1 :], itertools.chain.from_iterable(later)))
            yield window.pieces

    done = accumulate(model, feed, read(), stage, objective, seed)
    if not math.isfinite(done.loss):
        raise TrainingError(
            f"the loss is {done.loss} at step {step + 1}, from {', '.join(done.odd[:5])}: try a smaller stage.lr (now "
            f"{stage.lr:g}) or a longer stage.warmup; the checkpoints written before are as they were"
        )
    everything = [p for group in adam.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(everything, stage.clip or math.inf)
    if not norm.isfinite():
        raise TrainingError(f"the gradient is not finite at step {step + 1}: try a smaller stage.lr (now {stage.lr:g})")
    done.norm, done.rate = float(norm), course(step, stage)
    set_rate(adam, done.rate)
    adam.step()
    return done


def accumulate(
    model: VLM, feed: Feed, parts: Iterable[Sequence[Piece]], stage: Stage, objective: Objective, seed: int = 0
) -> Step:
    """Gradients of the mean loss over some windows, one window in memory at a time, pass by pass.

    The mean is over all that is learned in all windows, which is known only at their end: until then gradients are
    those of the sum over a constant. Stops at the first loss that is not finite.
    """
    done = Step()
    for pieces in parts:
        passes = feed.passes(pieces)
        weights = [objective.weight(join([feed.prepare(p, pixels=False) for p in some])[0]) for some in passes]
        # Of one window the weight is known before. (Dividing once, by that, also spares a rounding.)
        divisor = sum(weights) if stage.together == stage.batch else stage.batch
        for some, weight in zip(passes, weights, strict=True):
            done.tokens += sum(piece.length for piece in some)
            done.samples += sum(piece.number == 0 for piece in some)
            if weight:
                done.learned += weight
                _pass(model, feed, some, stage, objective, divisor, seed, done)
            if not math.isfinite(done.loss):
                return done
    if not done.learned:
        raise ValueError("nothing in this step's samples is learned: they need answers (or stage.learn = everything)")
    if stage.together != stage.batch:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(stage.batch / done.learned)
    return done


def _pass(
    model: VLM,
    feed: Feed,
    pieces: Sequence[Piece],
    stage: Stage,
    objective: Objective,
    divisor: int,
    seed: int,
    done: Step,
) -> None:
    """Forward and back over some pieces laid end to end; what it gave is added to `done`."""
    batch, features = join([feed.prepare(piece) for piece in pieces])
    batch = batch.to(model.device, model.dtype)
    known = None if features is None else features.to(model.device, model.dtype)
    noise = None
    if stage.noise:
        stand = [Place(piece.draw, piece.number, piece.length) for piece in pieces]
        noise = drawn(stand, model.config.language.width, stage.noise, seed)
    if any(config.dropout for config in stage.adapters.values()):
        seeded(Place(pieces[0].draw, pieces[0].number, pieces[0].length), seed)
    with autocast(model, stage), noised(model, noise):
        loss = objective(model, batch, known)
        summed = loss.each.sum()
    (summed / divisor).backward()
    done.loss += float(summed.detach())
    for name, value in loss.parts.items():
        done.parts[name] = done.parts.get(name, 0.0) + value
    numbers = loss.segments.cpu() - 1
    sums = torch.zeros(len(pieces), dtype=torch.float64).index_add(0, numbers, loss.each.detach().cpu().double())
    counts = numbers.bincount(minlength=len(pieces))
    for piece, value, count in zip(pieces, sums.tolist(), counts.tolist(), strict=True):
        for parted, name in ((done.sources, piece.draw.source), (done.kinds, piece.kind)):
            before, tokens = parted.get(name, (0.0, 0))
            parted[name] = (before + value, tokens + count)
        if not math.isfinite(value):
            done.odd.append(str(piece.draw))


@contextlib.contextmanager
def lowered(model: VLM, stage: Stage) -> Iterator[None]:
    """With `precision = "bfloat16"`, hold those matrices of a decoder that do not learn in bfloat16 while training.

    They are put back as they were at the end. What learns stays in float32; so do norms, embeddings and the stream
    between layers, and the vision tower, which sees each picture once.
    """
    held = {
        layer.weight: layer.weight.data
        for name in ("language", "fusion")
        for layer in model.get_submodule(name).modules()
        if stage.precision == "bfloat16" and isinstance(layer, Linear) and not layer.weight.requires_grad
    }
    try:
        for weight in held:
            weight.data = weight.data.to(torch.bfloat16)
        yield
    finally:
        for weight, data in held.items():
            weight.data = data


def autocast(model: VLM, stage: Stage) -> contextlib.AbstractContextManager[None]:
    """On CUDA, what learns is computed in bfloat16 too; on a CPU the products of frozen parts are what takes time."""
    if stage.precision == "float32" or model.device.type != "cuda":
        return contextlib.nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


def _record(log: Log, stage: Stage, number: int, step: Step, seconds: float) -> None:
    if number % stage.log_every and number != stage.steps:
        return
    parted = {
        f"loss_by_{what}": {name: round(loss / count, 6) for name, (loss, count) in found.items() if count}
        for what, found in (("source", step.sources), ("kind", step.kinds))
        if len(found) > 1
    }
    log.write(
        "step",
        number,
        {
            "loss": round(step.mean, 6),
            **{name: round(value / step.learned, 6) for name, value in step.parts.items()},
            **parted,
            "gradient_norm": round(step.norm, 6),
            "lr": step.rate,
            "samples": step.samples,
            "tokens": step.tokens,
            "learned_tokens": step.learned,
            "seconds": round(seconds, 3),
        },
    )


def _tell_shares(log: Log, ledger: Ledger, stage: Stage, number: int) -> list[str]:
    """Write the shares of a mixture's sources where metrics are written. Returns the alarms."""
    if len(ledger.asked) < 2 or (number % stage.log_every and number != stage.steps):
        return []
    events = ledger.report()
    for kind, values in events:
        log.write(kind, number, values)
    return [values["why"] for kind, values in events if kind == "alarm"]


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
