"""What is left of a source when the drops of filters are taken out. `vlmlab data filter` finds and lists them.

A list of drops belongs to one source: with every list stands how many samples that had, which is checked.
"""

import dataclasses
import json
from pathlib import Path

from vlmlab.batch import Sample
from vlmlab.data import sieve
from vlmlab.data.sources import Source, SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`data` is the whole source; `drops` are folders that `vlmlab data filter` wrote for it.

    A sample is left out when any of them lists it: when a list of opt-outs grows, its drops come in a folder of their
    own. Another `split` than `train` is that of the source, whole: drops are of what is trained on.
    """

    data: SourceConfig = dataclasses.field(kw_only=True)
    drops: tuple[Path, ...] = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        if not self.drops:
            raise ValueError("drops is empty: name a folder that vlmlab data filter wrote")


class SievedSource(Source):
    """The samples that no list drops, in their order."""

    def __init__(self, config: Config) -> None:
        """Reads the lists. Raises ValueError where one is of another source."""
        training = config.split == SourceConfig.split
        data = config.data if training else dataclasses.replace(config.data, split=config.split)
        self.whole: Source = data.build()
        gone: set[int] = set()
        for folder in config.drops if training else ():
            gone |= _dropped(folder.expanduser(), len(self.whole))
        self.kept = sieve.Kept(self.whole, [index for index in range(len(self.whole)) if index not in gone])

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index` of those that are left. Raises IndexError past the end."""
        return self.kept[index]


def _dropped(folder: Path, total: int) -> set[int]:
    try:
        told = json.loads((folder / sieve.FACTS).read_text(encoding="utf-8"))
        samples = told["samples"]
        found = sieve.Sieved.read(folder / sieve.DROPS, total)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"drops: {folder} is no folder that vlmlab data filter wrote: {error}") from None
    if samples != total:
        raise ValueError(f"drops: {folder} is of a source of {samples} samples, this one has {total}")
    return {drop.index for drop in found.dropped}


PLUGIN = SievedSource
