"""Perplexity: the samples whose text a language model finds strangest. The paper drops the worst 5 % of documents.

Where the worst begin is measured first, on some samples of the source drawn by seed; each sample is then kept or
dropped by itself, so that the verdicts are the same in any order, on any number of machines. Of a whole source, about
`share` is dropped: exactly so of what was measured, within chance of the rest.
"""

import dataclasses
import math
import random
from collections.abc import Mapping
from typing import Any

from vlmlab.batch import Sample
from vlmlab.data.filters import FilterConfig, Judged, Judging, Reader, Readers, no_readers, said
from vlmlab.data.sources import Source


@dataclasses.dataclass(frozen=True)
class Config(FilterConfig):
    """`share`, the worst that are dropped; `model`, the language model that reads: a folder, or `nano`.

    The model reads the first `tokens` tokens of all text of a sample; a text of fewer than `least` of them is too
    short to tell, and passes. Where the worst begin is measured on `measured` samples, drawn by `seed`; with `most`
    given, a perplexity measured before, nothing is.
    """

    share: float = 0.05
    model: str = "nano"
    tokens: int = 1024
    least: int = 8
    measured: int = 2000
    seed: int = 0
    most: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share = {self.share} should be above 0 and below 1")
        if self.tokens < 2 or self.least < 2 or self.measured < 1:
            raise ValueError("needs tokens and least of 2 or more, and measured of 1 or more")
        if self.most is not None and self.most <= 0:
            raise ValueError(f"most = {self.most} should be above 0")


class Perplexity(Judging):
    """Drops a sample whose text is among the worst."""

    kind = "strange text"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.most = math.nan if config.most is None else config.most
        self.reader: Reader | None = None
        self.seen = 0

    def prepare(self, source: Source, readers: Readers = no_readers) -> None:
        """Load the language model, and measure where the worst begin. Samples that cannot be read are passed over.

        Raises ValueError when none of the samples has enough text.
        """
        self.reader = readers(self.config.model)
        if self.config.most is not None:
            return
        count = min(self.config.measured, len(source))
        found = []
        for index in sorted(random.Random(self.config.seed).sample(range(len(source)), count)):
            try:
                found += [judged.score for judged in self.judge(source[index])]
            except (ValueError, OSError):
                continue  # sieving names it
        if not found:
            raise ValueError(f"perplexity: none of {count} samples has {self.config.least} tokens of text")
        worst = int(self.config.share * len(found) + 1e-9)
        self.most = sorted(found)[len(found) - worst - 1]
        self.seen = len(found)

    def judge(self, sample: Sample) -> list[Judged]:
        """The text with its perplexity, unless it is too short."""
        if self.reader is None:
            raise ValueError("perplexity: `prepare` comes before judging: it loads the language model")
        text = said(sample).strip()
        nats, count = self.reader(text, self.config.tokens) if text else (0.0, 0)
        # A text of so many tokens has one fewer that is predicted.
        return [Judged(text, math.exp(min(nats / count, 700.0)))] if count >= self.config.least - 1 else []

    def facts(self) -> Mapping[str, Any]:
        """The perplexity at which the worst begin, and on how many texts it was measured."""
        return {"most": self.most, "measured": self.seen}

    def settled(self, config: FilterConfig) -> FilterConfig:
        """With `most`, where the worst begin."""
        return dataclasses.replace(self.config, most=self.most)


PLUGIN = Perplexity
