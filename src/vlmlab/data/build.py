"""`vlmlab data build`: who makes which shard of a corpus, how far it got, and how it goes on after a crash.

    OUT/documents-00000.parquet ...   the shards          OUT/manifest.json     what was made, when it is whole
    OUT/pictures/                     of documents        OUT/dropped.jsonl     every unit that was left out, and why
    OUT/.work/                        what is done, while it is being built

A shard is there under its name only when it is whole and its record is written: whatever was under way when a process
died is made again, to the same bytes. So it does not matter who makes it: this process, several, or the machines of a
Ray cluster that share the folder. Nothing that is written has a date, a place or a process in it.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmlab import cluster, component
from vlmlab.data.builders import Builder, BuilderConfig, Tally
from vlmlab.data.work import Record, Work, on_processes
from vlmlab.writing import PARTIAL, write, write_text

MANIFEST, DROPPED = "manifest.json", "dropped.jsonl"


@dataclasses.dataclass(frozen=True)
class Task:
    """All that a process needs to make a shard: the builder's config as plain data, the input, the output, a number."""

    config: str
    place: str
    out: str
    number: int


class Build:
    """A corpus that is being built, from its first shard or from where it stopped."""

    def __init__(self, config: BuilderConfig, place: Path, out: Path) -> None:
        """Looks at the input and at what is there already.

        Raises ValueError when the folder holds a build of another input or with other settings.
        """
        self.config, self.out = config, out.expanduser()
        self.work = Work(self.out)
        text = json.dumps(component.plain(config), sort_keys=True)
        self.plain = text
        self.place = str(place.expanduser().resolve())
        builder = _builder(text, self.place)
        self.units, self.shard = len(builder), config.shard
        self.shards = -(-self.units // self.shard)
        header = {
            "format": 1,
            "vlmlab": importlib.metadata.version("vlmlab"),
            "kind": config.name,
            "config": component.plain(config),
            "units": self.units,
            "input": builder.fingerprint(),
        }
        self.header: Record = json.loads(json.dumps(header))
        self.finished = self._begin()
        self.waiting = [number for number in range(self.shards) if not self.finished and not self._is_done(number)]

    @property
    def done(self) -> int:
        """How many units are done."""
        return self.units - sum(len(self._range(number)) for number in self.waiting)

    def run(
        self, workers: int = 0, ray: bool = False, advance: Callable[[int], None] = lambda units: None
    ) -> dict[str, Any]:
        """Make what is missing, with so many processes (0: one for each core). Returns the manifest."""
        if not self.finished:
            self._survey()
            tasks = [Task(self.plain, self.place, str(self.out.resolve()), number) for number in self.waiting]
            for number in _made(tasks, workers or os.cpu_count() or 1, ray):
                advance(len(self._range(number)))
            self._finish()
        manifest: dict[str, Any] = json.loads((self.out / MANIFEST).read_text(encoding="utf-8"))
        return manifest

    def _range(self, number: int) -> range:
        return range(number * self.shard, min(self.units, (number + 1) * self.shard))

    def _begin(self) -> bool:
        """Make the folder ready. Returns whether the corpus is there already, whole."""
        whole = self.out / MANIFEST
        begun = json.loads(whole.read_text(encoding="utf-8")) if whole.is_file() else self.work.header()
        held = self.header if begun is None else begun
        for key, value in self.header.items():
            if held.get(key) != value:
                what = "files" if key == "input" else f"{key} {held.get(key)!r}"
                raise ValueError(f"{self.out} holds a corpus that was built of other {what}: choose a new folder")
        if whole.is_file():
            self.work.end()
            return True
        for left in self.out.rglob(f"{PARTIAL}*"):
            left.unlink(missing_ok=True)
        self.work.begin(held)
        return False

    def _survey(self) -> None:
        """Let the builder look at all units, where it has not before a crash, and write down what it found."""
        held = self.work.header()
        if held is None or "survey" not in held:
            self.work.begin({**self.header, "survey": _builder(self.plain, self.place).survey()})

    def _is_done(self, number: int) -> bool:
        record = self.work.read(number)
        return record is not None and (record["file"] is None or (self.out / record["file"]).is_file())

    def _finish(self) -> None:
        """Write what was dropped and, last of all, the manifest."""
        records = [record for n in range(self.shards) if (record := self.work.read(n)) is not None]
        assert len(records) == self.shards
        listed = ({"unit": unit, "kind": kind, "detail": told} for r in records for unit, kind, told in r["listed"])
        write_text(self.out / DROPPED, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in listed))
        dropped: Counter[str] = Counter()
        for record in records:
            dropped.update(record["dropped"])
        manifest = {
            **self.header,
            "samples": sum(record["samples"] for record in records),
            "dropped": dict(sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))),
            "shards": [
                {key: record[key] for key in ("file", "sha256", "samples")} for record in records if record["file"]
            ],
        }
        write_text(self.out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        self.work.end()


def make(task: Task) -> int:
    """Make one shard: the file first, its record after it. Returns its number."""
    builder, out = _builder(task.config, task.place), Path(task.out)
    builder.know((Work(out).header() or {}).get("survey", []))
    plain = json.loads(task.config)
    first = task.number * plain["shard"]
    units = range(first, min(len(builder), first + plain["shard"]))
    file = out / f"{plain['name']}-{task.number:05}{builder.ending}"
    tally = Tally()
    digest = ""

    def fill(path: Path) -> None:
        nonlocal tally, digest
        tally = builder.write(units, path, out)
        with path.open("rb") as made:
            digest = hashlib.file_digest(made, "sha256").hexdigest()

    write(file, fill)
    if not tally.samples:
        file.unlink()
    record = {
        "file": file.name if tally.samples else None,
        "sha256": digest,
        "samples": tally.samples,
        "dropped": dict(tally.dropped),
        "listed": tally.listed,
    }
    Work(out).write(task.number, record)
    return task.number


@functools.lru_cache(maxsize=2)
def _builder(config: str, place: str) -> Builder:
    """The builder of a config in JSON: once for all shards that a process makes."""
    built: Builder = component.parse(BuilderConfig, json.loads(config)).build(Path(place))
    return built


def _made(tasks: Sequence[Task], workers: int, ray: bool) -> Iterator[int]:
    """The numbers of shards as they are done."""
    if ray:
        yield from _on_ray(tasks)
    elif min(workers, len(tasks)) <= 1:
        yield from map(make, tasks)
    else:
        yield from on_processes(make, tasks, workers)


def _on_ray(tasks: Sequence[Task]) -> Iterator[int]:
    """The same on the Ray cluster of RAY_ADDRESS, or on one that is started here: each task is a row of a data set."""
    with cluster.joined(cluster.named_address()):
        try:
            import ray.data
        except ModuleNotFoundError as error:
            raise ValueError(f"--ray needs {error.name}: pip install 'vlmlab[ray]'") from None
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items([dataclasses.asdict(task) for task in tasks], override_num_blocks=len(tasks) or 1)
        for row in rows.map(_row).iter_rows():
            yield int(row["number"])


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {"number": make(Task(str(row["config"]), str(row["place"]), str(row["out"]), int(row["number"])))}
