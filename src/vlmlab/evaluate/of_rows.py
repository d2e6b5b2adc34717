"""Benchmarks whose questions are the rows of files, and whose worked examples are rows too."""

from typing import ClassVar

from vlmlab.data.files import Row, naming
from vlmlab.data.rows import Rows
from vlmlab.evaluate.benchmarks import Benchmark, Question


class OfRows(Benchmark):
    """A benchmark whose questions are rows. A subclass opens them, and says in `parse` what a row means."""

    rows: Rows
    pool: Rows | None = None
    pool_split: ClassVar[str] = ""
    """The split that examples are drawn from; nothing where there is none."""

    def parse(self, row: Row, split: str, number: int) -> Question:
        """What row number `number` of a split means. Raises ValueError for what is wrong with it, without the place."""
        raise NotImplementedError

    def count(self) -> int:
        """How many there are."""
        return len(self.rows)

    def read(self, number: int) -> Question:
        """Question number `number`. Raises ValueError naming the file and the row."""
        return self._read(self.rows, number, self.split)

    def pool_count(self) -> int:
        """How many questions there are to draw examples from."""
        return 0 if self.pool is None else len(self.pool)

    def pool_read(self, number: int) -> Question:
        """Question number `number` of those that examples are drawn from."""
        assert self.pool is not None
        return self._read(self.pool, number, self.pool_split)

    def _read(self, rows: Rows, number: int, split: str) -> Question:
        row = rows[number]
        with naming(row.place):
            return self.parse(row, split, number)
