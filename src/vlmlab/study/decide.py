"""From the scores of questions to a verdict: paired intervals over pictures and seeds, and what could have been seen.

    s seeds   p pictures

Arms answer the same questions about the same pictures, and a seed gives all of them the same samples in the same order:
differences are taken question by question and seed by seed. A bootstrap draws pictures, with all that is asked about
them, and seeds, both for all arms alike. Of a few seeds a bootstrap sees too little spread: what seeds add is
stretched to what Student's t says of so few (three: 2.7 times), so that where pictures do not matter the interval is
his, and where seeds do not matter it is the bootstrap's.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.study.plan import Claim

Verdict = Literal["supported", "not supported", "cannot tell"]

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % points of Student's t for 1, 2, ... degrees of freedom."""
NORMAL, POWER = 1.960, 0.842
"""The 97.5 % and 80 % points of the normal distribution."""
SEEDS, QUESTIONS = 500, 1_000_000
"""More than so many are not thought of."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Sums of scores of the questions about each picture, for each seed; `counts` is how many questions those are."""

    sums: Float[ndarray, "s p"]
    counts: Float[ndarray, " p"]

    def __post_init__(self) -> None:
        if not len(self.sums) or not self.counts.sum():
            raise ValueError("nothing was scored")

    def __sub__(self, other: "Table") -> "Table":
        """The differences. Raises ValueError unless both are of the same questions and seeds."""
        if self.sums.shape != other.sums.shape or (self.counts != other.counts).any():
            raise ValueError("scores can only be compared on the same questions and seeds")
        return Table(self.sums - other.sums, self.counts)

    @property
    def means(self) -> Float[ndarray, " s"]:
        """The mean score of each seed."""
        return self.sums.sum(1) / self.counts.sum()

    @staticmethod
    def of(scores: Sequence[Sequence[float]], pictures: Sequence[int]) -> "Table":
        """From the score of each question, for each seed, and the picture that each question is about."""
        places, index = np.unique(np.asarray(pictures), return_inverse=True)
        if any(len(some) != len(pictures) for some in scores):
            raise ValueError("scores can only be compared on the same questions and seeds")
        sums = np.stack([np.bincount(index, np.asarray(some, np.float64), len(places)) for some in scores])
        return Table(sums, np.bincount(index, minlength=len(places)).astype(np.float64))


@dataclasses.dataclass(frozen=True)
class Spread:
    """A mean with its interval, and the two variances that it comes from: of pictures, and of one seed's mean."""

    estimate: Estimate
    seeds: int
    questions: int
    of_pictures: float
    of_seed: float

    @property
    def half(self) -> float:
        """Half of the interval."""
        return (self.estimate.high - self.estimate.low) / 2

    @property
    def smallest(self) -> float:
        """The smallest difference that such a study sees four times in five."""
        return self.half * (NORMAL + POWER) / NORMAL

    def expected(self, seeds: int, questions: int) -> float:
        """The smallest difference that could be seen with so many seeds and questions."""
        pictures = NORMAL**2 * self.of_pictures * self.questions / questions
        runs = student(seeds) ** 2 * self.of_seed / seeds if seeds > 1 else 0.0
        return math.sqrt(pictures + runs) * (NORMAL + POWER) / NORMAL

    def needed(self, difference: float) -> tuple[int | None, int | None]:
        """What would show a difference: so many seeds of these questions, or questions of these seeds (None: none)."""
        if difference <= 0:
            return None, None
        seeds = next((n for n in range(2, SEEDS + 1) if self.expected(n, self.questions) <= difference), None)
        questions = self.questions
        while questions <= QUESTIONS and self.expected(self.seeds, questions) > difference:
            questions *= 2
        return seeds, questions if questions <= QUESTIONS else None


def student(seeds: int) -> float:
    """The 97.5 % point of Student's t for the mean of so many seeds (two or more)."""
    freedom = seeds - 1
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    return NORMAL + 2.4 / freedom + 2.9 / freedom**2  # within 0.002 from 11 on


