"""The embedded corpus: 3,992 pictures of emoji, of three freely licensed sets, with their names.

It ships in the package (`vlmlab/data/corpora/emoji`, with its provenance), split by title and by picture: no held-out
title, nor the same words in another order, nor a near-copy of a held-out picture, is in the training split. What is
held out is new titles of things that training has seen.
"""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from typing import Any, Literal

from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.sources import Pair, PairSource, SourceConfig

QUESTION = "What is this?"

Licence = Literal["Apache-2.0", "MIT", "CC-BY-4.0"]
"""That of Noto's pictures, Fluent's, and Twemoji's."""


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`question` stands with each picture; its title is the answer.

    With `chat` they are a user's question and an assistant's answer; without, one plain document, as the pairs of the
    paper's first stage are. `licences` are those of the sets that pictures are taken from: all three, or the two that
    ask for nothing but their notice.
    """

    split: Literal["train", "validation", "test"] = "train"
    question: str = QUESTION
    chat: bool = True
    licences: tuple[Licence, ...] = ("Apache-2.0", "MIT", "CC-BY-4.0")

    def __post_init__(self) -> None:
        if not self.licences:
            raise ValueError("licences is empty: name one at least, such as MIT")


class Emoji(PairSource):
    """One split of the corpus. Pictures are read from the archive one by one, when asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.records = [r for r in _records() if r["split"] == config.split and r["licence"] in config.licences]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """The picture with the question, and its title behind them."""
        pair = self.pair(index)
        question = (pair.picture, self.config.question) if self.config.question else (pair.picture,)
        if not self.config.chat:
            return Sample((Message("text", question), Message("continuation", (" " + pair.title,))))
        return Sample((Message("user", question), Message("assistant", (pair.title,))))

    def pair(self, index: int) -> Pair:
        """The picture, its title and its category. Raises IndexError past the end."""
        if not 0 <= index < len(self.records):
            raise IndexError(index)
        record = self.records[index]
        with _folder().joinpath("pictures.zip").open("rb") as archive:
            archive.seek(record["offset"])
            data = archive.read(record["bytes"])
        words = frozenset(folded(word) for word in record["title"].split() if word not in COMMON)
        return Pair(Picture(data, f"emoji/{record['file']}"), record["title"], record["category"], words)


COMMON = frozenset(
    ["a", "an", "the", "of", "in", "on", "with", "for", "at", "to", "from", "by", "and", "under", "over", "behind"]
)
"""Words that two titles may share and still mean different things."""


def folded(word: str) -> str:
    """A word without a plural ending, so that `cats` and `cat` are the same."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _folder() -> Traversable:
    return importlib.resources.files("vlmlab.data.corpora").joinpath("emoji")


@functools.cache
def _records() -> tuple[dict[str, Any], ...]:
    def lines() -> Iterator[dict[str, Any]]:
        with _folder().joinpath("pairs.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    return tuple(lines())


PLUGIN = Emoji
