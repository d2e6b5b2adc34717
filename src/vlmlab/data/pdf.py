"""PDF files: their pages as pictures, and the text layer of a page in reading order.

pdfium does the work, through `pypdfium2`; it cannot be used by two threads at once, so all of it is behind one lock.
Places on a page are shares of its width and height, from the top left corner of the page as it is shown.
"""

import contextlib
import ctypes
import dataclasses
import io
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pypdfium2

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

_LOCK = threading.RLock()
_FINE = 1 << 24  # pdfium tells places in whole numbers: of so many to a page
_BROKEN = "\x02"  # pdfium's mark for the hyphen of a word that goes on in the next line
_APART = 2.0  # words of one line that are further apart than so many times its height are in different columns


@dataclasses.dataclass(frozen=True)
class Word:
    """A word and where it stands."""

    text: str
    box: Box


@dataclasses.dataclass(frozen=True)
class Line:
    """Words that stand side by side."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words with spaces between them."""
        return " ".join(word.text for word in self.words)

    @property
    def box(self) -> Box:
        """The box around all words."""
        return around([word.box for word in self.words])


def around(boxes: Sequence[Box]) -> Box:
    """The box around boxes."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


class Pdf:
    """An open PDF file."""

    def __init__(self, document: "pypdfium2.PdfDocument") -> None:
        self.document = document

    def __len__(self) -> int:
        return len(self.document)

    def picture(self, number: int, side: int) -> bytes:
        """Page `number` as PNG, `side` pixels along its longer side."""
        page = self._page(number)
        scale = (side - 0.01) / max(*page.get_size(), 1.0)  # pdfium rounds pixels up
        file = io.BytesIO()
        page.render(scale=scale).to_pil().convert("RGB").save(file, "PNG", compress_level=1)
        return file.getvalue()

    def lines(self, number: int) -> list[Line]:
        """The text layer of page `number`, in reading order; empty for a scan that has none."""
        page = self._page(number)
        wide, tall = page.get_size()
        return [line for row in _words(page, page.get_textpage()) for line in _columns(row, wide / tall)]

    def text(self, number: int) -> str:
        """The text of page `number`, a line for each line. Raises ValueError (counting from 1) where there is none."""
        lines = reading_order(self.lines(number))
        if not lines:
            raise ValueError(f"page {number + 1} has no text layer; make one with an OCR program such as OCRmyPDF")
        return "\n".join(line.text for line in lines)

    def _page(self, number: int) -> "pypdfium2.PdfPage":
        try:
            return self.document[number]
        except _library().PdfiumError as error:
            raise ValueError(f"page {number + 1} cannot be read: {error}") from None


@contextlib.contextmanager
def opened(file: bytes | Path) -> Iterator[Pdf]:
    """A PDF file from its bytes or path, for as long as the block lasts. Raises ValueError where it is none.

    Any error inside that is pdfium's own becomes a ValueError too.
    """
    library = _library()
    with _LOCK:
        try:
            document = library.PdfDocument(file)
        except (library.PdfiumError, FileNotFoundError) as error:
            raise ValueError(f"not a PDF file that can be opened: {error}") from None
        try:
            yield Pdf(document)
        except library.PdfiumError as error:
            raise ValueError(f"damaged PDF file: {error}") from None
        finally:
            document.close()


def _words(page: "pypdfium2.PdfPage", layer: "pypdfium2.PdfTextPage") -> list[list[Word]]:
    """The words of a page in the order in which the file has them, line by line as pdfium breaks them."""
    raw = _library().raw
    rows: list[list[Word]] = [[]]
    letters, boxes = "", []
    for at in range(layer.count_chars() + 1):
        code = raw.FPDFText_GetUnicode(layer.raw, at) if at < layer.count_chars() else 0x0A
        letter = chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
        if letter and letter.isprintable() and not letter.isspace():
            letters += letter
            boxes.append(_shown(page, layer.get_charbox(at)))
        elif letter.isspace() or letter == _BROKEN:
            if letters:
                rows[-1].append(Word(letters + ("-" if letter == _BROKEN else ""), around(boxes)))
            letters, boxes = "", []
            if letter in "\r\n" + _BROKEN and rows[-1]:
                rows.append([])
    return [row for row in rows if row]


def _shown(page: "pypdfium2.PdfPage", box: Box) -> Box:
    """A box in the file's own measure, as it stands on the page that is shown: turned, and cut to what is shown."""
    raw = _library().raw
    left, bottom, right, top = box
    across, down = ctypes.c_int(), ctypes.c_int()
    corners = []
    for x, y in ((left, top), (right, bottom)):
        raw.FPDF_PageToDevice(page.raw, 0, 0, _FINE, _FINE, 0, x, y, across, down)
        corners.append((across.value / _FINE, down.value / _FINE))
    (x1, y1), (x2, y2) = corners
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _columns(words: Sequence[Word], shape: float) -> Iterator[Line]:
    """The words of a line, parted where the space between two is so wide that they are in different columns.

    `shape` is the page's width for a height of 1: places across and down are measured by different sides.
    """
    begun: list[Word] = []
    for word in words:
        if begun:
            before = begun[-1].box
            tall = max(before[3] - before[1], word.box[3] - word.box[1])
            beside = min(before[3], word.box[3]) > max(before[1], word.box[1])
            if not beside or not -tall < (word.box[0] - before[2]) * shape < _APART * tall:
                yield Line(tuple(begun))
                begun = []
        begun.append(word)
    if begun:
        yield Line(tuple(begun))


