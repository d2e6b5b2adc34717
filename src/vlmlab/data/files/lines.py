"""JSON lines: one object a line. Where lines begin is held in memory, 8 bytes a line."""

import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, read_object


class Lines(File):
    """The lines of one file; blank ones do not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts = array.array("Q")
        at = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    self.starts.append(at)
                at += len(line)

    def __len__(self) -> int:
        return len(self.starts)

    def values(self, index: int) -> Mapping[str, Any]:
        """Line number `index`, blank ones not counted."""
        with self.path.open("rb") as file:
            file.seek(self.starts[index])
            return read_object(file.readline())
