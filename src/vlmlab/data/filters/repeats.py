"""Rules for text: too short, too long, or saying the same over and over, as pages made for search engines do.

Shares of what is repeated are measured as in Gopher's rules (Rae et al. 2021, table A1): lines that stood there before,
and the words that the most frequent, or all repeated, runs of words cover.
"""

import collections
import dataclasses
import itertools

from vlmlab.batch import Sample
from vlmlab.data.filters import Filter, FilterConfig, Reason, said

_ENOUGH = 50  # words; of fewer, some repeat by chance


@dataclasses.dataclass(frozen=True)
class Config(FilterConfig):
    """`least` and `most` words; `lines`, `frequent` and `repeated`, the greatest shares that pass.

    `lines` is the share of lines that stood there before. `frequent` is the share of words that the most frequent two
    words in a row cover, and `repeated` that all runs of six words seen before cover.
    """

    least: int = 0
    most: int = 100_000
    lines: float = 0.3
    frequent: float = 0.2
    repeated: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise ValueError(f"least = {self.least} and most = {self.most} should be 0 or more, the least first")
        for key, value in (("lines", self.lines), ("frequent", self.frequent), ("repeated", self.repeated)):
            if not 0 <= value <= 1:
                raise ValueError(f"{key} = {value} should be a share, 0 to 1")


class Repeats(Filter):
    """Drops a sample for its text as a whole."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def why_not(self, sample: Sample) -> Reason | None:
        """Reasons: `too short`, `too long`, `same lines`, `same words`."""
        rules, text = self.config, said(sample)
        words = text.casefold().split()
        if not rules.least <= len(words) <= rules.most:
            return Reason("too short" if len(words) < rules.least else "too long", f"{len(words)} words")
        if len(words) < _ENOUGH:
            return None
        shares = (
            ("same lines", repeated_lines(text), rules.lines),
            ("same words", frequent(words), rules.frequent),
            ("same words", repeated(words), rules.repeated),
        )
        for kind, share, most in shares:
            if share > most:
                return Reason(kind, f"{share:.0%} of the text")
        return None


def repeated_lines(text: str) -> float:
    """The share of lines, blank ones not counted, that stood there before."""
    lines = [line for line in map(str.strip, text.casefold().splitlines()) if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def frequent(words: list[str]) -> float:
    """The share of words that the most frequent two words in a row cover, where they stand more than once."""
    pairs = collections.Counter(itertools.pairwise(words))
    times = max(pairs.values(), default=0)
    return min(1.0, 2 * times / len(words)) if times > 1 else 0.0


def repeated(words: list[str], length: int = 6) -> float:
    """The share of words inside a run of `length` words that stood there before."""
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for start in range(len(words) - length + 1):
        run = tuple(words[start : start + length])
        if run in seen:
            covered.update(range(start, start + length))
        seen.add(run)
    return len(covered) / len(words) if words else 0.0


PLUGIN = Repeats
