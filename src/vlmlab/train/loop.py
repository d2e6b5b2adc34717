"""The training loop: what it does can be stopped at any step and resumed to the same bits."""

import contextlib
import dataclasses
import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from vlmlab.data.stream import windows
from vlmlab.data.workers import WorkerDied
from vlmlab.model.vlm import VLM
from vlmlab.train import checkpoint, parallel
from vlmlab.train.feed import Feed, Piece
from vlmlab.train.ledger import Ledger, Tally
from vlmlab.train.log import METRICS, Log, Meter
from vlmlab.train.lower import lowered, spread
from vlmlab.train.objectives import Objective
from vlmlab.train.optimizer import course, freeze, optimizer, set_rate
from vlmlab.train.origin import Origin
from vlmlab.train.pace import memory, peak
from vlmlab.train.parallel import ALONE, Team
from vlmlab.train.recipe import Stage
from vlmlab.train.recompute import recomputed
from vlmlab.train.step import Step, accumulate


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class Interrupted(Exception):
    """Training was asked to stop by a signal, and is saved at `step`."""

    def __init__(self, step: int, steps: int, place: Path, number: int) -> None:
        super().__init__(f"stopped after step {step} of {steps}; saved in {place}")
        self.step, self.place, self.signal = step, place, number


Watch = Callable[[], Mapping[str, Any]]
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
    team: Team = ALONE,
) -> int:
    """Train `model` in place for `stage.steps` steps, from the checkpoint that was `found` where one was.

    Every process of a `team` calls this; a model that is sharded stays so. Returns how many steps this call did. Raises
    Interrupted after SIGINT or SIGTERM, with the step finished and saved; TrainingError when the loss is not finite or
    too many samples are broken; ValueError when the samples are no longer those that the checkpoint was trained on;
    OSError when the disk is full (earlier checkpoints are whole).
    """
    _check(stage, team)
    if stage.shard and not team.alone:
        spread(model, stage, team)
    objective, adam, trained = stage.objective.build(), optimizer(model, stage), freeze(model, stage)
    start = 0 if found.whole is None else found.whole.step
    if found.whole is not None:
        _go_on(found.whole, feed, ledger, stage)
        checkpoint.restore(found.whole, trained, adam, team)

    def save(done: int) -> checkpoint.Checkpoint:
        state = {"origin": origin.plain(), "stream": feed.order.state(done * stage.batch), "given": ledger.state()}
        return checkpoint.save(run, done, trained, adam, state, stage.keep, team)

    log = Log(run, origin, start, team.leads, stage.tensorboard)
    try:
        with (
            lowered(model, stage),
            recomputed(model, stage),
            _signals() as asked,
            Meter("training", stage.steps, start, quiet=not team.leads) as meter,
        ):
            scored = team.led(lambda: log.scored)
            most = _most(model, stage, team)
            started = time.monotonic()
            for kind, values in ledger.opening if not start else []:
                log.write(kind, 0, values)
            for why in found.damaged:
                log.write("damaged", start, {"why": why})
                meter.console.print(f"  {why}: going on from step {start} instead", highlight=False)
            for step in range(start, stage.steps):
                if watch is not None and watch_every and step % watch_every == 0 and step not in scored:
                    _score(model, watch, log, step, team)
                began = time.monotonic()
                done = _step(model, feed, stage, seed, step, objective, adam, _Diary(log, ledger, step + 1), team)
                rate = _Rate(time.monotonic() - began, (time.monotonic() - started) / (step + 1 - start), most)
                _record(log, stage, step + 1, done, rate, model.device)
                for said in _tell_shares(log, ledger, stage, step + 1):
                    meter.console.print(f"  {said}", highlight=False)
                meter.advance(said=f"loss {done.mean:.3f}")
                # A signal to any of the processes stops all behind the same step.
                if number := team.most(asked[0] if asked else 0):
                    raise Interrupted(step + 1, stage.steps, save(step + 1).folder, number)
                if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
                    save(step + 1)
            if watch is not None and stage.steps not in scored:
                _score(model, watch, log, stage.steps, team)
    except WorkerDied as error:
        raise TrainingError(f"{error}; the checkpoints written before are as they were") from error
    finally:
        feed.close()
        log.close()
    return stage.steps - start


