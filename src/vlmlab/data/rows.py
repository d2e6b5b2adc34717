"""Rows of a corpus: one file or many, of any format that is read here, as one long list."""

import bisect
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from vlmlab.batch import Sample
from vlmlab.data.files import File, Row, naming
from vlmlab.data.files.folder import Folder
from vlmlab.data.files.json_array import JsonArray
from vlmlab.data.files.lines import Lines
from vlmlab.data.files.parquet import Parquet
from vlmlab.data.files.table import Table
from vlmlab.data.files.tar import Tar
from vlmlab.data.sources import Source

Made = TypeVar("Made")

FORMATS: dict[str, Callable[[Path], File]] = {
    ".csv": Table,
    ".json": JsonArray,
    ".jsonl": Lines,
    ".tar": Tar,
    ".tsv": Table,
}
"""The formats by how a file's name ends; parquet comes beside them, because it can be asked for some columns only."""

TABLES = ("metadata.csv", "metadata.jsonl")
"""Files in a folder of pictures that say what they show; the pictures' paths are their column `file_name`."""


class Rows:
    """The rows of several files, one after the other."""

    def __init__(self, files: Sequence[File]) -> None:
        self.files = files
        self.ends = list(itertools.accumulate(len(file) for file in files))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Row:
        """Row number `index`. Raises IndexError past the end, and ValueError naming the file and the row."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self.ends, index)
        return self.files[number].row(index - (self.ends[number - 1] if number else 0))


def open_rows(path: str, split: str, columns: Sequence[str] = ()) -> Rows:
    """The rows at `path`: a file, a folder of pictures, or a pattern like `shards/*.tar`, files in order of name.

    `{split}` in it is replaced by the split. `columns` are those that are asked for (empty: all); a format that can
    then reads no others. Raises ValueError when there is nothing there, or a file cannot be read.
    """
    if not path:
        raise ValueError("data.path is empty: give a file, a folder or a pattern")
    place = Path(path.replace("{split}", split)).expanduser()
    found = [place] if place.exists() else _matching(place)
    rows = Rows([_open(file, columns) for file in found])
    if not len(rows):
        raise ValueError(f"data.path: {place} holds no samples")
    return rows


def _matching(pattern: Path) -> list[Path]:
    parts = pattern.parts
    fixed = len(list(itertools.takewhile(lambda part: not any(mark in part for mark in "*?["), parts)))
    if fixed == len(parts):
        raise ValueError(f"data.path: no such file: {pattern}")
    found = sorted(Path(*parts[:fixed]).glob(str(Path(*parts[fixed:]))))
    if not found:
        raise ValueError(f"data.path: no file is called {pattern}")
    return found


def _open(path: Path, columns: Sequence[str]) -> File:
    if path.is_dir():
        table = next((path / name for name in TABLES if (path / name).is_file()), None)
        return Folder(path) if table is None else _open(table, columns)
    kind = path.suffix.lower()
    if kind == ".parquet":
        return Parquet(path, columns)
    if kind not in FORMATS:
        known = ", ".join(sorted([*FORMATS, ".parquet"]))
        raise ValueError(f"data.path: {path} is none of {known}, nor a folder of pictures")
    return FORMATS[kind](path)


class RowSource(Source):
    """A source each of whose samples is one row: a subclass says what its columns mean."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`. Raises IndexError past the end, and ValueError naming the file and the row."""
        return self.read(index, self.sample)

    def read(self, index: int, use: Callable[[Row], Made]) -> Made:
        """What `use` makes of row number `index`; its errors name the file and the row."""
        row = self.rows[index]
        with naming(row.place):
            return use(row)

    def sample(self, row: Row) -> Sample:
        """The sample that a row is. Raises ValueError for what is wrong with it, without saying where."""
        raise NotImplementedError
