"""A study as a TOML file: a question, a base recipe, what is varied, the seeds, and how it is decided.

    question = "Do more layers in the perceiver help?"
    base = "../recipes/nano/study.toml"
    seeds = [0, 1, 2]
    budget = 20                        # minutes, over all runs

    [axes.depth]                       # every combination of the levels of all axes is an arm
    "1" = ["model.connector.depth=1"]
    "3" = ["model.connector.depth=3"]

    [[claims]]
    text = "three layers are no better than one"
    kind = "alike"
    arms = ["3", "1"]

    [evaluate]                         # held-out questions with few candidates
    data = { name = "scenes", split = "test", samples = 250 }

The strings are those that change a recipe on the command line.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vlmlab import component
from vlmlab.data.sources import SourceConfig
from vlmlab.processor.processor import Options
from vlmlab.train import recipe as recipes
from vlmlab.train.recipe import Recipe

Overrides = tuple[str, ...]

KEPT = ("train", "adapters", "precision")
"""What a second course of training leaves as it was in the first."""

LEAST = 1000
"""How many held-out questions a card needs."""


@dataclasses.dataclass(frozen=True)
class Paper:
    """What the paper says about the question, and where (a table or section); the findings it bears on; its scores."""

    where: str
    says: str
    findings: tuple[int, ...] = ()
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(1 <= number <= 6 for number in self.findings):
            raise ValueError(f"findings = {list(self.findings)}: the paper has six, 1 to 6")


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something that the runs may support, of two arms (or the means of two groups of arms).

    `better`: the first scores higher than the second. `alike`: they differ by less than `margin`. `larger`: the first
    pair of `arms` differs by more than the second (four arms: the first less the second, the third less the fourth).
    `diverges`: the loss of the first arm leaves what it had reached, while those of the others do not.
    `margin` is also the least difference that would matter: an effect shown to be below it does not support `better`.
    """

    text: str
    kind: Literal["better", "alike", "larger", "diverges"]
    arms: tuple[str, ...]
    margin: float = 0.02

    def __post_init__(self) -> None:
        wanted = {"better": 2, "alike": 2, "larger": 4}.get(self.kind)
        if wanted is not None and len(self.arms) != wanted:
            raise ValueError(f"a claim of kind {self.kind!r} names {wanted} arms, not {len(self.arms)}")
        if not self.arms:
            raise ValueError("a claim names the arms that it is about")
        if self.margin <= 0:
            raise ValueError(f"margin must be above 0, it is {self.margin}")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pictures are read at evaluation, where another way is one of the arms: `split` on or off."""

    split: bool | None = None

    def options(self) -> Options:
        """As the processor takes it."""
        return Options(split=self.split)


@dataclasses.dataclass(frozen=True)
class Choices:
    """Held-out questions whose answer is chosen among candidates, by the likelihood of the token where they part.

    `data` is a made source; all that is asked about its pictures is asked, each question alone. The candidates are the
    answers that questions of the same kind have, or where those are more than `candidates`, the right one and others
    drawn from them, the common ones more often. The same questions are asked about `control` pictures (0: all) with a
    wrong one in their place.
    """

    data: SourceConfig
    candidates: int = 12
    control: int = 0
    together: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 2 or self.together < 2 or self.control < 0:
            raise ValueError("needs two candidates, two pictures together, and a control of 0 or more")


@dataclasses.dataclass(frozen=True)
class Benchmarks:
    """How the arms of a study at full size are scored: the mean of these benchmarks, with so many examples before."""

    names: tuple[str, ...]
    shots: int


@dataclasses.dataclass(frozen=True)
class Study:
    """A study.

    An arm is a list of overrides of the recipe `base` (a path from the study's file), behind the `changes` that are of
    all arms. With `axes`, the arms are every combination of their levels, named by these; else they are listed in
    `arms`. `readings` makes several arms of the card of each that is trained: its pictures are read in several ways.
    `reference` is the arm whose positive control must pass. `shared` says what is equal between arms of one seed:
    `samples`, the same ones in the same order, or where the data are what is varied, their `count`. `budget` is in
    minutes of two cores, or of one accelerator. `prepare` are recipes that make what arms start from, with overrides:
    by the folder of their run, trained once if it is not there, beside the budget. `watch` measures each run so many
    times on its way, for a picture of how the arms learn. `finish` are overrides of each arm's recipe for a second
    course of training, of other data or at another rate, that goes on with its model; at full size `follow` is a recipe
    for that. `differs` says how this is not the paper's protocol, `missing` what vlmlab lacks for it.
    """

    question: str
    paper: Paper
    base: str
    claims: tuple[Claim, ...]
    reference: str
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: float = 20.0
    changes: Overrides = ()
    axes: dict[str, dict[str, Overrides]] = dataclasses.field(default_factory=dict)
    arms: dict[str, Overrides] = dataclasses.field(default_factory=dict)
    readings: dict[str, Reading] = dataclasses.field(default_factory=dict)
    evaluate: Choices | None = None
    benchmarks: Benchmarks | None = None
    shared: Literal["samples", "count"] = "samples"
    prepare: dict[str, Overrides] = dataclasses.field(default_factory=dict)
    finish: Overrides = ()
    follow: str = ""
    watch: int = 0
    differs: str = ""
    missing: str = ""

    def __post_init__(self) -> None:
        if bool(self.axes) == bool(self.arms):
            raise ValueError("give either [axes] or [arms]")
        if (self.evaluate is None) == (self.benchmarks is None):
            raise ValueError("give either [evaluate] or [benchmarks]: how the arms are scored")
        if (self.finish and self.benchmarks) or (self.follow and self.evaluate):
            raise ValueError("what is trained last is `finish` with [evaluate], and `follow` with [benchmarks]")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("seeds must be given, each once")
        if not self.budget > 0 or self.watch < 0:
            raise ValueError(f"budget must be above 0 and watch 0 or more, not {self.budget} and {self.watch}")
        for folder, words in self.prepare.items():
            if not words:
                raise ValueError(f"prepare says nothing of how {folder} is made: give a recipe")
        for name in (*self.trained(), *self.readings):
            if not re.fullmatch(r"[\w.+-]+", name):
                raise ValueError(f"an arm is called {name!r}: use letters, digits, '-', '+', '_' and '.'")
        known = self.scored()
        for name in (self.reference, *(arm for claim in self.claims for arm in claim.arms)):
            if name not in known:
                raise ValueError(f"there is no arm {name!r}; the arms: {', '.join(known)}")

    def trained(self) -> dict[str, Overrides]:
        """What is trained: the overrides of each arm by its name."""
        if self.arms:
            return self.arms
        return {
            "-".join(name for name, _ in levels): tuple(item for _, overrides in levels for item in overrides)
            for levels in itertools.product(*(axis.items() for axis in self.axes.values()))
        }

    def scored(self) -> dict[str, tuple[str, Reading]]:
        """What is scored: for each arm of the card, the one that is trained, and how it reads pictures."""
        if not self.readings:
            return {name: (name, Reading()) for name in self.trained()}
        return {f"{name}+{way}": (name, reading) for name in self.trained() for way, reading in self.readings.items()}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study with its name and its recipes: those of the arms, by name, but for the seed; and what they start from.

    `finishes` has those of what is trained last, where the study says so.
    """

    name: str
    study: Study
    recipes: dict[str, Recipe]
    prepare: dict[Path, Recipe]
    finishes: dict[str, Recipe]

    def recipe(self, arm: str, seed: int) -> Recipe:
        """The recipe of one run."""
        return dataclasses.replace(self.recipes[arm], seed=seed)

    def courses(self, arm: str, seed: int) -> list[Recipe]:
        """What one run is trained by, in turn: its recipe, and what is trained last."""
        last = [dataclasses.replace(self.finishes[arm], seed=seed)] if arm in self.finishes else []
        return [self.recipe(arm, seed), *last]


def load(path: Path | str, overrides: Overrides = ()) -> Plan:
    """Read a study and the recipes of its arms. Raises ValueError naming the file and the key, or the arm.

    Overrides that begin with `base.` change every arm's recipe (before its own overrides), others the study.
    """
    path = Path(path)
    own = tuple(item for item in overrides if not item.startswith("base."))
    every = of_base(overrides)
    data = component.read_toml(path, own)
    try:
        study = component.parse(Study, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    first = {Path(folder): recipes.load(path.parent / words[0], words[1:]) for folder, words in study.prepare.items()}
    found = {arm: _recipe(path, study, arm, every) for arm in study.trained()}
    last = {arm: _finish(path, study, arm, every, recipe) for arm, recipe in found.items() if study.finish}
    return Plan(path.stem, study, found, first, last)


def of_base(overrides: Sequence[str]) -> Overrides:
    """Of the overrides of a study those that change every arm's recipe, as they do."""
    return tuple(item.removeprefix("base.") for item in overrides if item.startswith("base."))


def _recipe(path: Path, study: Study, arm: str, every: Overrides, then: Overrides = ()) -> Recipe:
    try:
        return recipes.load(path.parent / study.base, (*study.changes, *every, *study.trained()[arm], *then))
    except ValueError as error:
        raise ValueError(f"{path}: arm {arm!r}: {error}") from error


def _finish(path: Path, study: Study, arm: str, every: Overrides, first: Recipe) -> Recipe:
    """What is trained last of an arm. Raises ValueError where that would be another model or other parts of it."""
    last = _recipe(path, study, arm, every, study.finish)
    same = dataclasses.replace(last, data=first.data, stage=first.stage, score=first.score) == first
    kept = all(getattr(last.stage, key) == getattr(first.stage, key) for key in KEPT)
    told = ", ".join(f"stage.{key}" for key in KEPT)
    if not same or not kept:
        raise ValueError(f"{path}: finish changes the data and the course alone, not the model, nor {told}")
    return last


def differences(plan: Plan) -> dict[str, dict[str, str]]:
    """The keys of the arms' recipes that are not the same in all: for each, its value in every arm ("-": not there).

    What only some arms have, and all of those alike, is left out unless an arm names it: it came with a plug-in.
    """
    flat = {arm: dict(_flat(component.plain(recipe))) for arm, recipe in plan.recipes.items()}
    keys = dict.fromkeys(key for held in flat.values() for key in held)
    found = {key: {arm: held.get(key, "-") for arm, held in flat.items()} for key in keys}
    named = {item.partition("=")[0].strip() for overrides in plan.study.trained().values() for item in overrides}
    return {
        key: values
        for key, values in found.items()
        if len(set(values.values())) > 1 and (key in named or len(set(values.values()) - {"-"}) > 1)
    }


def _flat(data: Mapping[str, Any], where: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in data.items():
        path = f"{where}.{key}" if where else key
        if isinstance(value, Mapping):
            found += _flat(value, path)
        else:
            found.append((path, str(value).lower() if isinstance(value, bool) else str(value)))
    return found
