"""Interleaved documents from pages of HTML and their pictures, in OBELICS' parquet layout.

Each page is a row: `texts` and `images`, aligned lists in reading order with nulls in the other's places; `metadata`,
what is known of each picture, and `general_metadata`, of the page, both JSON as text. Pictures are copied beside the
shards, under the hash of their bytes, and `images` has their paths from there: the source `documents` reads the shards
as they are. Nothing is fetched: a picture that is not among the files is dropped.
"""

import collections
import dataclasses
import hashlib
import io
import json
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import PIL.Image

from vlmlab.batch import Picture
from vlmlab.data import html, raw
from vlmlab.data.builders import Builder, BuilderConfig, Tally
from vlmlab.data.filters.pictures import size
from vlmlab.processor.decode import open_picture
from vlmlab.writing import write_bytes

PICTURES = "pictures"
ENDINGS = (".html", ".htm", ".xhtml")

_MOST = 64 << 20  # bytes of a page; larger files are no pages
_ICONS = ("logo", "button", "icon", "plugin", "widget")


@dataclasses.dataclass(frozen=True)
class Config(BuilderConfig):
    """Pictures with a side under `least` pixels, or longer than `ratio` times their width, are dropped.

    So are those in whose address one of `icons` stands (the words are OBELICS's, as is `least`; its ratio is 2), and
    what a page shows a second time. With `often`, pictures that more pages than that show are dropped as well: what
    returns belongs to sites, not to documents (OBELICS: 10; 0: no bound). The same bytes are the same picture, whatever
    their address. A page needs `words` words and `pictures` pictures that are left.
    """

    least: int = 150
    ratio: float = 5.0
    icons: tuple[str, ...] = _ICONS
    words: int = 10
    pictures: int = 1
    often: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least < 1 or self.ratio < 1 or min(self.words, self.pictures, self.often) < 0:
            raise ValueError("needs least and ratio of 1 or more, and words, pictures and often of 0 or more")


@dataclasses.dataclass(frozen=True)
class Kept:
    """A picture of a page: its file's name below the pictures' folder, its bytes, and what is known of it."""

    name: str
    data: bytes
    facts: dict[str, Any]


