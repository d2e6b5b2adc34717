"""Intervals by the paired bootstrap: the same pictures are drawn again, both sides of a difference together."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(
    above: Sequence[float], below: Sequence[float] | None = None, resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """The sum of `above` over that of `below` (their number by default), with its percentile interval.

    Items are drawn with replacement, numerator and denominator together. Raises ValueError when there are none.
    """
    if not len(above):
        raise ValueError("an interval needs at least one item")
    top = np.asarray(above, dtype=np.float64)
    bottom = np.ones_like(top) if below is None else np.asarray(below, dtype=np.float64)
    generator = np.random.default_rng(seed)
    values = []
    for start in range(0, resamples, 1000):
        drawn = generator.integers(0, len(top), (min(1000, resamples - start), len(top)))
        values.append(top[drawn].sum(1) / bottom[drawn].sum(1))
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))
