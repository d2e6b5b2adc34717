"""Metrics: how right an answer is. Each file is one metric, with its variants side by side.

A metric scores every answer from 0 to 1 and says what it read in the answer. A *variant* is the same metric as one
program computes it: `official` is the benchmark's own code, the others are named after the harness they equal. All are
pure functions of the answers and the references, held to that code's outputs by the tests.

    [metric]
    name = "vqa"
    variant = "official"
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from vlmlab.component import Plugin, parse

OFFICIAL = "official"


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an answer is held against.

    `answers` are all that count as right: ten people's answers, several spellings, captions, or one; the letter of the
    right option for `mmmu` and `mmbench`, its text for `mathvista`. `choices` are the options in order, the first is
    A; none for an open question. `kind` and `precision` (decimal places) are MathVista's `answer_type` and `precision`.
    Questions of one `group` count together: MMBench's rotations of a question.
    """

    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    kind: str = ""
    precision: int | float | None = None
    group: str = ""

    def __post_init__(self) -> None:
        for name, texts in (("answers", self.answers), ("choices", self.choices)):
            if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{name} should be a tuple of texts, not {texts!r}")

    @property
    def letters(self) -> list[str]:
        """A, B, ... for each choice."""
        return [chr(ord("A") + at) for at in range(len(self.choices))]

    @property
    def options(self) -> dict[str, str]:
        """The choices by letter."""
        return dict(zip(self.letters, self.choices, strict=True))


@dataclasses.dataclass(frozen=True)
class Score:
    """How right an answer is, from 0 to 1, and what was read in it.

    `found` is False where the metric's rules found no answer in the text and it fell back on something else: a guess,
    the nearest option, or nothing.
    """

    value: float
    parsed: str
    found: bool = True


One = Callable[[str, Reference], Score]
"""Scores an answer by its own reference alone."""

All = Callable[[Sequence[str], Sequence[Reference]], list[Score]]
"""Scores all answers together, where a question's score depends on the others."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to compute a metric, and in one line how it differs from the others."""

    score: All
    differs: str


def each(score: One, differs: str) -> Variant:
    """A variant that scores every answer by its own reference alone."""

    def together(said: Sequence[str], references: Sequence[Reference]) -> list[Score]:
        found = []
        for number, (answer, reference) in enumerate(zip(said, references, strict=True)):
            try:
                found.append(score(answer, reference))
            except ValueError as error:
                raise ValueError(f"question {number}: {error}") from error
        return found

    return Variant(together, differs)


@dataclasses.dataclass(frozen=True)
class MetricConfig(Plugin):
    """What every metric has: which of its variants scores."""

    home: ClassVar[str] = "vlmlab.evaluate.metrics"

    variant: str = OFFICIAL


class Metric:
    """A metric: its variants, and by what the mean score is multiplied in papers.

    Raises ValueError for a variant that it does not have.
    """

    variants: ClassVar[Mapping[str, Variant]]
    published: ClassVar[float] = 100.0

    def __init__(self, config: MetricConfig) -> None:
        if config.variant not in self.variants:
            raise ValueError(f"{config.name} has no variant {config.variant!r}; it has {', '.join(self.variants)}")
        self.variant = self.variants[config.variant]

    def score(self, said: Sequence[str], references: Sequence[Reference]) -> list[Score]:
        """A score for each answer, in order. Raises ValueError that names the question whose reference is unusable."""
        if len(said) != len(references):
            raise ValueError(f"{len(said)} answers to {len(references)} questions: there must be one for each")
        for number, reference in enumerate(references):
            if not reference.answers:
                raise ValueError(f"question {number} has no answer to hold what was said against")
        return self.variant.score(said, references)


def get(name: str, variant: str = OFFICIAL) -> Metric:
    """The metric of that name, in one of its variants. Raises ValueError with the names there are."""
    config: MetricConfig = parse(MetricConfig, {"name": name, "variant": variant})
    metric: Metric = config.build()
    return metric


def side_by_side(name: str, said: Sequence[str], references: Sequence[Reference]) -> dict[str, list[Score]]:
    """The same answers scored by every variant of a metric, `official` first."""
    return {variant: get(name, variant).score(said, references) for variant in get(name).variants}
