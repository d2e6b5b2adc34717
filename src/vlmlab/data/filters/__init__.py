"""Filters: what keeps a sample out of training, and why. Each is a plug-in that sees one sample at a time."""

import dataclasses
from typing import ClassVar

from vlmlab.batch import Sample
from vlmlab.component import Plugin


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

    def why_not(self, sample: Sample) -> Reason | None:
        """The first reason to drop `sample`, or None to keep it. Raises ValueError where a picture cannot be read."""
        raise NotImplementedError


def said(sample: Sample) -> str:
    """All text of a sample, a line for each part."""
    return "\n".join(part for message in sample.messages for part in message.parts if isinstance(part, str))
