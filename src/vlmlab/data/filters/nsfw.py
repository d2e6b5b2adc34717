"""Pictures that are not safe for work, found by a packaged classifier; see `vlmlab/data/nsfw.py`.

Its threshold is set for recall. The classifier tells five classes apart; those who made the filter that the paper used
counted a picture as unsafe when the likeliest class is one of three, and measured that on 4,900 pictures checked by
hand: 94.1 % of the unsafe ones found, 7.5 % of the others dropped (LAION-SAFETY's README, of this network before its
weights were rounded to 8 bits). Whenever one of three classes is the likeliest of five, the three have a third
together: below that, this filter drops all that that rule drops, and more. At 0.2 it is also wrong a little more often
(docs/data.md has the rates).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlab.batch import Sample
from vlmlab.data.filters import FilterConfig, Judged, Judging, Readers, no_readers
from vlmlab.data.get import default_cache
from vlmlab.data.nsfw import NAME, SHA256, Classifier
from vlmlab.data.sources import Source


@dataclasses.dataclass(frozen=True)
class Config(FilterConfig):
    """`most`, the greatest probability of the unsafe classes that passes.

    `model` is the classifier's folder, where it is not that of `vlmlab data get nsfw`.
    """

    most: float = 0.2
    model: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.most < 1:
            raise ValueError(f"most = {self.most} should be above 0 and below 1")


class Nsfw(Judging):
    """Drops a sample for the first of its pictures that is too likely unsafe."""

    kind = "unsafe picture"

    def __init__(self, config: Config) -> None:
        self.config, self.most = config, config.most
        self.classifier: Classifier | None = None

    def prepare(self, source: Source, readers: Readers = no_readers) -> None:
        """Load the classifier. Raises ValueError when it was not fetched."""
        self.classifier = Classifier((self.config.model or default_cache() / NAME).expanduser())

    def judge(self, sample: Sample) -> list[Judged]:
        """Each picture with the probability that it is unsafe."""
        if self.classifier is None:
            raise ValueError("nsfw: `prepare` comes before judging: it loads the classifier")
        return [Judged(picture, self.classifier(picture)) for picture in sample.pictures]

    def facts(self) -> Mapping[str, Any]:
        """The hash of the package that the classifier is from."""
        return {"package": SHA256}


PLUGIN = Nsfw
