"""Sources: a corpus with random access. The order in which samples are drawn is the training loop's, not a source's."""

import dataclasses
from typing import ClassVar

from vlmlab.batch import Picture, Sample
from vlmlab.component import Plugin


@dataclasses.dataclass(frozen=True)
class SourceConfig(Plugin):
    """What every source has: which split of the corpus to read."""

    home: ClassVar[str] = "vlmlab.data.sources"

    split: str = "train"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A picture and its title. Titles of one `category` are hard to tell apart without the picture.

    Another title that shares one of its `words` may be true of the picture too: it is no wrong answer.
    """

    picture: Picture
    title: str
    category: str = ""
    words: frozenset[str] = frozenset()


class Source:
    """A source: `len(source)` samples, `source[i]` is one of them; the same `i` is the same sample every time."""

    def __len__(self) -> int:
        """How many samples there are."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`, from 0. Raises IndexError past the end."""
        raise NotImplementedError


class PairSource(Source):
    """A source whose samples are titled pictures: a picture in the question, its title as the answer."""

    def pair(self, index: int) -> Pair:
        """The picture and title behind sample number `index`."""
        raise NotImplementedError
