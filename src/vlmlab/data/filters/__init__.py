"""Filters: what keeps a sample out of training, and why. Each is a plug-in that sees one sample at a time."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from vlmlab.batch import Picture, Sample
from vlmlab.component import Plugin
from vlmlab.data.sources import Source

Reader = Callable[[str, int], tuple[float, int]]
"""A language model that reads the first so many tokens of a text: its surprise in nats, and how many it predicted."""

Readers = Callable[[str], Reader]
"""Loads a language model by the name that a config gives it. Models live above the data: whoever sieves hands this."""


def no_readers(name: str) -> Reader:
    """In place of language models, where none can be loaded. Raises ValueError."""
    raise ValueError(f"a filter needs the language model {name!r}: hand `readers` that loads it")


@dataclasses.dataclass(frozen=True)
class FilterConfig(Plugin):
    """What every filter has: nothing but its place among the filters."""

    home: ClassVar[str] = "vlmlab.data.filters"


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a sample is dropped: one of a filter's few `kind`s, by which drops are counted, and what it was here."""

    kind: str
    detail: str = ""


class Filter:
    """A filter: a sample passes, or there is a reason why not. The same sample gets the same verdict every time."""

    def prepare(self, source: Source, readers: Readers = no_readers) -> None:
        """What it must know of the whole source before it judges; called once. Most filters need nothing."""

    def why_not(self, sample: Sample) -> Reason | None:
        """The first reason to drop `sample`, or None to keep it. Raises ValueError where a picture cannot be read."""
        raise NotImplementedError

    def facts(self) -> Mapping[str, Any]:
        """What it measured, or judges with, that its config does not say; written beside the drops."""
        return {}

    def fingerprint(self) -> str:
        """What tells the files that it was made from, before `prepare`, from others; empty where it reads none."""
        return ""

    def settled(self, config: FilterConfig) -> FilterConfig:
        """Its config with what `prepare` measured: one that is made from it judges alike, and measures nothing."""
        return config


@dataclasses.dataclass(frozen=True)
class Judged:
    """A picture or a text of a sample, with its score."""

    part: Picture | str
    score: float


class Judging(Filter):
    """A filter that scores parts of a sample and drops it for the first whose score is above `most`."""

    kind: ClassVar[str]
    most: float

    def judge(self, sample: Sample) -> list[Judged]:
        """The parts that it scores, in reading order. Raises ValueError where a picture cannot be read."""
        raise NotImplementedError

    def why_not(self, sample: Sample) -> Reason | None:
        """One reason, its own; the detail has the score."""
        for judged in self.judge(sample):
            if judged.score > self.most:
                name = judged.part.name if isinstance(judged.part, Picture) else "text"
                return Reason(self.kind, f"{name}: {judged.score:.4g}, above {self.most:.4g}")
        return None


def said(sample: Sample) -> str:
    """All text of a sample, a line for each part."""
    return "\n".join(part for message in sample.messages for part in message.parts if isinstance(part, str))
