"""CSV and TSV: the first row names the columns. Where rows begin is held in memory, 8 bytes a row."""

import array
import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, naming

# The library's limit of 128 KiB a value guards nothing here, where a row is read whole before it is parted; and there
# are tables that hold pictures in base64.
csv.field_size_limit(2**31 - 1)


class Table(File):
    """The rows of one file: values parted by commas, or by tabs where the file's name ends in `.tsv`.

    A value in double quotes may hold line breaks; a double quote in it is doubled (RFC 4180).
    """

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the header is missing or names a column twice, or a quote is never closed."""
        self.path = path
        self.delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        with naming(str(path)):
            starts = array.array("Q", self._starts())
            if not starts:
                raise ValueError("the file is empty: its first row should name the columns")
            self.starts = starts[1:]
            self.columns = self._cells(starts[0], "utf-8-sig")
            for at, column in enumerate(self.columns):
                if column in self.columns[:at]:
                    raise ValueError(f"two columns are called {column!r}")

    def _starts(self) -> Iterator[int]:
        at, begun, quotes = 0, 0, 0
        with self.path.open("rb") as file:
            for line in file:
                quotes += line.count(b'"')
                at += len(line)
                if quotes % 2:
                    continue  # the line ends inside a quoted value
                if line.strip() or begun != at - len(line):
                    yield begun
                begun = at
        if quotes % 2:
            raise ValueError(f"a double quote is never closed, in the row that begins at byte {begun}")

    def __len__(self) -> int:
        return len(self.starts)

    def values(self, index: int) -> Mapping[str, Any]:
        """Row number `index`, the header not counted: text by column."""
        cells = self._cells(self.starts[index], "utf-8")
        if len(cells) != len(self.columns):
            raise ValueError(f"it has {len(cells)} values, the header names {len(self.columns)} columns")
        return dict(zip(self.columns, cells, strict=True))

    def _cells(self, start: int, encoding: str) -> list[str]:
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.readline()
            while text.count(b'"') % 2:
                text += file.readline()
        try:
            rows = list(csv.reader(io.StringIO(text.decode(encoding), newline=""), delimiter=self.delimiter))
        except csv.Error as error:
            raise ValueError(str(error)) from None
        return rows[0]
