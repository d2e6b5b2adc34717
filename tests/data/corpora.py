"""Small files in the formats that corpora are published in, for the tests to read."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow
import pyarrow.parquet

from vlmlab.batch import Picture
from vlmlab.component import parse
from vlmlab.data.sources import Source, SourceConfig
from vlmlab.processor.decode import open_picture


def png(shade: int, side: int = 4) -> bytes:
    """A grey square: its shade tells the pictures of a test apart."""
    held = io.BytesIO()
    PIL.Image.new("RGB", (side, side), (shade, shade, shade)).save(held, "PNG")
    return held.getvalue()


def shade(picture: Picture) -> int:
    """The shade of a grey square, decoded as training decodes it."""
    return open_picture(picture).getpixel((0, 0))[0]


def parquet(path: Path, rows: Sequence[Mapping[str, Any]], group: int = 2) -> Path:
    """A parquet file with `group` rows in each row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path


def tar(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    """A tar of files in this order, with folders and long names as `tar` writes them."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def as_json(path: Path, rows: Sequence[Any]) -> Path:
    """A file with one list."""
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def as_lines(path: Path, rows: Sequence[Any]) -> Path:
    """A file with a value a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def source(name: str, **keys: Any) -> Source:
    """A source as a recipe's `[data]` describes it; paths as text."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
    return parse(SourceConfig, {"name": name, **plain}, "data").build()
