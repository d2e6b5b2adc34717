"""Figures of scores: intervals that know which questions share a picture, paired differences, what it takes to tell.

Questions about one picture (or rotations of one question) are drawn together: they are not so many independent facts.

    q questions  u clusters, the units that are drawn  r resamples
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.evaluate.evaluation import Record

RESAMPLES = 10_000
TELLS = 1.959964 + 0.841621
"""Standard errors between nothing and a difference that a 95 % interval leaves zero out of, four times in five."""

_AT_ONCE = 1 << 18


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Questions as the bootstrap draws them: which belong together, and how much each counts."""

    numbers: Int[np.ndarray, " q"]
    weights: Float[np.ndarray, " q"]

    @staticmethod
    def of(records: Sequence[Record]) -> "Clusters":
        """Of the records of an evaluation: questions of one `Reference.group` count once together."""
        names: dict[str, int] = {}
        numbers = [names.setdefault(record.cluster, len(names)) for record in records]
        groups: dict[str, int] = {}
        for record in records:
            groups[record.reference.group] = groups.get(record.reference.group, 0) + 1
        weights = [1 / groups[record.reference.group] if record.reference.group else 1.0 for record in records]
        return Clusters(np.array(numbers, np.int64), np.array(weights))

    def sums(self, values: Float[np.ndarray, " q"]) -> tuple[Float[np.ndarray, " u"], Float[np.ndarray, " u"]]:
        """Of each cluster, the weighted sum of the values and the weight."""
        return np.bincount(self.numbers, values * self.weights), np.bincount(self.numbers, self.weights)


def mean(
    values: Sequence[float],
    clusters: Clusters,
    resamples: int = RESAMPLES,
    seed: int = 0,
    most: float | None = None,
) -> Estimate:
    """The weighted mean with its 95 % interval: clusters are drawn with replacement.

    `most` is the largest value of a score whose least is 0. Where every value is the one or the other, drawing again
    says nothing, and the interval is that of a share (Clopper and Pearson, 1934). Raises ValueError when there are no
    values.
    """
    if not len(values):
        raise ValueError("an interval needs at least one question")
    top, bottom = clusters.sums(np.asarray(values, np.float64))
    if most and (not top.any() or np.allclose(top, most * bottom, rtol=1e-12)):
        room = most * (1 - 0.025 ** (1 / len(top)))
        return Estimate(0.0, 0.0, room) if not top.any() else Estimate(most, most - room, most)
    drawn = _resampled(top, bottom, resamples, seed)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def _resampled(
    top: Float[np.ndarray, " u"], bottom: Float[np.ndarray, " u"], resamples: int, seed: int
) -> Float[np.ndarray, " r"]:
    generator = np.random.default_rng(seed)
    # Few distinct clusters (right or wrong, say): how often each kind is drawn says all, and is drawn at once.
    kinds, first, counts = np.unique(np.stack([top, bottom], 1), axis=0, return_index=True, return_counts=True)
    if len(kinds) <= 64:
        order = np.argsort(first)  # as they come: a difference and its opposite are drawn alike
        kinds, counts = kinds[order], counts[order]
        times = generator.multinomial(len(top), counts / len(top), resamples)
        return (times @ kinds[:, 0]) / (times @ kinds[:, 1])
    size = len(top)
    # Small numbers are drawn faster, and what is drawn at once stays in the processor's cache.
    kind = np.uint16 if size < 1 << 16 else np.uint32
    rows = max(1, _AT_ONCE // size)
    same = bool((bottom == bottom[0]).all())
    found = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, size, (min(rows, resamples - start), size), kind)
        below = bottom[0] * size if same else bottom.take(drawn).sum(1)
        found.append(top.take(drawn).sum(1) / below)
    return np.concatenate(found)


def standard_error(values: Sequence[float], clusters: Clusters) -> float:
    """The standard error of the weighted mean, from how far clusters stray; infinite for a single cluster."""
    top, bottom = clusters.sums(np.asarray(values, np.float64))
    if len(top) < 2:
        return math.inf
    strays = top - bottom * (top.sum() / bottom.sum())
    return float(np.sqrt((strays**2).sum() * len(top) / (len(top) - 1)) / bottom.sum())


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much better the second of two evaluations is on the same questions.

    `wins` are questions on which the second scored more, `losses` less. To tell a difference of `tell`, in the unit of
    the scores, from nothing, `needed` questions of this kind are needed (None: nothing is known of how they vary).
    """

    value: Estimate
    wins: int
    losses: int
    ties: int
    tell: float
    needed: int | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.value.low > 0 or self.value.high < 0


def difference(
    first: Sequence[float], second: Sequence[float], clusters: Clusters, tell: float, resamples: int = RESAMPLES
) -> Difference:
    """The second minus the first, in pairs. Raises ValueError when `tell` is not above 0, or there are no questions."""
    if not 0 < tell < math.inf:
        raise ValueError(f"the difference to tell must be above 0, not {tell}")
    apart = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    error = standard_error(apart.tolist(), clusters)
    needed = max(math.ceil(len(apart) * (TELLS * error / tell) ** 2), 2) if 0 < error < math.inf else None
    return Difference(
        mean(apart.tolist(), clusters, resamples),
        int((apart > 0).sum()),
        int((apart < 0).sum()),
        int((apart == 0).sum()),
        tell,
        needed,
    )


@dataclasses.dataclass(frozen=True)
class Spread:
    """Scores of several draws of examples: the mean over draws with its interval over questions, and how draws differ.

    `between` is the standard deviation over draws; `within` the standard error that questions alone give one draw.
    """

    value: Estimate
    each: tuple[float, ...]
    between: float
    within: float


def spread(draws: Sequence[Sequence[float]], clusters: Clusters, resamples: int = RESAMPLES) -> Spread:
    """Of the same questions asked with two or more draws of examples. Raises ValueError for fewer."""
    if len(draws) < 2:
        raise ValueError("a spread needs at least two draws")
    scores = np.asarray(draws, np.float64)
    each = [float((row * clusters.weights).sum() / clusters.weights.sum()) for row in scores]
    within = float(np.mean([standard_error(row.tolist(), clusters) for row in scores]))
    together = mean(scores.mean(0).tolist(), clusters, resamples)
    return Spread(together, tuple(each), float(np.std(each, ddof=1)), within)
