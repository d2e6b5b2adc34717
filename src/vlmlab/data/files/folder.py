"""A folder of pictures: each picture a row, with the `.txt` and `.json` that lie beside it under its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlab.data.files import PICTURES, File, gather


class Folder(File):
    """The pictures of a folder and those below it, in the order of their paths; only the paths are held in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = (file for file in path.rglob("*") if file.suffix[1:].lower() in PICTURES and file.is_file())
        self.names = sorted(str(file.relative_to(path)) for file in found)

    def __len__(self) -> int:
        return len(self.names)

    def values(self, index: int) -> Mapping[str, Any]:
        """Picture number `index`, as a path, and what is told of it."""
        beside = {kind: (self.path / self.names[index]).with_suffix(f".{kind}") for kind in ("txt", "json")}
        told = gather({kind: file.read_bytes() for kind, file in beside.items() if file.is_file()})
        return {**told, "image": self.names[index]}

    def place(self, index: int) -> str:
        """The picture's path."""
        return str(self.path / self.names[index])

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return self.path
