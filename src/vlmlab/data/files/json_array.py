"""JSON: one long list of objects, as dialogues are published; or objects one after the other, be it only one.

The file is walked once, without being parsed: where each object begins and ends is held in memory, 16 bytes a row, and
a row is parsed when it is asked for. So a list of gigabytes can be read anywhere in it.
"""

import array
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, naming, read_object

# What structure there is, outside of strings; strings are matched whole, to pass over the brackets in them.
_MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{}"]', re.DOTALL)


class JsonArray(File):
    """The objects of one file, in order."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file holds anything but objects, or is cut short."""
        self.path = path
        self.starts, self.ends = array.array("Q"), array.array("Q")
        with naming(str(path)):
            if not path.stat().st_size:
                raise ValueError("the file is empty")
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                self._walk(text)

    def _walk(self, text: mmap.mmap) -> None:
        depth, top, seen = 0, None, 0
        for match in _MARKS.finditer(text):
            mark = match.group()
            if top is None and not mark.startswith(b'"'):
                # In a list, rows stand one level down.
                top = 1 if mark == b"[" else 0
                seen = match.end() if top else 0
                depth += top
                if top:
                    continue
            if mark == b'"':
                raise ValueError(f"the file is cut short: the text that begins at byte {match.start()} has no end")
            if mark.startswith(b'"'):
                continue
            opens = mark in (b"[", b"{")
            if depth == top:
                self._between(text, seen, match.start(), bool(top), opens)
                if opens:
                    self.starts.append(match.start())
            depth += 1 if opens else -1
            if depth == top and not opens:
                self.ends.append(match.end())
                seen = match.end()
        if depth or top is None:
            raise ValueError("the file is cut short, or is no JSON")

    def _between(self, text: mmap.mmap, start: int, end: int, listed: bool, opens: bool) -> None:
        """What stands between two rows of a list is a comma, and nothing between other rows."""
        between = text[start:end].strip(b" \t\r\n\xef\xbb\xbf")
        if between != (b"," if listed and opens and self.ends else b""):
            raise ValueError(f"only objects can be rows, not {between[:40]!r} at byte {start}")

    def __len__(self) -> int:
        return len(self.starts)

    def values(self, index: int) -> Mapping[str, Any]:
        """Object number `index`."""
        with self.path.open("rb") as file:
            file.seek(self.starts[index])
            return read_object(file.read(self.ends[index] - self.starts[index]))