def reading_order(lines: Sequence[Line]) -> list[Line]:
    """Lines as they are read: down one column, then the next; what spans columns parts what is above from below."""
    gutter = _gutter(lines)
    if gutter is None:
        return _down(lines)
    ordered: list[Line] = []
    band: list[Line] = []

    def close() -> None:
        left = [line for line in band if line.box[2] <= gutter]
        right = [line for line in band if line.box[0] >= gutter]
        ordered.extend(reading_order(left) + reading_order(right))
        band.clear()

    for line in _down(lines):
        if line.box[0] < gutter < line.box[2]:
            close()
            ordered.append(line)
        else:
            band.append(line)
    close()
    return ordered


def _down(lines: Sequence[Line]) -> list[Line]:
    """From top to bottom; lines at the same height, by half of theirs, from left to right."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: (line.box[1] + line.box[3], line.box[0])):
        middle = (line.box[1] + line.box[3]) / 2
        if rows and rows[-1][0].box[1] < middle < rows[-1][0].box[3]:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def _gutter(lines: Sequence[Line]) -> float | None:
    """Where, across, two columns part: three lines or more on either side, at the same heights, and few across it."""
    best: tuple[int, float] | None = None
    boxes = [line.box for line in lines]
    for place in sorted({box[0] for box in boxes}):
        left = [box for box in boxes if box[2] <= place]
        right = [box for box in boxes if box[0] >= place]
        across = len(boxes) - len(left) - len(right)
        if min(len(left), len(right)) < 3 or across > 0.3 * len(boxes):
            continue
        one, other = around(left), around(right)
        shared = min(one[3], other[3]) - max(one[1], other[1])
        # The cells of a table, which is read across, are narrower than the space between them, or fill their columns
        # unevenly; columns of prose are wide, and full.
        wide = min(one[2] - one[0], other[2] - other[0])
        filled = _filled(left) and _filled(right)
        if shared > 0 and filled and other[0] - one[2] < wide and (best is None or across < best[0]):
            best = (across, place)
    return None if best is None else best[1]


def _filled(boxes: Sequence[Box]) -> bool:
    """Whether boxes are, on average, six tenths as wide as all of them together."""
    wide = around(boxes)[2] - around(boxes)[0]
    return sum(box[2] - box[0] for box in boxes) > 0.6 * len(boxes) * wide


def annotated(pdf: Pdf) -> dict[str, Any]:
    """What PDFA's JSON holds of a file: words and lines of each page with their places, in reading order.

    A place is left, top, width and height; `word_slice` says which words a line has. Pictures are not told of.
    """
    pages = []
    for number in range(len(pdf)):
        lines = reading_order(pdf.lines(number))
        words = [word for line in lines for word in line.words]
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line.words))
        told: dict[str, Any] = {"words": _told(words), "lines": _told(lines)}
        told["lines"]["word_slice"] = [list(pair) for pair in itertools.pairwise(starts)]
        pages.append({**told, "images_bbox": [], "images_bbox_no_text_overlap": []})
    return {"pages": pages}


def _told(found: Sequence[Word] | Sequence[Line]) -> dict[str, Any]:
    boxes = [[round(n, 6) for n in (x1, y1, x2 - x1, y2 - y1)] for x1, y1, x2, y2 in (each.box for each in found)]
    return {"text": [each.text for each in found], "bbox": boxes, "score": [1.0] * len(boxes)}


def _library() -> ModuleType:
    # Imported here: only those who read PDF files need it.
    try:
        import pypdfium2
    except ModuleNotFoundError:
        raise ValueError("reading PDF files needs `pypdfium2`: pip install 'vlmlab[data]'") from None
    library: ModuleType = pypdfium2
    return library
