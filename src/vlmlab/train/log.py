"""What a run writes while it goes: metrics line by line, a picture of the losses, progress in the terminal."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vlmlab.train.origin import Origin
from vlmlab.train.plot import Line, chart
from vlmlab.writing import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS, PICTURE, BOARD = "metrics.jsonl", "loss.svg", "tensorboard"

TIMED = (
    "seconds",
    "learned_tokens_per_second",
    "images_per_second",
    "patches_per_second",
    "mfu",
    "memory",
    "seconds_left",
)
"""What a step's record says of the machine; all else is the same wherever the recipe runs, but for rounding."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run, in order; a line that was cut off in writing is left out."""
    path = run / METRICS
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


class Log:
    """The metrics of one run. Each record is one line of JSON, on disk as soon as it is written.

    Opening it at step `start` drops the records of later steps, which a resumed run will write again. `scored` are the
    steps after which held-out samples were measured already. Of several processes only one `writes`. With `board` the
    numbers also go to TensorBoard's files; raises ValueError when its package is missing.
    """

    def __init__(self, run: Path, origin: Origin, start: int = 0, writes: bool = True, board: bool = False) -> None:
        self.run, self.origin = run, origin
        self.scored: list[int] = []
        self.file: TextIO | None = None
        self.board: SummaryWriter | None = None
        if not writes:
            return
        if board:
            self.board = _board(run / BOARD, start)
        kept = [r for r in read_metrics(run) if r.get("step", 0) <= start] if start else []
        self.scored = [r["step"] for r in kept if r["kind"] == "score"]
        kept.append({"kind": "run", "step": start, **origin.plain()})
        write_text(run / METRICS, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = (run / METRICS).open("a", encoding="utf-8")

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a record: `kind` is `step` (training) or `score` (a measurement on held-out samples)."""
        if self.file is None:
            return
        self.file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in _numbers(kind, values):
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Draw the picture and close the file."""
        if self.file is None:
            return
        os.fsync(self.file.fileno())
        self.file.close()
        if self.board is not None:
            self.board.close()
        draw(self.run, self.origin)


def _board(folder: Path, start: int) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise ValueError("stage.tensorboard needs a package: pip install 'vlmlab[tensorboard]'") from None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)


def _numbers(name: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a record, those inside of it too, by their path."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{name}/{key}", value)
        elif isinstance(value, int | float):
            yield f"{name}/{key}", float(value)


def draw(run: Path, origin: Origin) -> None:
    """Write the picture of a run's losses from its metrics."""
    records = read_metrics(run)
    steps = [(float(r["step"]), r["loss"]) for r in records if r["kind"] == "step"]
    scores = [r for r in records if r["kind"] == "score"]
    lines = [Line("training", steps, smooth=True)]
    for key, name in (("right", "held out, right picture"), ("shuffled", "held out, shuffled pictures")):
        lines.append(Line(name, [(float(r["step"]), r[key]) for r in scores if key in r]))
    title = "Loss (nats per learned token)"
    write_text(run / PICTURE, chart(title, origin.line(), "step", lines))


class Meter:
    """Progress through `total` steps: a bar with rate and time left in a terminal, a line now and then elsewhere."""

    def __init__(
        self,
        what: str,
        total: int,
        start: int = 0,
        console: Console | None = None,
        every: float = 15,
        quiet: bool = False,
    ) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self.what, self.total, self.done, self.begun = what, total, start, start
        self.every, self.started = every, time.monotonic()
        self.spoken = self.started
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(what, total=total, completed=start, said="")

    def __enter__(self) -> "Meter":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
        if not self.console.is_terminal and self.done > self.begun:
            self._speak("")

    def advance(self, count: int = 1, said: str = "") -> None:
        """Count steps as done; `said` stands beside the bar."""
        self.done += count
        self.bar.update(self.task, completed=self.done, said=said)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.spoken >= self.every:
            self.spoken = now
            self._speak(said)

    def _speak(self, said: str) -> None:
        passed = time.monotonic() - self.started
        rate = (self.done - self.begun) / max(passed, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        tail = f"{left:.0f} s left" if self.done < self.total else f"{passed:.0f} s"
        self.console.print(f"  {self.what} {self.done}/{self.total} {said} {rate:.1f}/s, {tail}", highlight=False)
