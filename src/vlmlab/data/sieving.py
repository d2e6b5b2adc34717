"""`vlmlab data filter`: a source is sieved in pieces, by several processes, and goes on after a crash.

What filters measure of the whole source is measured first, once, and written down; from then on every verdict is a
function of its sample alone. Each process holds filters of its own, with the models that they judge by.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vlmlab import component
from vlmlab.data.filters import Filter, FilterConfig, Readers, no_readers
from vlmlab.data.sieve import Drop, Sieved, judged
from vlmlab.data.sources import Source, SourceConfig
from vlmlab.data.work import Work, on_processes
from vlmlab.writing import PARTIAL

FEWEST, PIECES = 64, 4096
"""Samples of a piece, at least; and how many pieces a large source has, at most."""


@dataclasses.dataclass(frozen=True)
class Task:
    """All that a process needs to judge some samples: configs as JSON, what loads language models, which samples."""

    data: str
    filters: str
    readers: Readers
    out: str
    number: int
    samples: range


class Sieving:
    """A source that is being sieved, from its first sample or from where it stopped."""

    def __init__(
        self,
        data: SourceConfig,
        filters: Mapping[str, FilterConfig],
        out: Path,
        readers: Readers = no_readers,
    ) -> None:
        """Looks at what is there already. `filters` and `readers` are those of `sieve`.

        `readers` is sent to the processes. Raises ValueError when the folder holds work that is under way on another
        source, with other filters, or with other files that these read.
        """
        self.out, self.readers = out.expanduser(), readers
        self.data, self.configs = component.plain(data), dict(filters)
        self.source = data.build()
        self.built = {name: each.build() for name, each in filters.items()}
        self.samples = len(self.source)
        length = max(FEWEST, -(-self.samples // PIECES))
        self.pieces = [range(first, min(self.samples, first + length)) for first in range(0, self.samples, length)]
        header = {
            "format": 1,
            "vlmlab": importlib.metadata.version("vlmlab"),
            "data": self.data,
            "filters": {name: component.plain(each) for name, each in filters.items()},
            "samples": self.samples,
            "piece": length,
            "files": {name: each.fingerprint() for name, each in self.built.items()},
        }
        self.header: dict[str, Any] = json.loads(json.dumps(header))
        self.work = Work(self.out)
        self.held = self.work.header()
        held = self.held or self.header
        for key, value in self.header.items():
            if held.get(key) != value:
                what = "files that filters read" if key == "files" else f"{key} {held.get(key)!r}"
                raise ValueError(f"{self.out} holds drops that are half found, with other {what}: choose a new folder")
        self.fresh = False
        self.waiting = [n for n in range(len(self.pieces)) if self.held is None or self.work.read(n) is None]

    @property
    def done(self) -> int:
        """How many samples are judged."""
        return self.samples - sum(len(self.pieces[number]) for number in self.waiting)

    def run(
        self,
        made_by: Mapping[str, Any],
        workers: int = 0,
        advance: Callable[[int], None] = lambda samples: None,
    ) -> Sieved:
        """Judge what is left with so many processes (0: one for each core), and write all drops and their counts.

        `advance` is told of samples that are done; `made_by` is written with the counts.
        """
        held = self._settled()
        settled = json.dumps(held["settled"])
        out = str(self.out.resolve())
        tasks = [Task(json.dumps(self.data), settled, self.readers, out, n, self.pieces[n]) for n in self.waiting]
        count = min(workers or os.cpu_count() or 1, len(tasks))
        for number in on_processes(make, tasks, count) if count > 1 else self._alone(held["settled"]):
            advance(len(self.pieces[number]))
        for left in self.out.glob(f"{PARTIAL}*"):
            left.unlink(missing_ok=True)
        told = {name: {**each, "found": held["found"][name]} for name, each in self.header["filters"].items()}
        sieved = Sieved.of(list(self._drops()), self.samples)
        sieved.save(self.out, {"made_by": made_by, "data": self.data, "filters": told})
        self.work.end()
        return sieved

    def _settled(self) -> dict[str, Any]:
        """The header with what filters measured: now, or before a crash. It is written down before anything is judged.

        The filters' configs are in `settled`, their facts in `found`.
        """
        if self.held is None:
            for each in self.built.values():
                each.prepare(self.source, self.readers)
            configs = {name: each.settled(self.configs[name]) for name, each in self.built.items()}
            self.held = {
                **self.header,
                "settled": {name: component.plain(config) for name, config in configs.items()},
                "found": {name: dict(each.facts()) for name, each in self.built.items()},
            }
            self.fresh = True
        self.work.begin(self.held)
        return self.held

    def _alone(self, settled: Mapping[str, Any]) -> Iterator[int]:
        """The pieces that are waiting, judged by this process."""
        filters = self.built if self.fresh else _prepared(settled, self.source, self.readers)
        # As in a process that is one of many: the last bits of a model's scores depend on the number of threads.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for number in self.waiting:
                _judge(self.work, number, self.pieces[number], self.source, filters)
                yield number
        finally:
            torch.set_num_threads(threads)

    def _drops(self) -> Iterator[Drop]:
        for number in range(len(self.pieces)):
            record = self.work.read(number)
            assert record is not None, number
            yield from map(Drop.of, record["dropped"])


def make(task: Task) -> int:
    """Judge the samples of a task in a process of its own. Returns its number."""
    torch.set_num_threads(1)  # each process is one of many
    source, filters = _opened(task.data, task.filters, task.readers)
    _judge(Work(Path(task.out)), task.number, task.samples, source, filters)
    return task.number


def _judge(work: Work, number: int, samples: range, source: Source, filters: Mapping[str, Filter]) -> None:
    dropped = judged(source, filters, samples)
    work.write(number, {"dropped": [dataclasses.asdict(drop) for drop in dropped]})


@functools.lru_cache(maxsize=1)
def _opened(data: str, settled: str, readers: Readers) -> tuple[Source, dict[str, Filter]]:
    """The source and the filters of configs in JSON: once for all pieces that a process judges."""
    source = component.parse(SourceConfig, json.loads(data)).build()
    return source, _prepared(json.loads(settled), source, readers)


def _prepared(settled: Mapping[str, Any], source: Source, readers: Readers) -> dict[str, Filter]:
    filters = {name: component.parse(FilterConfig, plain).build() for name, plain in settled.items()}
    for each in filters.values():
        each.prepare(source, readers)
    return filters
