"""Sieving a source: which samples pass the filters, and of each that does not, which filter dropped it and why."""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlab.batch import Sample
from vlmlab.data.filters import Filter, Readers, no_readers
from vlmlab.data.sources import Source
from vlmlab.writing import write_text

DROPS, FACTS = "drops.jsonl", "filter.json"
"""The files that `save` writes: every drop, and what was filtered by what."""

UNREADABLE = "unreadable"
"""What stands in place of a filter's name for samples that cannot be read at all."""


@dataclasses.dataclass(frozen=True)
class Drop:
    """A dropped sample: its number, the filter that dropped it, and its reason."""

    index: int
    filter: str
    kind: str
    detail: str

    @staticmethod
    def of(told: Any) -> "Drop":
        """The drop that was written as an object of JSON. Raises ValueError where it is none."""
        kinds = {field.name: field.type for field in dataclasses.fields(Drop)}
        if not isinstance(told, Mapping) or told.keys() != kinds.keys():
            raise ValueError(f"a line should be an object with {', '.join(kinds)}")
        if not isinstance(told["index"], int) or not all(isinstance(told[k], str) for k in kinds.keys() - {"index"}):
            raise ValueError("`index` should be a whole number and all else text")
        return Drop(told["index"], told["filter"], told["kind"], told["detail"])


@dataclasses.dataclass(frozen=True)
class Sieved:
    """What passed, by number, and what did not."""

    kept: tuple[int, ...]
    dropped: tuple[Drop, ...]

    def counts(self) -> dict[str, int]:
        """How many were dropped for each reason, `filter: kind`, the most frequent first."""
        counted = collections.Counter(f"{drop.filter}: {drop.kind}" for drop in self.dropped)
        return dict(counted.most_common())

    def listed(self, reason: str) -> list[Drop]:
        """The drops for one of the reasons in `counts`. Raises ValueError for another."""
        if reason not in self.counts():
            raise ValueError(f"nothing was dropped for {reason!r}; reasons: {', '.join(self.counts()) or 'none'}")
        return [drop for drop in self.dropped if f"{drop.filter}: {drop.kind}" == reason]

    def summary(self) -> str:
        """What passed and what did not, a line for each reason."""
        total = len(self.kept) + len(self.dropped)
        lines = [f"{len(self.kept)} of {total} samples kept"]
        lines += [f"{count:8} {reason}" for reason, count in self.counts().items()]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the drops as JSON lines: the file is there whole, or not at all."""
        lines = "".join(json.dumps(dataclasses.asdict(drop), ensure_ascii=False) + "\n" for drop in self.dropped)
        write_text(path, lines)

    def save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write the drops, and then `facts` with the counts: a folder that has the second is whole."""
        (folder / FACTS).unlink(missing_ok=True)  # of other drops
        self.write(folder / DROPS)
        total = len(self.kept) + len(self.dropped)
        told = {**facts, "samples": total, "kept": len(self.kept), "dropped": self.counts()}
        write_text(folder / FACTS, json.dumps(told, indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def read(path: Path, total: int) -> "Sieved":
        """The drops of a file that `write` wrote, of a source of `total` samples. Raises ValueError naming the line."""
        dropped = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                dropped.append(Drop.of(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            if not 0 <= dropped[-1].index < total:
                raise ValueError(f"{path}, line {number}: sample {dropped[-1].index} is not one of {total}")
        return Sieved.of(dropped, total)

    @staticmethod
    def of(dropped: Sequence[Drop], total: int) -> "Sieved":
        """What is left of `total` samples when these are dropped."""
        gone = {drop.index for drop in dropped}
        return Sieved(tuple(index for index in range(total) if index not in gone), tuple(dropped))


def sieve(
    source: Source,
    filters: Mapping[str, Filter],
    readers: Readers = no_readers,
    advance: Callable[[int], None] = lambda count: None,
) -> Sieved:
    """Look at every sample of a source once; a sample that cannot be read is dropped as `unreadable`.

    `filters` by the names under which drops are counted; the first that has a reason drops the sample. `readers` loads
    the language models that filters ask for; `advance` is told of each sample that is done.
    """
    for each in filters.values():
        each.prepare(source, readers)
    dropped = []
    for index in range(len(source)):
        dropped += judged(source, filters, range(index, index + 1))
        advance(1)
    return Sieved.of(dropped, len(source))


def judged(source: Source, filters: Mapping[str, Filter], numbers: Iterable[int]) -> list[Drop]:
    """Those of some samples that are dropped, by filters that are prepared."""
    dropped = []
    for index in numbers:
        try:
            drop = _verdict(index, source[index], filters)
        except (ValueError, OSError) as error:
            drop = Drop(index, UNREADABLE, type(error).__name__, str(error))
        if drop is not None:
            dropped.append(drop)
    return dropped


def _verdict(index: int, sample: Sample, filters: Mapping[str, Filter]) -> Drop | None:
    for name, each in filters.items():
        reason = each.why_not(sample)
        if reason is not None:
            return Drop(index, name, reason.kind, reason.detail)
    return None


class Kept(Source):
    """The samples of a source that passed, numbered anew."""

    def __init__(self, source: Source, numbers: Sequence[int]) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index` of those that passed. Raises IndexError past the end."""
        if not 0 <= index < len(self.numbers):
            raise IndexError(index)
        return self.source[self.numbers[index]]
