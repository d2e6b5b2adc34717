"""Builders: corpora out of raw files, in the layouts in which such corpora are published. Each is a plug-in.

The input is a list of units (files, rows, samples) that is cut into shards of equal length. What a shard holds depends
on its own units alone, and on what a survey found in all of them before, so that shards may be made in any order, by
any process, again after a crash: the bytes are the same. See `vlmlab.data.build` for who makes which.
"""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from vlmlab.component import Plugin


@dataclasses.dataclass(frozen=True)
class BuilderConfig(Plugin):
    """What every builder has: how many units go into a shard."""

    home: ClassVar[str] = "vlmlab.data.builders"

    shard: int = 1000

    def __post_init__(self) -> None:
        if self.shard < 1:
            raise ValueError(f"shard = {self.shard} should be 1 or more")


@dataclasses.dataclass
class Tally:
    """What became of a shard's units: `samples` written, and of what was dropped how much for which reason.

    A unit that was dropped whole is `listed`, with its name and what was wrong; parts of units are only counted.
    """

    samples: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    listed: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)

    def drop(self, unit: str, kind: str, detail: str = "") -> None:
        """Count a unit as dropped, and list it."""
        self.dropped[kind] += 1
        self.listed.append((unit, kind, detail))


class Builder:
    """A builder of one corpus. A subclass is made from its config and the input's path, and sets `ending`."""

    ending: ClassVar[str]
    """How the names of shards end."""

    def __len__(self) -> int:
        """How many units there are."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """What tells this input from another: a hash of the units' names and sizes, for example."""
        raise NotImplementedError

    def survey(self) -> list[str]:
        """What has to be known of all units before any is written; most need nothing. It is asked for once."""
        return []

    def know(self, survey: Sequence[str]) -> None:
        """What the survey found, told before `write`, in whichever process that is."""

    def write(self, units: range, path: Path, out: Path) -> Tally:
        """Write some units to the file at `path`. Files beside the shards go into the folder `out`.

        What cannot be used is dropped and counted. The bytes that are written depend on the units alone.
        """
        raise NotImplementedError
