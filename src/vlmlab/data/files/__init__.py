"""Files of rows: published corpora come in a few formats, and each is read row by row, anywhere in it, at once.

A format knows nothing of what its columns mean: that is a source's business. What is held in memory is where rows
begin, never their pictures.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmlab.batch import Picture

PICTURES = frozenset(["avif", "bmp", "gif", "heic", "jfif", "jp2", "jpeg", "jpg", "png", "tif", "tiff", "webp"])
"""How the names of pictures end, in lower case and without the dot."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: its values by column, where it stands, and the folder that its paths are relative to."""

    values: Mapping[str, Any]
    place: str
    folder: Path

    def __getitem__(self, column: str) -> Any:
        """The value of a column. Raises ValueError naming the columns that there are."""
        if column not in self.values:
            raise ValueError(f"there is no column {column!r}; there are {', '.join(map(repr, self.values))}")
        return self.values[column]

    def text(self, column: str) -> str:
        """The text of a column, without space around it. Raises ValueError where there is none."""
        value = self[column]
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"column {column!r} should be text, not {value!r:.80}")
        return value.strip()

    def items(self, column: str) -> list[Any]:
        """The list of a column. Raises ValueError where there is none."""
        value = self[column]
        if not isinstance(value, list):
            raise ValueError(f"column {column!r} should be a list, not {value!r:.80}")
        return value

    def pictures(self) -> list[Picture]:
        """The pictures that its column `images` lists, or the one of its column `image`; a row may have none."""
        if self.values.get("images"):
            given = self.items("images")
        else:
            given = [self.values["image"]] if self.values.get("image") else []
        return [self.picture(value, number=number) for number, value in enumerate(given)]

    def picture(self, value: Any, kept: str = "", number: int = 0) -> Picture:
        """A picture from what a corpus holds of it: encoded bytes, a path, a URL, or `{"bytes": ..., "path": ...}`.

        A path is relative to the folder `kept`, or else to the file's own. With `kept`, what a URL names is looked for
        there, under the URL's SHA-256 in hexadecimal; without, it stays a URL. `number` counts the pictures of a row.
        """
        if isinstance(value, Mapping):  # how the `datasets` library stores an image
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        name = f"{self.place}, picture {number}"
        if isinstance(value, bytes) and value:
            return Picture(value, name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"picture {number} should be bytes, a path or a URL, not {value!r:.80}")
        folder = Path(kept).expanduser() if kept else self.folder
        if value.startswith("data:"):
            return Picture(value, name)
        if value.startswith(("http://", "https://")):
            return Picture(folder / hashlib.sha256(value.encode()).hexdigest() if kept else value, value)
        return Picture(folder / value, f"{name} ({folder / value})")


class File:
    """A file of rows, by number. A format is a subclass that sets `path`, and says how many rows there are."""

    path: Path

    def __len__(self) -> int:
        """How many rows there are."""
        raise NotImplementedError

    def values(self, index: int) -> Mapping[str, Any]:
        """The values of row number `index` by column. Raises ValueError where it is damaged."""
        raise NotImplementedError

    def place(self, index: int) -> str:
        """What messages call row number `index`."""
        return f"{self.path}, row {index}"

    @property
    def folder(self) -> Path:
        """What paths in the rows are relative to."""
        return self.path.parent

    def row(self, index: int) -> Row:
        """Row number `index`. Raises ValueError naming the file and the row."""
        with naming(self.place(index)):
            return Row(self.values(index), self.place(index), self.folder)


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Errors in reading, inside, are ValueErrors that begin with `place`."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{place}: {error}") from None


def gather(parts: Mapping[str, bytes]) -> dict[str, Any]:
    """One row from what lies side by side under one name: `.jpg` and its like, `.txt`, `.json`, anything else.

    The picture is the column `image`, the text `text`; what the JSON holds are columns of its own, and all else stays
    bytes under its ending. Raises ValueError where text or JSON cannot be read.
    """
    row: dict[str, Any] = {}
    for kind, data in parts.items():
        if kind == "json":
            told = json.loads(data)
            if not isinstance(told, dict):
                raise ValueError(f"its .json should hold an object, not {told!r:.80}")
            row = {**told, **row}
        elif kind == "txt":
            row["text"] = data.decode("utf-8")
        elif kind in PICTURES:
            row["image"] = data
        else:
            row[kind] = data
    return row


def ending(name: str) -> tuple[str, str]:
    """A path's stem and its ending in lower case, parted at its last name's first dot: `a/7` and `seg.png`."""
    folder, slash, last = name.rpartition("/")
    stem, _, after = last.partition(".")
    return folder + slash + stem, after.lower()


def read_object(text: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError for anything else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"a row should be a JSON object, not {value!r:.80}")
    return value
