"""Parquet: rows by row group. Of a file, only how many rows each group has is held; groups are read when asked for.

A row group is what the format can find: to read one row, its group is decoded. The groups read last are kept, up to
`KEPT` bytes over all files; of a group larger than that, only the rows up to the one asked for are decoded, a few at a
time.
"""

import bisect
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vlmlab.data.files import File, naming

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

KEPT = 256 << 20
"""Bytes of decoded row groups that are kept, over all files."""

Key = tuple[Path, tuple[int, int], int, tuple[str, ...]]
"""A file as it was when it was opened, a row group of it, and the columns that were read."""

STRIDE = 8
"""Rows decoded at a time in a group that is too large to keep."""


class Parquet(File):
    """The rows of one parquet file; `columns` are those that are read (empty: all)."""

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        """Raises ValueError when the file is none, or lacks a column."""
        self.path = path
        with naming(str(path)), _open(path) as file:
            # Part of what groups are kept under: of a file that took the place of another, nothing is kept yet.
            self.state = (path.stat().st_mtime_ns, path.stat().st_size)
            names = file.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise ValueError(f"there is no column {column!r}; there are {', '.join(map(repr, names))}")
            about = file.metadata
            sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        self.columns = list(columns) or names
        self.ends = list(itertools.accumulate(sizes))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def values(self, index: int) -> Mapping[str, Any]:
        """Row number `index`: its group is read, or found among those read last."""
        group = bisect.bisect_right(self.ends, index)
        at = index - (self.ends[group - 1] if group else 0)
        try:
            found: dict[str, Any] = _GROUPS.row(self, group, at).to_pylist()[0]
        except _library().ArrowException as error:
            raise ValueError(str(error)) from None
        return found


class Groups:
    """The row groups read last, whatever file they are of. Safe to share between threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self.kept: OrderedDict[Key, pyarrow.Table] = OrderedDict()
        self.lock = threading.Lock()

    def row(self, parquet: Parquet, group: int, at: int) -> "pyarrow.Table | pyarrow.RecordBatch":
        """Row number `at` of a group, alone. Raises ValueError where it cannot be decoded."""
        columns = parquet.columns
        key = (parquet.path, parquet.state, group, tuple(columns))
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key].slice(at, 1)
            with _open(parquet.path) as file:
                if _size(file, columns, group) > self.limit:
                    return _stream(file, columns, group, at)
                table = file.read_row_group(group, columns=columns, use_threads=False)
            self._keep(key, table)
            return table.slice(at, 1)

    def renew(self) -> None:
        """Forget who holds the lock: in a process that was forked while another thread read, nobody would let go."""
        self.lock = threading.Lock()

    def _keep(self, key: Key, table: "pyarrow.Table") -> None:
        self.kept[key] = table
        self.held += table.nbytes
        while self.held > self.limit and len(self.kept) > 1:
            self.held -= self.kept.popitem(last=False)[1].nbytes


_GROUPS = Groups(KEPT)
os.register_at_fork(after_in_child=_GROUPS.renew)


def _size(file: "pyarrow.parquet.ParquetFile", columns: Sequence[str], group: int) -> int:
    """Bytes that some columns of a group take once decompressed."""
    about = file.metadata.row_group(group)
    chunks = [about.column(number) for number in range(about.num_columns)]
    wanted = set(columns)
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in wanted)


def _stream(file: "pyarrow.parquet.ParquetFile", columns: Sequence[str], group: int, at: int) -> "pyarrow.RecordBatch":
    seen = 0
    for batch in file.iter_batches(STRIDE, row_groups=[group], columns=list(columns), use_threads=False):
        if at < seen + len(batch):
            return batch.slice(at - seen, 1)
        seen += len(batch)
    raise ValueError(f"its row group {group} holds {seen} rows, fewer than the file says")


def _open(path: Path) -> "pyarrow.parquet.ParquetFile":
    return _library().parquet.ParquetFile(path)


def _library() -> ModuleType:
    # Imported here: it takes a fifth of a second, and only those who read parquet need it.
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ValueError("reading parquet needs `pyarrow`: pip install 'vlmlab[data]'") from None
    return pyarrow
