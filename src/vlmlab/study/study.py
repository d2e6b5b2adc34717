"""Carries a study out: all its runs, one after the other or side by side, within its budget; then its card.

Runs are taken seed by seed, so that whenever the budget ends, whole seeds are there to compare.
"""

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmlab.hub.load import RECIPE
from vlmlab.study import card, one, page
from vlmlab.study.card import Card
from vlmlab.study.plan import Plan, of_base
from vlmlab.train import checkpoint
from vlmlab.train import run as train
from vlmlab.train.origin import Origin
from vlmlab.writing import alone

Tell = Callable[[str], None]
Result = dict[str, Any]


def runs(plan: Plan) -> Iterator[tuple[str, int]]:
    """Every run of a study: its arm and seed, in order."""
    for seed in plan.study.seeds:
        for arm in plan.study.trained():
            yield arm, seed


def carry_out(plan: Plan, root: Path, out: Path, device: str, tell: Tell = print, go_on: bool = True) -> Card:
    """Do what is left of a study within its budget (unless `go_on` is false), and write the card of what is there.

    Raises ValueError where arms of a seed were not given equal samples, or the study is one of full size.
    """
    check_small(plan)
    told = ""
    if go_on:
        prepare(plan, device, tell)
        told = _in_turn(plan, root, device, tell)
    results = collected(plan, root)
    made = card.make(plan, results, told)
    page.write(made, results, out)
    return made


def some(plan: Plan, root: Path, device: str, arm: str, seed: int, tell: Tell = print) -> None:
    """Do the runs of one arm, or one seed (-1: all), or one of both; no card is written. Raises ValueError for none."""
    check_small(plan)
    chosen = [run for run in runs(plan) if run[0] == (arm or run[0]) and run[1] == (run[1] if seed < 0 else seed)]
    if not chosen:
        arms, seeds = ", ".join(plan.study.trained()), ", ".join(map(str, plan.study.seeds))
        raise ValueError(f"{plan.name} has no such run; its arms: {arms}; its seeds: {seeds}")
    prepare(plan, device, tell)
    for run in chosen:
        if one.result(root, plan, *run) is None:
            tell(f"{run[0]}, seed {run[1]}: {card.line(one.carry_out(plan, *run, root, device))}")


def command(file: Path, overrides: Sequence[str], root: Path, arm: str, seed: int) -> list[str]:
    """The words behind `vlmlab` that do one run of a study."""
    return ["study", str(file), *overrides, "--runs", str(root), "--arm", arm, "--seed", str(seed)]


def commands(plan: Plan, file: Path, overrides: Sequence[str], root: Path) -> list[str]:
    """A command line for each run, for machines that are given work that way; `plan` is the file's, with overrides.

    A benchmark is asked for in datasets/, in a folder of its name.
    """
    if plan.study.benchmarks is None:
        return ["vlmlab " + shlex.join(command(file, overrides, root, *run)) for run in runs(plan)]
    told, base = [], os.path.normpath(file.parent / plan.study.base)
    shots = plan.study.benchmarks.shots
    asked = " ".join(f"{name}=datasets/{name} {name}.shots={shots}" for name in plan.study.benchmarks.names)
    for arm, seed in runs(plan):
        out = str(root / plan.name / arm / str(seed))
        changes = (*plan.study.changes, *of_base(overrides), *plan.study.trained()[arm])
        told.append("vlmlab train " + shlex.join([base, *changes, f"seed={seed}", "--out", out]))
        last = out
        if plan.study.follow:
            last = f"{out}/follow"
            after = os.path.normpath(file.parent / plan.study.follow)
            told.append(
                "vlmlab train " + shlex.join([after, f"start.model={out}/model", f"seed={seed}", "--out", last])
            )
        told.append(f"vlmlab eval {last}/model {asked}")
    return told


def prepare(plan: Plan, device: str, tell: Tell = print) -> None:
    """Train what the arms start from, where it is not there yet; what was stopped goes on."""
    for folder, recipe in plan.prepare.items():
        if (folder / train.MODEL / RECIPE).is_file():
            continue
        tell(f"first {folder}, which the arms start from")
        with alone(folder):
            started = checkpoint.latest(folder) is not None
            train.begin(folder, recipe, started)
            train.train(train.build(recipe, device), folder, Origin.now(recipe.text(), recipe.seed), started)


def check_small(plan: Plan) -> None:
    """Raise ValueError for a study that is scored on benchmarks, saying how to run it."""
    if plan.study.benchmarks is not None:
        raise ValueError(
            f"{plan.name} is of full size: its arms are models to train apart. `vlmlab study --commands` prints how"
        )


def collected(plan: Plan, root: Path) -> dict[tuple[str, int], Result]:
    """The results that are there. Raises ValueError where samples or questions are not equal; see `check`."""
    found = {run: made for run in runs(plan) if (made := one.result(root, plan, *run)) is not None}
    check(plan, found)
    return found


def check(plan: Plan, results: dict[tuple[str, int], Result]) -> None:
    """Raise ValueError unless all arms of a seed were given equal samples, and all runs were asked the same."""
    for seed in plan.study.seeds:
        own = {arm: result for (arm, number), result in results.items() if number == seed}
        for what, key in (("samples", "samples"), ("number of samples", "count")):
            if key == "samples" and plan.study.shared == "count":
                continue
            if len({result[key] for result in own.values()}) > 1:
                told = ", ".join(f"{arm} {result[key]}" for arm, result in own.items())
                raise ValueError(f"{plan.name}, seed {seed}: arms were not given the same {what} ({told})")
    if len({result["questions"] for result in results.values()}) > 1:
        raise ValueError(f"{plan.name}: not all runs were asked the same questions; remove runs of older studies")


def _in_turn(plan: Plan, root: Path, device: str, tell: Tell) -> str:
    """Do the runs that are left, one by one. Returns why it stopped before the end; empty when all are done."""
    limit, every = 60 * plan.study.budget, list(runs(plan))
    took: dict[str, list[float]] = {}
    for number, (arm, seed) in enumerate(every, 1):
        used = sum(one.spent(root, plan, *run) for run in every)
        found = one.result(root, plan, arm, seed)
        if found is not None:
            took.setdefault(arm, []).append(found["spent"])
            continue
        guess = _guess(took, arm) - one.spent(root, plan, arm, seed)
        if used + guess > limit:
            told = f"{used / 60:.1f} of {plan.study.budget:g} minutes are used, one more run takes about {guess:.0f} s"
            tell(f"stopped before {arm}, seed {seed}: {told}")
            return told
        left = sum(_guess(took, later) for later, _ in every[number - 1 :])
        when = f", about {left / 60:.0f} min left" if took else ""
        tell(f"{number}/{len(every)}  {arm}, seed {seed}  ({used / 60:.1f} of {plan.study.budget:g} min used{when})")
        began = time.monotonic()
        try:
            made = one.carry_out(plan, arm, seed, root, device, limit - used)
        except one.OutOfTime as stop:
            tell(f"stopped in {arm}, seed {seed}: {stop}")
            return f"the budget of {plan.study.budget:g} minutes ended in {arm}, seed {seed}"
        took.setdefault(arm, []).append(made["spent"])
        tell(f"       {card.line(made)}  {time.monotonic() - began:.0f} s")
        collected(plan, root)
    return ""


def _guess(took: dict[str, list[float]], arm: str) -> float:
    """How long a run of an arm takes: as it did before, or the longest of the others."""
    own = took.get(arm) or [max((value for some in took.values() for value in some), default=0.0)]
    return sum(own) / len(own)
