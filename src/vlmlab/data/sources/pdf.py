"""Pages of documents: the picture of a page, and its text in reading order.

From plain PDF files, whose own text layer is read; or from webdataset tars as IDL and PDFA are published, in which each
document is a `.pdf` or a `.tif` beside a `.json` with what OCR found. `vlmlab data build pdf` makes such tars of
plain files. Pages are drawn when a sample is asked for; `texts` tells what they say without drawing them.
"""

import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from vlmlab.batch import Message, Picture, Sample
from vlmlab.data import pdf
from vlmlab.data.files import File, Row, naming
from vlmlab.data.rows import Rows, RowSource, open_rows
from vlmlab.data.sources import SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is a PDF file, a folder of them, or a tar; or a pattern like `shards/*.tar`. `{split}` becomes the split.

    A sample is as many pages as `pages` says: of plain files every page is in one sample, of a document in a tar the
    first ones are. `side` is the longer side of a page's picture, in pixels.

    Without a `question`, a sample is a plain document, each picture followed by its text; with one, a conversation in
    which it is asked of each page.
    """

    path: str = dataclasses.field(kw_only=True)
    pages: int = 1
    side: int = 980
    question: str = ""

    def __post_init__(self) -> None:
        for key, value, most in (("pages", self.pages, 64), ("side", self.side, 4096)):
            if not 1 <= value <= most:
                raise ValueError(f"{key} = {value} should be 1 to {most}")


class Plain(File):
    """A plain PDF file: each row is the next few pages of it."""

    def __init__(self, path: Path, pages: int) -> None:
        """Raises ValueError where it cannot be opened."""
        self.path, self.pages = path, pages
        with naming(str(path)), pdf.opened(path) as document:
            self.count = len(document)

    def __len__(self) -> int:
        return -(-self.count // self.pages)

    def values(self, index: int) -> Mapping[str, Any]:
        """The file's bytes, the first page of row number `index`, and the one behind its last."""
        first = index * self.pages
        return {"pdf": self.path.read_bytes(), "first": first, "end": min(first + self.pages, self.count)}

    def place(self, index: int) -> str:
        """The file and its page, counted from 1 as readers count them."""
        return f"{self.path}, page {index * self.pages + 1}"


class Pages(RowSource):
    """Pages of a document a row."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(_rows(config))

    def sample(self, row: Row) -> Sample:
        """The pages, each picture before its text."""
        texts = _texts(row, self.config.pages)
        pictures = [
            Picture(drawn, f"{row.place}, page {number} of the sample")
            for number, drawn in enumerate(_drawn(row, len(texts), self.config.side))
        ]
        turns = list(zip(pictures, texts, strict=True))
        if not self.config.question:
            parts: list[str | Picture] = []
            for shown, text in turns:
                parts += [shown, text + "\n"]
            return Sample((Message("text", tuple(parts)),))
        asked = ((Message("user", (s, self.config.question)), Message("assistant", (text,))) for s, text in turns)
        return Sample(tuple(itertools.chain.from_iterable(asked)))

    def texts(self, index: int) -> list[str]:
        """What the pages of sample number `index` say; nothing is drawn. Raises IndexError past the end."""
        return self.read(index, lambda row: _texts(row, self.config.pages))


def _rows(config: Config) -> Rows:
    place = Path(config.path.replace("{split}", config.split)).expanduser()
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.suffix.lower() == ".pdf")
    elif place.suffix.lower() == ".pdf" and not place.is_file():
        files = sorted(place.parent.glob(place.name))
    elif place.suffix.lower() == ".pdf":
        files = [place]
    else:
        return open_rows(config.path, config.split)
    if not files:
        raise ValueError(f"data.path: no PDF files at {place}")
    return Rows([Plain(path, config.pages) for path in files])


def _texts(row: Row, most: int) -> list[str]:
    """What the first pages of a row say, `most` of them at most: as OCR has it, or else as the text layer."""
    if "pages" in row.values:
        told = row.items("pages")[:most]
        if not told:
            raise ValueError("`pages` is empty")
        return [_told(page, number) for number, page in enumerate(told)]
    if not isinstance(row.values.get("pdf"), bytes):
        raise ValueError(f"neither a .pdf nor a .json with `pages`; there are {', '.join(map(repr, row.values))}")
    with pdf.opened(row["pdf"]) as document:
        return [document.text(number) for number in _numbers(row, min(most, len(document)))]


def _numbers(row: Row, count: int) -> range:
    """The pages of the file that a row shows: of a plain file it says which."""
    return range(row.values.get("first", 0), row.values.get("end", count))


def _told(page: Any, number: int) -> str:
    """The text of a page as JSON has it: PDFA's lines, or IDL's, whose lists stand in the page itself."""
    lines = page.get("lines", page) if isinstance(page, dict) else None
    texts = lines.get("text") if isinstance(lines, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"page {number + 1} should have a list of lines, as `text` or under `lines`")
    said = "\n".join(text.strip() for text in texts if text.strip())
    if not said:
        raise ValueError(f"page {number + 1} says nothing")
    return said


def _drawn(row: Row, count: int, side: int) -> Sequence[bytes]:
    """Pictures of as many pages, encoded."""
    if isinstance(row.values.get("pdf"), bytes):
        with pdf.opened(row["pdf"]) as document:
            if len(document) < count:
                raise ValueError(f"the .json tells of {count} pages or more, the .pdf has {len(document)}")
            return [document.picture(number, side) for number in _numbers(row, count)]
    return list(_scanned(row, count, side))


def _scanned(row: Row, count: int, side: int) -> Iterator[bytes]:
    """The pages of a TIFF file, at most `side` pixels long; no larger than they are."""
    data = row["image"]
    if not isinstance(data, bytes):
        raise ValueError(f"column 'image' should be an encoded picture, not {data!r:.80}")
    with PIL.Image.open(io.BytesIO(data)) as scan:
        for number in range(count):
            try:
                scan.seek(number)
            except EOFError:
                raise ValueError(f"the .json tells of {count} pages or more, the scan has {number}") from None
            page = scan.convert("RGB")
            page.thumbnail((side, side))
            file = io.BytesIO()
            page.save(file, "PNG", compress_level=1)
            yield file.getvalue()


PLUGIN = Pages