def _check(stage: Stage, team: Team) -> None:
    """Raise ValueError for processes that would have nothing to do."""
    count = stage.batch // stage.together
    if team.size > count:
        raise ValueError(
            f"{team.size} processes, but a step has {count} windows of {stage.together} samples (stage.batch = "
            f"{stage.batch}): give stage.window a smaller number, so that each process has a window of its own"
        )


def _score(model: VLM, watch: Watch, log: Log, step: int, team: Team) -> None:
    """Measure, in the first process, or where it does not hold the whole model, in all together."""
    if team.leads or parallel.sharded(model):
        log.write("score", step, watch())


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

    def note(self, tally: Tally) -> None:
        """Count a window. Raises TrainingError when too much of the stream cannot be read."""
        for kind, values in self.ledger.add(tally):
            self.log.write(kind, self.step, values)
        wrong = self.ledger.too_broken()
        if wrong and tally.broken:
            draw, why = tally.broken[-1]
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
    team: Team,
) -> Step:
    """One step: draw, pack, go forward and back window by window, clip, update."""
    model.train()
    adam.zero_grad(set_to_none=True)
    tallies: list[Tally] = []

    def own(at: int) -> list[range]:
        return windows(at, stage.batch, stage.together, team.rank, team.size)

    def read() -> Iterator[list[Piece]]:
        for number, places in enumerate(here := own(step)):
            window = feed.window(places)
            tallies.append(Tally.of(window, feed.budgets))
            if team.alone:
                diary.note(tallies[-1])
            later = (own(at) for at in range(step + 1, stage.steps))
            feed.expect(itertools.chain(here[number + 1 :], itertools.chain.from_iterable(later)))
            yield window.pieces

    done = accumulate(model, feed, read(), stage, objective, seed, team)
    if not team.alone:
        _note_all(diary, tallies, team)
    if not math.isfinite(done.loss):
        raise TrainingError(
            f"the loss is {done.loss} at step {step + 1}, from {', '.join(done.odd[:5])}: try a smaller stage.lr (now "
            f"{stage.lr:g}) or a longer stage.warmup; the checkpoints written before are as they were"
        )
    everything = [p for group in adam.param_groups for p in group["params"]]
    norm = parallel.whole(torch.nn.utils.clip_grad_norm_(everything, stage.clip or math.inf))
    if not norm.isfinite():
        raise TrainingError(f"the gradient is not finite at step {step + 1}: try a smaller stage.lr (now {stage.lr:g})")
    done.norm, done.rate = float(norm), course(step, stage)
    set_rate(adam, done.rate)
    adam.step()
    return done


def _note_all(diary: _Diary, tallies: Sequence[Tally], team: Team) -> None:
    """Count the windows of all processes as one would have, in their order."""
    told = team.gather([tally.plain() for tally in tallies])
    for row in itertools.zip_longest(*told):
        for tally in row:
            if tally is not None:
                diary.note(Tally.read(tally))


@dataclasses.dataclass(frozen=True)
class _Rate:
    """Seconds that a step took, and a step of this run on average; and the most FLOPs a second, where it is known."""

    seconds: float
    mean: float
    most: float | None


def _most(model: VLM, stage: Stage, team: Team) -> float | None:
    """The FLOPs a second that all processes could reach, measured where `stage.mfu` asks for it."""
    if not stage.mfu:
        return None
    lower = stage.precision == "bfloat16" and model.device.type == "cuda"
    return sum(team.gather(peak(model.device, torch.bfloat16 if lower else torch.float32)))


def _record(log: Log, stage: Stage, number: int, step: Step, rate: _Rate, device: torch.device) -> None:
    if number % stage.log_every and number != stage.steps:
        return
    parted = {
        f"loss_by_{what}": {name: round(loss / count, 6) for name, (loss, count) in found.items() if count}
        for what, found in (("source", step.sources), ("kind", step.kinds))
        if len(found) > 1
    }
    counts = {"learned_tokens": step.learned, "images": step.images, "patches": step.patches}
    used = {} if rate.most is None else {"mfu": round(step.flops / rate.seconds / rate.most, 4)}
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
            **counts,
            "padding": round(step.padding / (step.tokens + step.padding), 6),
            "seconds": round(rate.seconds, 3),
            **{f"{name}_per_second": round(count / rate.seconds, 1) for name, count in counts.items()},
            **used,
            "memory": memory(device),
            "seconds_left": round(rate.mean * (stage.steps - number), 1),
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
