"""Mixtures: several sources as one, each with its share.

    [data]
    name = "mixture"
    unit = "samples"

    [data.sources.documents]
    weight = 0.7
    tokens = 2048
    data = { name = "documents", path = "OBELICS/data/*.parquet" }

The paper's shares of pre-training are of samples (4.1), those of its instruction mixture of answer tokens (Table 14).
Units other than samples are turned into shares of samples by what a seeded probe of each source measures.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

from vlmlab.batch import Sample
from vlmlab.data.augment import Augment
from vlmlab.data.sources import Source, SourceConfig
from vlmlab.data.stream import Order
from vlmlab.processor.processor import Learn

Unit = Literal["samples", "rows", "images", "answers"]


@dataclasses.dataclass(frozen=True)
class Ingredient:
    """A source in a mixture, and how its samples are read.

    `weight` is its share, in any numbers: they are divided by their sum. A packed row holds `tokens` tokens at most (0:
    as many as a pass) and samples of one `kind` (the source's own name, where none is given). `learn` says which tokens
    are learned (left out: as the stage says). A sample longer than a row is left out, or with `overlong = "split"` cut
    between blocks, its pictures with their texts.
    """

    data: SourceConfig
    weight: float = 1.0
    tokens: int = 0
    kind: str = ""
    learn: Learn | None = None
    overlong: Literal["drop", "split"] = "drop"
    augment: Augment = dataclasses.field(default_factory=Augment)

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must not be negative, it is {self.weight}")
        if self.tokens < 0:
            raise ValueError(f"tokens must not be negative, it is {self.tokens}")
        if self.overlong == "split" and not self.tokens:
            raise ValueError('overlong = "split" needs `tokens`: how long a piece may be')


@dataclasses.dataclass(frozen=True)
class Mixed(SourceConfig):
    """The config of a source that is a mixture, however a recipe writes it down."""

    def mixture(self) -> "MixtureConfig":
        """All of it: each source with its share. Nothing is opened."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class MixtureConfig(Mixed):
    """`sources` by names of your own. `unit` is what their weights are shares of.

    `samples`, packed `rows`, `images`, or `answers`: tokens that are learned. For all but the first, `probe` samples of
    each source are measured before training. `drift` is by how much a realised share may miss the one asked for before
    the log raises an alarm. Another `split` than `train` is that of every source.
    """

    sources: dict[str, Ingredient] = dataclasses.field(kw_only=True)
    unit: Unit = "samples"
    probe: int = 64
    drift: float = 0.05

    def __post_init__(self) -> None:
        if not self.sources or not any(each.weight for each in self.sources.values()):
            raise ValueError("a mixture needs a source with a weight above 0")
        if self.probe < 1 or self.drift <= 0:
            raise ValueError("probe must be 1 or more, drift more than 0")
        budgets: dict[str, tuple[str, int]] = {}
        for name, each in self.sources.items():
            other, tokens = budgets.setdefault(each.kind or name, (name, each.tokens))
            if tokens != each.tokens:
                raise ValueError(
                    f"{other} and {name} are of one kind, {each.kind or name!r}, and share rows: "
                    "give both the same tokens"
                )

    def mixture(self) -> "MixtureConfig":
        """This is all of it already."""
        return self


class Mixture(Source):
    """The samples of several sources, one source after the other; in which order they are drawn is the stream's."""

    def __init__(self, config: MixtureConfig) -> None:
        self.config = config
        self.sources: dict[str, Source] = {}
        for name, each in config.sources.items():
            if each.weight:
                told = each.data if config.split == "train" else dataclasses.replace(each.data, split=config.split)
                self.sources[name] = told.build()
        self.ends = list(itertools.accumulate(len(source) for source in self.sources.values()))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index` of all. Raises IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self.ends, index)
        source = list(self.sources.values())[number]
        return source[index - (self.ends[number - 1] if number else 0)]

    def weights(self) -> dict[str, Fraction]:
        """The weight of each source, exactly as it is written in decimals, of 1 in all."""
        found = {name: Fraction(repr(self.config.sources[name].weight)) for name in self.sources}
        total = sum(found.values())
        return {name: weight / total for name, weight in found.items()}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much something is in each unit: `rows` counts shares of packed rows, `answers` learned tokens."""

    samples: float = 0.0
    rows: float = 0.0
    images: float = 0.0
    answers: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: "Size") -> "Size":
        return Size(
            self.samples + other.samples,
            self.rows + other.rows,
            self.images + other.images,
            self.answers + other.answers,
            self.tokens + other.tokens,
        )

    def __truediv__(self, count: int) -> "Size":
        return Size(
            self.samples / count, self.rows / count, self.images / count, self.answers / count, self.tokens / count
        )

    def of(self, unit: Unit) -> float:
        """How much it is in a unit."""
        return {"samples": self.samples, "rows": self.rows, "images": self.images, "answers": self.answers}[unit]


def measured(mixture: Mixture, seed: int, size: Callable[[str, int], Size]) -> dict[str, Size]:
    """The mean size of a sample of each source, over a probe that the seed draws.

    `size` says how large sample number so and so of a source is once it is read; what cannot be used is of size 0.
    """
    found = {}
    for name, source in mixture.sources.items():
        count = min(mixture.config.probe, len(source))
        order = Order(seed, {name: len(source)})
        found[name] = sum((size(name, order[place].number) for place in range(count)), Size()) / count
    return found


def shares(mixture: Mixture, means: Mapping[str, Size]) -> dict[str, Fraction]:
    """The share of samples that gives each source its share of the mixture's unit. Raises ValueError where none can."""
    unit, asked = mixture.config.unit, mixture.weights()
    if unit == "samples":
        return asked
    found = {}
    for name, weight in asked.items():
        mean = Fraction(means[name].of(unit))
        if not mean:
            raise ValueError(
                f"the source {name!r} cannot have a share of {unit}: of {mixture.config.probe} samples, none has any"
            )
        found[name] = weight / mean
    total = sum(found.values())
    # Rounded, so that shares stay short numbers; what is lost is far below one sample.
    rounded = {name: Fraction(round(share / total * SCALE), SCALE) for name, share in found.items()}
    last = max(rounded, key=rounded.__getitem__)
    return {**rounded, last: rounded[last] + 1 - sum(rounded.values())}


SCALE = 10**9