def spread(table: Table, resamples: int = 4000, seed: int = 0) -> Spread:
    """The mean of all scores with its 95 % interval over pictures and seeds; see the module.

    Of a single seed the interval is over pictures alone.
    """
    generator = np.random.default_rng(seed)
    count, pictures = table.sums.shape
    mean = float(table.means.mean())
    own = table.sums.mean(0)
    drawn = np.empty(resamples)
    for start in range(0, resamples, 500):
        chosen = generator.integers(0, pictures, (min(500, resamples - start), pictures))
        drawn[start : start + 500] = own[chosen].sum(1) / table.counts[chosen].sum(1)
    of_pictures, of_seed = float(drawn.var()), 0.0
    if count > 1:
        of_seed = float(table.means.var(ddof=1))
        stretch = student(count) / NORMAL * math.sqrt(count / (count - 1))
        picked = generator.integers(0, count, (resamples, count))
        drawn = drawn + stretch * (table.means - mean)[picked].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Spread(Estimate(mean, float(low), float(high)), count, int(table.counts.sum()), of_pictures, of_seed)


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim with its verdict, why, and for claims about scores the difference."""

    claim: Claim
    verdict: Verdict
    why: str
    difference: Spread | None = None


def judge(claim: Claim, tables: Mapping[str, Table], rises: Mapping[str, Sequence[bool]]) -> Judged:
    """The verdict on a claim. `tables` hold the arms that were scored, `rises` whether each run's loss diverged."""
    if claim.kind == "diverges":
        return _diverges(claim, rises)
    lacking = [arm for arm in claim.arms if arm not in tables]
    if lacking:
        return Judged(claim, "cannot tell", f"{lacking[0]} has no scores")
    one, other, *rest = (tables[arm] for arm in claim.arms)
    found = spread(one - other - (rest[0] - rest[1]) if rest else one - other)
    low, high, margin = found.estimate.low, found.estimate.high, claim.margin
    if claim.kind == "alike":
        if -margin < low and high < margin:
            return Judged(claim, "supported", f"the difference is within {_points(margin)}", found)
        if low > margin or high < -margin:
            return Judged(claim, "not supported", f"the difference is more than {_points(margin)}", found)
    elif low > 0:
        return Judged(claim, "supported", "the difference is above 0", found)
    elif high < 0:
        return Judged(claim, "not supported", "the difference is below 0", found)
    elif high < margin:
        return Judged(claim, "not supported", f"the difference is less than {_points(margin)}", found)
    return Judged(claim, "cannot tell", _size(claim, found), found)


def _points(margin: float) -> str:
    return f"{100 * margin:g} points"


def _size(claim: Claim, found: Spread) -> str:
    """Of which size a study would tell."""
    wanted = claim.margin if claim.kind == "alike" else max(abs(found.estimate.value), claim.margin)
    seeds, questions = found.needed(wanted)
    ways = [f"{seeds} seeds of as many questions"] if seeds else []
    ways += [f"{questions:,} questions with as many seeds"] if questions else []
    told = " or ".join(ways) or f"more than {SEEDS} seeds"
    return f"to see {100 * wanted:.1f} points it needs {told}"


def _diverges(claim: Claim, rises: Mapping[str, Sequence[bool]]) -> Judged:
    first, *others = (list(rises.get(arm, ())) for arm in claim.arms)
    if not first or not all(others):
        return Judged(claim, "cannot tell", "not all of its arms have run")
    told = f"{sum(first)} of {len(first)} runs diverged"
    calm = not any(any(some) for some in others)
    if all(first) and calm:
        return Judged(claim, "supported", told)
    if not any(first):
        return Judged(claim, "not supported", told)
    return Judged(claim, "cannot tell", told if calm else f"{told}, and some of the others'")


def together(judged: Sequence[Judged]) -> Verdict:
    """The verdict of a card: that of all its claims where they agree, "not supported" where one is."""
    found = {one.verdict for one in judged}
    if "not supported" in found:
        return "not supported"
    return "supported" if found == {"supported"} else "cannot tell"
