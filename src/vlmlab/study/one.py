"""One run of a study: an arm with a seed is trained, asked, and leaves `result.json` in its folder.

A run that was stopped goes on from its checkpoint to the same bits; one with a result is not touched again.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vlmlab import component
from vlmlab.study import asking
from vlmlab.study.asking import Answers, Asked
from vlmlab.study.plan import Plan, Reading
from vlmlab.train import checkpoint, run
from vlmlab.train import plan as costs
from vlmlab.train.gallery import Gallery
from vlmlab.train.log import read_metrics
from vlmlab.train.loop import Interrupted, TrainingError, Watch
from vlmlab.train.lower import lowered
from vlmlab.train.means import means
from vlmlab.train.optimizer import freeze
from vlmlab.train.origin import Origin
from vlmlab.train.prepare import Features
from vlmlab.train.recipe import RESOLVED, Recipe
from vlmlab.train.run import Run
from vlmlab.writing import alone, write_text

CORES = 2
"""How many cores a budget is of."""
RESULT, GALLERY = "result.json", "features"
LAST = "finish"
"""The folder in a run's folder of what is trained last."""
ROSE = 0.5
"""A loss that ends so many nats above the lowest that it had reached has diverged."""
WATCHED = 50
"""Pictures that are asked about on the way."""
PROBE = 8
"""Samples of a source that are read to say what a step costs."""


class OutOfTime(Exception):
    """The budget is used up; what was trained is saved."""


def folder_of(root: Path, plan: Plan, arm: str, seed: int) -> Path:
    """Where a run has its files."""
    return root / plan.name / arm / str(seed)


