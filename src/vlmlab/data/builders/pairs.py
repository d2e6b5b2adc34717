"""Pictures with captions: webdataset tars as LAION-COCO's are, `.jpg` beside `.txt` and `.json`, which `pairs` reads.

The input is a folder of pictures, with a `.txt` beside each or one `metadata.csv` or `.jsonl` for all; or a table.
Pictures keep their bytes.
"""

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import PIL.Image

from vlmlab.batch import Picture
from vlmlab.data import raw
from vlmlab.data.builders import Builder, BuilderConfig, Tally
from vlmlab.data.files import Row
from vlmlab.data.rows import TABLES, open_rows
from vlmlab.processor.decode import open_picture, read

_ENDINGS = {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}


@dataclasses.dataclass(frozen=True)
class Config(BuilderConfig):
    """`image` and `text` are the columns of a picture and of its caption; where `image` is empty, it is the usual one.

    Pictures with a side under `least` pixels, or longer than `ratio` times their width, are dropped.
    """

    image: str = ""
    text: str = "text"
    least: int = 64
    ratio: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least < 1 or self.ratio < 1:
            raise ValueError("needs least and ratio of 1 or more")


class Pairs(Builder):
    """A picture a unit."""

    ending = ".tar"

    def __init__(self, config: Config, place: Path) -> None:
        """Opens the input. Raises ValueError when there is nothing in it."""
        self.config, self.place = config, place.expanduser()
        self.rows = open_rows(str(self.place), "train")
        tabled = self.place.is_file() or any((self.place / name).is_file() for name in TABLES)
        self.image = config.image or ("file_name" if tabled else "image")

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        """The names and sizes of the files that hold the rows, or of all pictures in a folder."""
        files = [file.path for file in self.rows.files if file.path.is_file()]
        if not files:
            files = sorted(path for path in self.place.rglob("*") if path.is_file())
        return raw.listing(files, self.place)

    def write(self, units: range, path: Path, out: Path) -> Tally:
        """The pairs. They are dropped as `unreadable`, `small` or `long`."""
        tally = Tally()
        inside = f"{self.place}/"
        with raw.Shard(path) as shard:
            for unit in units:
                name = f"row {unit}"
                try:
                    row = self.rows[unit]
                    name = row.place.removeprefix(inside)
                    (short, long), parts = self._parts(row)
                except (OSError, ValueError) as error:
                    tally.drop(name, "unreadable", str(error).replace(inside, ""))
                    continue
                if short < self.config.least or long > self.config.ratio * short:
                    tally.drop(name, "small" if short < self.config.least else "long", f"{short} by {long} pixels")
                else:
                    shard.add(f"{unit:09}", parts)
                    tally.samples += 1
        return tally

    def _parts(self, row: Row) -> tuple[list[int], dict[str, bytes]]:
        """A picture's shorter and longer side, and the pair as files.

        Raises ValueError for a picture that cannot be decoded, or without a caption.
        """
        picture, caption = row.picture(row[self.image]), row.text(self.config.text)
        data = picture.source if isinstance(picture.source, bytes) else read(str(picture.source), None, picture.name)
        width, height = open_picture(Picture(data, picture.name)).size
        with PIL.Image.open(io.BytesIO(data)) as head:
            kind = (head.format or "").lower()
        told = {"width": width, "height": height, "sha256": hashlib.sha256(data).hexdigest()}
        files = {_ENDINGS.get(kind, kind): data, "txt": caption.encode(), "json": json.dumps(told).encode()}
        return sorted((width, height)), files


PLUGIN = Pairs