class Documents(Builder):
    """A page a unit."""

    ending = ".parquet"

    def __init__(self, config: Config, place: Path) -> None:
        """Finds the pages. Raises ValueError when there are none."""
        self.config, self.place = config, place.expanduser()
        self.files = raw.found(self.place, ENDINGS)
        folder = self.place.parent if self.place.is_file() else self.place
        self.inside = folder.resolve()
        self.frequent: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self) -> str:
        """The names and sizes of the pages."""
        return raw.listing(self.files, self.place)

    def survey(self) -> list[str]:
        """The hashes of pictures that too many pages show. Without `often`, no page is read."""
        digests: dict[Path, str] = {}
        pages: collections.Counter[str] = collections.Counter()
        for file in self.files if self.config.often else ():
            try:
                parts = _page(file).parts
            except (OSError, ValueError):
                continue  # building names it
            pages.update({digest for part in parts if (digest := self._digest(part, file, digests))})
        return sorted(digest for digest, count in pages.items() if count > self.config.often)

    def know(self, survey: Sequence[str]) -> None:
        """Which pictures too many pages show."""
        self.frequent = frozenset(survey)

    def _digest(self, part: str | html.Shown, file: Path, digests: dict[Path, str]) -> str:
        """The hash of a picture that a page shows; empty where a part is none of the files. Each is read once."""
        if isinstance(part, str):
            return ""
        try:
            path = self._located(part.address, file)
            if path not in digests:
                with path.open("rb") as held:
                    digests[path] = hashlib.file_digest(held, "sha256").hexdigest()
        except (OSError, ValueError):
            return ""
        return digests[path]

    def write(self, units: range, path: Path, out: Path) -> Tally:
        """The pages as rows. Pages are dropped as `unreadable`, `few words` or `few pictures`."""
        tally, rows = Tally(), []
        for unit in units:
            file = self.files[unit]
            row = self._row(file, raw.named(file, self.place), out, tally)
            if row is not None:
                rows.append(row)
        tally.samples = len(rows)
        arrow, parquet = _libraries()
        texts = arrow.list_(arrow.string())
        schema = arrow.schema(
            [("images", texts), ("metadata", arrow.string()), ("general_metadata", arrow.string()), ("texts", texts)]
        )
        table = arrow.Table.from_pylist(rows, schema=schema)
        parquet.write_table(table, path, row_group_size=100, compression="zstd")
        return tally

    def _row(self, file: Path, name: str, out: Path, tally: Tally) -> dict[str, Any] | None:
        try:
            page = _page(file)
        except (OSError, ValueError) as error:
            tally.drop(name, "unreadable", str(error))
            return None
        parts, dropped = self._chosen(page.parts, file, name)
        words = sum(len(part.split()) for part in parts if isinstance(part, str))
        pictures = [part for part in parts if isinstance(part, Kept)]
        if words < self.config.words or len(pictures) < self.config.pictures:
            kind = "few words" if words < self.config.words else "few pictures"
            tally.drop(name, kind, f"{words} words, {len(pictures)} pictures")
            return None
        for picture in pictures:
            place = out / PICTURES / picture.name
            if not place.is_file():  # many pages show the same
                write_bytes(place, picture.data)
        tally.dropped.update(dropped)
        facts = [part.facts if isinstance(part, Kept) else None for part in parts]
        about = {"url": name, "title": page.title, "language": page.language}
        return {
            "images": [f"{PICTURES}/{part.name}" if isinstance(part, Kept) else None for part in parts],
            "metadata": json.dumps(facts, ensure_ascii=False),
            "general_metadata": json.dumps(about, ensure_ascii=False),
            "texts": [part if isinstance(part, str) else None for part in parts],
        }

    def _chosen(self, parts: Iterable[str | html.Shown], file: Path, name: str) -> tuple[list[str | Kept], list[str]]:
        """The parts that stay, paragraphs that follow each other joined; and why pictures did not."""
        chosen: list[str | Kept] = []
        dropped: list[str] = []
        seen: set[str] = set()
        for part in parts:
            if isinstance(part, str):
                if chosen and isinstance(chosen[-1], str):
                    chosen[-1] += "\n\n" + part
                else:
                    chosen.append(part)
                continue
            try:
                kept = self._picture(part, file, name, seen)
            except ValueError as error:
                dropped.append(f"picture: {error}")
            else:
                chosen.append(kept)
        return chosen, dropped

    def _picture(self, shown: html.Shown, file: Path, name: str, seen: set[str]) -> Kept:
        """The picture that a page shows. Raises ValueError with one of a few reasons why it does not stay."""
        path = self._located(shown.address, file)
        if any(word in shown.address.lower() for word in self.config.icons):
            raise ValueError("icon")
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest in seen:
            raise ValueError("repeated")
        if digest in self.frequent:
            raise ValueError("on too many pages")
        picture = Picture(data, shown.address)
        try:
            short, long = sorted(size(picture))
        except ValueError:
            raise ValueError("damaged, or of no format that is read") from None
        if short < self.config.least:
            raise ValueError("small")
        if long > self.config.ratio * short:
            raise ValueError("long")
        width, height, kind = _decoded(picture)
        seen.add(digest)
        ending = {"jpeg": "jpg"}.get(kind, kind)
        facts = {
            "document_url": name,
            "unformatted_src": shown.address,
            "src": raw.named(path, self.inside),
            "alt_text": shown.alt,
            "original_width": width,
            "original_height": height,
            "format": kind,
        }
        return Kept(f"{digest[:2]}/{digest[:40]}.{ending}", data, facts)

    def _located(self, address: str, file: Path) -> Path:
        """The file that an address means, among the input's own. Raises ValueError when it is none of them."""
        parts = urllib.parse.urlsplit(address)
        if parts.scheme or parts.netloc:
            raise ValueError("elsewhere")
        place = urllib.parse.unquote(parts.path)
        # What begins with a slash is counted from the top of the site.
        folder = self.inside if place.startswith("/") else file.parent
        try:
            path = (folder / place.lstrip("/")).resolve()
            missing = not path.is_file()
        except (OSError, ValueError):
            missing = True
        if missing or not path.is_relative_to(self.inside):
            raise ValueError("not there")
        return path


def _page(file: Path) -> html.Page:
    """What a page shows. Raises ValueError or OSError where it cannot be read."""
    if file.stat().st_size > _MOST:
        raise ValueError(f"more than {_MOST} bytes")
    return html.read(file.read_bytes())


def _decoded(picture: Picture) -> tuple[int, int, str]:
    """The size and format of a picture, whose pixels are all there. Raises ValueError where they are not."""
    try:
        image = open_picture(picture)
    except ValueError:
        raise ValueError("damaged, or of no format that is read") from None
    assert isinstance(picture.source, bytes)
    with PIL.Image.open(io.BytesIO(picture.source)) as head:
        return *image.size, (head.format or "").lower()


def _libraries() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ValueError("writing parquet needs `pyarrow`: pip install 'vlmlab[data]'") from None
    return pyarrow, pyarrow.parquet


PLUGIN = Documents