def result(root: Path, plan: Plan, arm: str, seed: int) -> dict[str, Any] | None:
    """What a finished run left; None where there is none, or where its recipe or what is asked was another."""
    try:
        found: dict[str, Any] = json.loads((folder_of(root, plan, arm, seed) / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.get("identity") == identity(plan, arm, seed) else None


def identity(plan: Plan, arm: str, seed: int) -> str:
    """A hash of all that decides what a run gives: its recipe, what is asked, and how pictures are read then."""
    ways = [component.plain(reading) for reading in plan.study.readings.values()]
    asked = None if plan.study.evaluate is None else component.plain(plan.study.evaluate)
    return _hash(json.dumps([*(recipe.text() for recipe in plan.courses(arm, seed)), asked, ways]))


def share() -> float:
    """How much of the cores of a budget a run of this process takes; all of them where there is an accelerator."""
    return 1.0 if torch.cuda.is_available() else min(torch.get_num_threads() / CORES, 1.0)


def spent(root: Path, plan: Plan, arm: str, seed: int) -> float:
    """Seconds of the budget that a run has taken so far, finished or not: those of all its cores."""
    found = result(root, plan, arm, seed)
    if found is not None:
        return float(found["spent"])
    folder = folder_of(root, plan, arm, seed)
    if not _same(folder, plan.recipe(arm, seed)):
        return 0.0
    metrics = read_metrics(folder) + read_metrics(folder / LAST)
    return share() * sum(record["seconds"] for record in metrics if record["kind"] == "step")


def carry_out(plan: Plan, arm: str, seed: int, root: Path, device: str, limit: float = math.inf) -> dict[str, Any]:
    """Train and ask one run, from where it was left, and write its result; `limit` is in seconds of the budget.

    Raises OutOfTime when training would go beyond the limit, Interrupted when it was asked to stop, ValueError where
    another process is at it.
    """
    with alone(folder_of(root, plan, arm, seed)):
        return _carry_out(plan, arm, seed, root, device, limit)


def _carry_out(plan: Plan, arm: str, seed: int, root: Path, device: str, limit: float) -> dict[str, Any]:
    began, folder = time.monotonic(), folder_of(root, plan, arm, seed)
    before = spent(root, plan, arm, seed) / share()
    recipe, *others = plan.courses(arm, seed)
    started = _goes_on(folder, recipe)
    made = run.build(recipe, device)
    if made.frozen:
        made = dataclasses.replace(made, gallery=Gallery(root / GALLERY, made.model.vision, made.model.config.vision))
    run.begin(folder, recipe, started)
    courses = [made, *(dataclasses.replace(made, recipe=last, source=last.data.build()) for last in others)]
    given, count = samples(courses)
    asked = None
    if plan.study.evaluate is not None:
        asked = asking.questions(plan.study.evaluate, made.processor.tokenizer)
    told = ""
    try:
        with _limited(limit / share() - (time.monotonic() - began)):
            origin, watch = Origin.now(recipe.text(), seed), _watch(plan, made, asked)
            every = max(recipe.stage.steps // plan.study.watch, 1) if watch is not None else 0
            made = run.train(made, folder, origin, started, watch, every=every, leave=False)
            for last in courses[1:]:
                _finish(last, folder / LAST)
    except TrainingError as error:
        told = str(error)
    metrics = read_metrics(folder)
    losses, later = _losses(metrics), _losses(read_metrics(folder / LAST))
    ways = {name: reading for name, (trained, reading) in plan.study.scored().items() if trained == arm}
    answers = {} if told or asked is None else _ask(plan, made, asked, ways)
    if made.gallery is not None:
        made.gallery.save()
    seconds = before + time.monotonic() - began
    found = {
        "identity": identity(plan, arm, seed),
        "origin": Origin.now(recipe.text(), seed).plain(),
        "arm": arm,
        "seed": seed,
        "samples": given,
        "count": count,
        "stopped": told,
        "rise": round(rise(losses), 4),
        "diverged": bool(told) or rise(losses) > ROSE,
        "losses": losses + later,
        "curve": curve(metrics),
        "questions": "" if asked is None else _hash(json.dumps([dataclasses.astuple(q) for q in asked.questions])),
        "answers": answers,
        "seconds": round(seconds, 1),
        "spent": round(seconds * share(), 1),
        "cost": cost(courses) if seed == plan.study.seeds[0] else {},
    }
    write_text(folder / RESULT, json.dumps(found) + "\n")
    for place in (folder, folder / LAST):
        shutil.rmtree(checkpoint.home(place), ignore_errors=True)  # large, and there is nothing more to go on with
    return found


def _finish(last: Run, folder: Path) -> None:
    """Train what is trained last, from where it was left; the model is the one that the first course left."""
    started = _goes_on(folder, last.recipe)
    run.begin(folder, last.recipe, started)
    run.train(last, folder, Origin.now(last.recipe.text(), last.recipe.seed), started, leave=False)


def _losses(metrics: Sequence[Mapping[str, Any]]) -> list[float]:
    return [record["loss"] for record in metrics if record["kind"] == "step"]


def _goes_on(folder: Path, recipe: Recipe) -> bool:
    """Whether a run is gone on with; what an older recipe left there is removed."""
    if folder.exists() and not _same(folder, recipe):
        for left in folder.iterdir():  # not the folder itself, which is held
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return checkpoint.latest(folder) is not None


def _same(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder's run is of a recipe."""
    held = folder / RESOLVED
    return held.is_file() and held.read_text(encoding="utf-8").endswith(recipe.text())


def _watch(plan: Plan, made: Run, asked: Asked | None) -> Watch | None:
    """What measures a run on its way, on the questions about a few pictures; None where the study asks for none."""
    choices = plan.study.evaluate
    if not plan.study.watch or asked is None or choices is None:
        return None
    few = dataclasses.replace(asked, questions=[q for q in asked.questions if q.picture < WATCHED])
    sparing = dataclasses.replace(choices, control=1)
    options = next(reading for _, reading in plan.study.scored().values()).options()
    features = Features(made.model, 0, made.gallery) if made.frozen else None

    def watch() -> dict[str, float]:
        said = asking.answer(made.model, made.processor, few, sparing, options, features)
        return {"answered": sum(said.right) / len(said.right)}

    return watch


def curve(metrics: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """How the share of right answers went: after how many steps, pictures and tokens it was what."""
    found, pictures, tokens = [], 0.0, 0.0
    for record in metrics:
        if record["kind"] == "step":
            pictures, tokens = pictures + record["images"], tokens + record["tokens"]
        elif record["kind"] == "score":
            found.append([float(record["step"]), pictures, tokens, round(record["answered"], 4)])
    return found


def samples(courses: Sequence[Run]) -> tuple[str, int]:
    """A hash of the samples that a run is given, in order, and how many they are."""
    digest, total = hashlib.sha256(), 0
    for made in courses:
        feed, _ = made.feed()
        count = made.recipe.stage.steps * made.recipe.stage.batch
        for place in range(count):
            draw = feed.order[place]
            # A source alone is called by its kind, which says nothing of its samples.
            digest.update(f"{draw.source} {draw.number} {draw.turn}\n".encode())
        feed.close()
        total += count
    return digest.hexdigest()[:16], total


def rise(losses: Sequence[float]) -> float:
    """By how much the last tenth of the losses lies above the lowest tenth, in the mean; from the second tenth on."""
    size = max(len(losses) // 10, 1)
    tenths = [sum(losses[at : at + size]) / size for at in range(size, len(losses) - size + 1, size)]
    if not tenths:
        return 0.0
    last = sum(losses[-size:]) / size
    return last - min(*tenths, last)


def cost(courses: Sequence[Run]) -> dict[str, float]:
    """What an arm costs: weights that learn and all of them, FLOPs and bytes of training, computed."""
    recipe, model, processor = courses[0].recipe, courses[0].model, courses[0].processor
    trained = sum(p.numel() for p in freeze(model, recipe.stage).values())
    plans = [
        costs.plan(one, model.config, means(one, model, processor.config, processor, PROBE))
        for one in (made.recipe for made in courses)
    ]
    plan = plans[0]
    return {
        "trained": float(trained),
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "flops": float(sum(each.work * each.steps for each in plans)),
        "flops_once": float(sum(each.once for each in plans)),
        "memory": float(max(sum(part.memory for part in each.parts) for each in plans)),
        "visual_tokens": (plan.of("tokens") - plan.of("text")) / plan.of("samples"),
    }


def _ask(plan: Plan, made: Run, asked: Asked, ways: Mapping[str, Reading]) -> dict[str, Any]:
    choices = plan.study.evaluate
    assert choices is not None
    features = Features(made.model, 0, made.gallery) if made.frozen else None
    found = {}
    with lowered(made.model, made.recipe.stage):
        for name, reading in ways.items():
            said = asking.answer(made.model, made.processor, asked, choices, reading.options(), features)
            found[name] = plain(said, asked)
    return found


def plain(said: Answers, asked: Asked) -> dict[str, Any]:
    """Answers as JSON: a letter for each question, 1 where it is right; losses in thousandths of a nat."""
    return {
        "right": "".join("01"[value] for value in said.right),
        "losses": [round(1000 * value) for value in said.losses],
        "controlled": said.controlled,
        "wrong": "".join("01"[value] for value in said.wrong),
        "wrong_losses": [round(1000 * value) for value in said.wrong_losses],
        "pictures": [question.picture for question in asked.questions],
        "kinds": [question.kind for question in asked.questions],
    }


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Stop training as a signal would, with its step finished and saved, when so many seconds have passed.

    Raises OutOfTime in place of Interrupted then.
    """
    if math.isinf(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.kill(os.getpid(), signal.SIGTERM)

    # While a step is under way training handles it itself; before and after there is nothing to save.
    old = signal.signal(signal.SIGTERM, lambda number, frame: None)
    timer = threading.Timer(max(seconds, 0.0), stop)
    timer.start()
    try:
        yield
    except Interrupted as error:
        if late.is_set():
            raise OutOfTime(str(error)) from None
        raise
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGTERM, old)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
