"""Tables of real numbers: the seven that ship with vlmlab (see tables.md), or a folder of CSV files.

Every number of a column is rounded once, to what is printed; all that is asked and answered is about printed numbers.
"""

import csv
import dataclasses
import decimal
import functools
import hashlib
import importlib.resources
import json
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from vlmlab.data.made.lettering import missing, own_font

DIGITS = 4  # significant digits that are printed, of numbers below a thousand


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of numbers, as printed."""

    name: str
    unit: str
    values: tuple[Decimal, ...]

    @property
    def heading(self) -> str:
        """Its name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of numbers, all with the same `labels`; `key` is what labels are: `year`, `state`."""

    title: str
    key: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]

    def only(self, rows: Sequence[int], columns: Sequence[int]) -> "Table":
        """Some rows and columns of it, in the order given."""
        labels = tuple(self.labels[row] for row in rows)
        kept = [self.columns[column] for column in columns]
        cut = tuple(dataclasses.replace(c, values=tuple(c.values[row] for row in rows)) for c in kept)
        return Table(self.title, self.key, labels, cut)


@functools.cache
def shipped() -> tuple[Table, ...]:
    """The tables that ship with vlmlab."""
    text = importlib.resources.files("vlmlab.data.made").joinpath("tables.jsonl").read_text(encoding="utf-8")
    return tuple(_table(json.loads(line)) for line in text.splitlines())


def _table(told: dict[str, Any]) -> Table:
    columns = (Column(c["name"], c["unit"], printed(c["values"])) for c in told["columns"])
    return Table(told["title"], told["key"], tuple(told["labels"]), tuple(columns))


def from_folder(folder: Path) -> tuple[Table, ...]:
    """One table of each CSV file in `folder`, in order of their names.

    The first row names the columns, the first column holds the labels. A column in which every value is a number is
    kept; a unit may stand in brackets behind its name. Raises ValueError naming the file that is no such table.
    """
    files = sorted(folder.expanduser().glob("*.csv"))
    if not files:
        raise ValueError(f"no CSV files in {folder}: give a folder that holds some")
    return tuple(_read(path) for path in files)


def _read(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file with a row of names: {error}") from None
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"{path}, row {number}: {len(row)} cells under {len(header)} names")
    labels = tuple(row[0].strip() for row in rows)
    if len(set(labels)) < len(labels) or len(labels) < 3:
        raise ValueError(f"{path}: its first column should hold labels, three or more and no two the same")
    columns = []
    for at, name in enumerate(header[1:], 1):
        values = _numbers([row[at] for row in rows])
        if values is not None:
            said, _, unit = name.strip().removesuffix(")").partition(" (")
            columns.append(Column(said, unit, printed(values)))
    unknown = missing("".join([path.stem, header[0], *labels, *(column.heading for column in columns)]), own_font(12))
    if unknown:
        raise ValueError(f"{path}: the font of charts has no {unknown!r}; write it in plain letters")
    if not columns:
        raise ValueError(f"{path}: no column of numbers")
    return Table(path.stem.replace("_", " "), header[0].strip() or "row", labels, tuple(columns))


def _numbers(cells: Sequence[str]) -> list[float] | None:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def printed(values: Sequence[float]) -> tuple[Decimal, ...]:
    """Numbers as they are printed: all with as many decimals, so that the largest has `DIGITS` digits, or none.

    >>> [str(value) for value in printed([0.5, 12.3456])]
    ['0.50', '12.35']
    """
    exact = [Decimal(repr(float(value))) for value in values]
    whole = max(len(str(int(abs(value)))) for value in exact)
    needed = max(-int(value.normalize().as_tuple().exponent) for value in exact)
    places = max(0, min(DIGITS - whole, needed))
    # A column of large numbers has more digits than the default context allows.
    with decimal.localcontext(prec=400):
        rounded = [value.quantize(Decimal(1).scaleb(-places), decimal.ROUND_HALF_EVEN) for value in exact]
    return tuple(abs(value) if value == 0 else value for value in rounded)  # no -0


def held_out(tables: Sequence[Table], split: str) -> Iterator[tuple[int, list[int]]]:
    """Of each table by number, the columns of a split: whole columns are held out, never numbers that are trained on.

    A fifth of all columns is for tests and a tenth for validation, one at least of each. Raises ValueError where there
    are too few columns to share out.
    """
    every = [(number, column) for number, table in enumerate(tables) for column in range(len(table.columns))]

    def by_hash(place: tuple[int, int]) -> bytes:
        table = tables[place[0]]
        return hashlib.sha256(f"{table.title}|{table.key}|{table.columns[place[1]].name}".encode()).digest()

    every.sort(key=by_hash)
    if len(every) < 3:
        raise ValueError(f"the tables have {len(every)} columns of numbers; three are needed, one for each split")
    test, validation = max(1, len(every) // 5), max(1, len(every) // 10)
    shares = {
        "test": every[:test],
        "validation": every[test : test + validation],
        "train": every[test + validation :],
    }
    for number in range(len(tables)):
        columns = sorted(column for table, column in shares[split] if table == number)
        if columns:
            yield number, columns
