"""The decision card of a study: what was asked, what came, what it cost, and what may be concluded.

NAME.md    the card      NAME.svg, NAME-loss.svg    its pictures
NAME.json  all of it as data, the answer to every question of every run with it
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from vlmlab.component import plain
from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.study.decide import Judged, Spread, Table, Verdict, judge, spread, together
from vlmlab.study.plan import LEAST, Paper, Plan, differences

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """An arm of the card. `score`, `wrong` (with wrong pictures) and `control` (what those lose) are shares of right
    answers; `loss` is among the candidates, in nats; `less` is the difference to the reference."""

    arm: str
    seeds: tuple[int, ...]
    each: tuple[float, ...]
    score: Spread
    loss: Spread
    wrong: Spread
    control: Spread
    less: Spread | None
    kinds: dict[str, float]
    seconds: float
    cost: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Card:
    """A card, made from results. `counts` says whether it may be believed, `why` why not."""

    name: str
    question: str
    paper: Paper
    rows: tuple[Row, ...]
    judged: tuple[Judged, ...]
    verdict: Verdict
    why: str
    questions: int
    pictures: int
    seeds: tuple[int, ...]
    minutes: float
    stopped: str
    rises: dict[str, tuple[float, ...]]
    diverged: dict[str, tuple[bool, ...]]
    losses: dict[str, tuple[float, ...]]
    curves: dict[str, tuple[tuple[float, ...], ...]]
    differences: dict[str, dict[str, str]]
    plan: Plan
    version: str
    date: str

    @property
    def counts(self) -> bool:
        """Whether the card may be believed."""
        return not self.why


def make(plan: Plan, results: Mapping[tuple[str, int], Result], stopped: str = "") -> Card:
    """The card of what is there: of the seeds that all arms have finished.

    Raises ValueError where no seed is whole.
    """
    study, arms = plan.study, list(plan.study.trained())
    seeds = tuple(seed for seed in study.seeds if all((arm, seed) in results for arm in arms))
    if not seeds:
        raise ValueError(f"{plan.name}: no seed has all of its arms yet ({len(results)} runs are done)")
    every = [results[arm, seed] for arm in arms for seed in seeds]
    said = _answers(plan, results, seeds)
    tables = {name: Table.of([_bits(a["right"]) for a in some], some[0]["pictures"]) for name, some in said.items()}
    diverged = {arm: tuple(bool(results[arm, seed]["diverged"]) for seed in seeds) for arm in arms}
    named = diverged | {name: diverged[trained] for name, (trained, _) in study.scored().items()}
    judged = tuple(judge(claim, tables, named) for claim in study.claims)
    costs: dict[str, dict[str, Any]] = {
        arm: next((r["cost"] for (a, _), r in results.items() if a == arm and r["cost"]), {}) for arm in arms
    }
    rows = []
    for name, (trained, _) in study.scored().items():
        if name in said:
            seconds = [results[trained, seed]["seconds"] for seed in seeds]
            less = spread(tables[name] - tables[study.reference]) if study.reference in tables else None
            rows.append(_row(name, seeds, said[name], tables[name], less, sum(seconds) / len(seconds), costs[trained]))
    asked = max((len(some[0]["right"]) for some in said.values()), default=0)
    why = _doubt(plan, rows, asked, seeds)
    return Card(
        name=plan.name,
        question=study.question,
        paper=study.paper,
        rows=tuple(rows),
        judged=judged,
        verdict="cannot tell" if why else together(judged),
        why=why,
        questions=asked,
        pictures=max((len(set(some[0]["pictures"])) for some in said.values()), default=0),
        seeds=seeds,
        minutes=sum(result["spent"] for result in results.values()) / 60,
        stopped=stopped,
        rises={arm: tuple(results[arm, seed]["rise"] for seed in seeds) for arm in arms},
        diverged=diverged,
        losses={arm: _mean([results[arm, seed]["losses"] for seed in seeds]) for arm in arms},
        curves={arm: _curve([results[arm, seed]["curve"] for seed in seeds]) for arm in arms},
        differences=differences(plan),
        plan=plan,
        version=every[0]["origin"]["version"],
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _answers(
    plan: Plan, results: Mapping[tuple[str, int], Result], seeds: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """The answers of each arm for every seed; arms that were not asked, as they diverged, are left out."""
    found = {}
    for name, (trained, _) in plan.study.scored().items():
        own = [results[trained, seed]["answers"].get(name) for seed in seeds]
        if all(own):
            found[name] = own
    return found


def _row(
    name: str,
    seeds: tuple[int, ...],
    said: Sequence[Mapping[str, Any]],
    table: Table,
    less: Spread | None,
    seconds: float,
    cost: dict[str, float],
) -> Row:
    pictures, controlled = said[0]["pictures"], said[0]["controlled"]
    own = [pictures[at] for at in controlled]
    wrong = Table.of([_bits(a["wrong"]) for a in said], own)
    right = Table.of([[_bits(a["right"])[at] for at in controlled] for a in said], own)
    loss = Table.of([[value / 1000 for value in a["losses"]] for a in said], pictures)
    kinds = {}
    for kind in dict.fromkeys(said[0]["kinds"]):
        places = [at for at, other in enumerate(said[0]["kinds"]) if other == kind]
        kinds[kind] = sum(_bits(a["right"])[at] for a in said for at in places) / len(places) / len(said)
    return Row(
        arm=name,
        seeds=seeds,
        each=tuple(float(value) for value in table.means),
        score=spread(table),
        loss=spread(loss),
        wrong=spread(wrong),
        control=spread(right - wrong),
        less=less,
        kinds=kinds,
        seconds=seconds,
        cost=cost,
    )


def _doubt(plan: Plan, rows: Sequence[Row], asked: int, seeds: Sequence[int]) -> str:
    """Why a card does not count; empty when it does."""
    reference = next((row for row in rows if row.arm == plan.study.reference), None)
    if reference is None:
        return f"the reference arm {plan.study.reference} was not asked"
    if reference.control.estimate.low <= 0:
        return "the positive control failed: wrong pictures do not lose beyond chance"
    if asked < LEAST:
        return f"only {asked} questions were asked, {LEAST} are needed"
    if len(seeds) < 2:
        return "only one seed has run in all arms"
    return ""


def _bits(letters: str) -> list[float]:
    return [float(letter == "1") for letter in letters]


def _mean(curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    length = min(len(curve) for curve in curves)
    return tuple(round(sum(curve[at] for curve in curves) / len(curves), 4) for at in range(length))


def _curve(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[tuple[float, ...], ...]:
    """The mean of the curves of some seeds, point by point."""
    length = min(len(curve) for curve in curves)
    return tuple(
        tuple(sum(values) / len(values) for values in zip(*(curve[at] for curve in curves), strict=True))
        for at in range(length)
    )


def line(result: Result) -> str:
    """What came of a run, in a few words."""
    if result["stopped"]:
        return f"diverged: {result['stopped']}"
    last = result["losses"][-10:]
    told = f"loss {sum(last) / max(len(last), 1):.3f}"
    for name, said in result["answers"].items():
        own, wrong = said["right"].count("1") / len(said["right"]), said["wrong"].count("1") / len(said["wrong"])
        told += f", {name} {own:.1%} right ({wrong:.1%} with wrong pictures)"
    return told


def data(card: Card, results: Mapping[tuple[str, int], Result]) -> dict[str, Any]:
    """The card as plain data, with what every run left."""
    held: dict[str, Any] = {key: plain(value) for key, value in vars(card).items() if key != "plan"}
    held["counts"] = card.counts
    held["runs"] = [results[run] for run in sorted(results)]
    return held


def points(estimate: Estimate, signed: bool = False) -> str:
    """A share with its interval, in percent."""
    sign = "+" if signed else ""
    return f"{100 * estimate.value:{sign}.1f} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"
