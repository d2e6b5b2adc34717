"""PDF pages: drawn as they look, read in the order people read them, from plain files and from published layouts."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import corpora
from vlmlab.component import parse
from vlmlab.data import pdf
from vlmlab.data.builders import BuilderConfig

pytest.importorskip("pypdfium2")

WIDE, TALL = 400, 500


def written(*pages: list[tuple[float, float, str]], rotate: int = 0, box: str = "") -> bytes:
    """A PDF file by hand: on each page, texts at (x, y) in points from the top left corner, 10 points high."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, texts in enumerate(pages):
        shown = "\n".join(f"BT /F 10 Tf {x} {TALL - y} Td ({text}) Tj ET" for x, y, text in texts)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDE} {TALL}] /Rotate {rotate} {box} "
            f"/Resources << /Font << /F 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}"
    return body + end.encode()


LEFT = [f"left column line {number} is full" for number in range(6)]
RIGHT = [f"right column line {number} is full" for number in range(6)]
TITLE = "A title that stands over both of the columns of this page and spans them"
FOOT = "And a foot that stands below both of the columns and spans them as well"


def two_columns() -> list[tuple[float, float, str]]:
    """Written row by row, as a careless program would: the order of the file is not that of reading."""
    page: list[tuple[float, float, str]] = [(30, 460, FOOT)]
    for number in range(6):
        page += [(30, 100 + 20 * number, LEFT[number]), (215, 100 + 20 * number, RIGHT[number])]
    return [*page, (30, 50, TITLE)]


def text(data: bytes, number: int = 0) -> str:
    with pdf.opened(data) as document:
        return document.text(number)


def test_columns_are_read_one_after_the_other():
    assert text(written(two_columns())).split("\n") == [TITLE, *LEFT, *RIGHT, FOOT]


def test_a_table_is_read_row_by_row():
    rows = [(40.0 + 150 * column, 100.0 + 20 * row, f"r{row}c{column}") for column in range(2) for row in range(5)]
    assert text(written(rows)).split("\n") == [f"r{row}c{column}" for row in range(5) for column in range(2)]


def test_words_have_their_places():
    with pdf.opened(written([(40, 100, "Hello there"), (300, 450, "Bye")])) as document:
        first, second = pdf.reading_order(document.lines(0))
    assert (first.text, second.text) == ("Hello there", "Bye")
    left, top, right, bottom = first.words[0].box
    # Letters stand on y = 100 of 500 and are about 7 points high; x begins at 40 of 400.
    assert left == pytest.approx(0.1, abs=0.005) and bottom == pytest.approx(0.2, abs=0.006)
    assert 0.01 < bottom - top < 0.02 and first.words[1].box[0] > right > left
    assert second.box[0] == pytest.approx(0.75, abs=0.005) and second.box[3] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_turned_pages(rotate):
    """Places are those on the page as it is shown: where the ink of its picture is."""
    with pdf.opened(written([(40, 100, "IIIIIIIIII")], rotate=rotate)) as document:
        (line,) = (
            document.lines(0) if rotate in (0,) else [pdf.Line(tuple(w for r in document.lines(0) for w in r.words))]
        )
        image = Image.open(io.BytesIO(document.picture(0, 500)))
    assert image.size == ((400, 500) if rotate in (0, 180) else (500, 400))
    ink = image.convert("L").point(lambda value: 255 * (value < 160)).getbbox()
    for told, seen, length in zip(line.box, ink, (*image.size, *image.size), strict=True):
        assert told * length == pytest.approx(seen, abs=3)


def test_a_cropped_page():
    data = written([(140, 200, "IIIIIIIIII")], box="/CropBox [100 200 400 400]")
    with pdf.opened(data) as document:
        (line,), image = document.lines(0), Image.open(io.BytesIO(document.picture(0, 300)))
    assert image.size == (300, 200)
    ink = image.convert("L").point(lambda value: 255 * (value < 160)).getbbox()
    for told, seen, length in zip(line.box, ink, (300, 200, 300, 200), strict=True):
        assert told * length == pytest.approx(seen, abs=3)


def test_the_picture_shows_the_page():
    with pdf.opened(written([(40, 100, "IIIIIIIIII")], [])) as document:
        assert len(document) == 2
        image, empty = (Image.open(io.BytesIO(document.picture(number, 250))) for number in range(2))
    assert image.size == empty.size == (200, 250) and image.mode == "RGB"
    assert set(empty.getdata()) == {(255, 255, 255)} and len(set(image.getdata())) > 2


@given(st.permutations(range(14)))
def test_the_order_of_the_file_does_not_matter(order):
    lines = [
        pdf.Line((pdf.Word(words, (x / WIDE, (y - 8) / TALL, (x + 5 * len(words)) / WIDE, y / TALL)),))
        for x, y, words in two_columns()
    ]
    read = pdf.reading_order([lines[number] for number in order])
    assert [line.text for line in read] == [TITLE, *LEFT, *RIGHT, FOOT]


def test_plain_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.pdf").write_bytes(written(*([(40, 100, f"a page {n}")] for n in range(5))))
    (tmp_path / "sub" / "b.PDF").write_bytes(written([(40, 100, "b page 0")]))
    source = corpora.source("pdf", path=tmp_path, pages=2, side=200)
    assert len(source) == 4
    assert [source.texts(at) for at in range(4)] == [
        ["a page 0", "a page 1"],
        ["a page 2", "a page 3"],
        ["a page 4"],
        ["b page 0"],
    ]
    (message,) = source[1].messages
    assert message.role == "text" and message.parts[1::2] == ("a page 2\n", "a page 3\n")
    assert [Image.open(io.BytesIO(p.source)).size for p in source[1].pictures] == [(160, 200)] * 2
    assert (
        len(corpora.source("pdf", path=tmp_path / "a.pdf")) == len(corpora.source("pdf", path=tmp_path / "*.pdf")) == 5
    )
    asked = corpora.source("pdf", path=tmp_path / "a.pdf", question="What does it say?")[4].messages
    assert [m.role for m in asked] == ["user", "assistant"] and asked[1].parts == ("a page 4",)
    with pytest.raises(IndexError):
        source[4]


def test_any_thread_reads_the_same(tmp_path):
    (tmp_path / "a.pdf").write_bytes(written(*([(40, 100, f"page {n}")] for n in range(8))))
    source = corpora.source("pdf", path=tmp_path / "a.pdf", side=100)
    numbers = [at % 8 for at in range(0, 200, 7)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(source.__getitem__, numbers)) == [source[at] for at in numbers]


def scan(*shades: int) -> bytes:
    file = io.BytesIO()
    first, *more = [Image.new("L", (300, 400), shade) for shade in shades]
    first.save(file, "TIFF", save_all=True, append_images=more)
    return file.getvalue()


def tars(folder, pages, tif=True):
    told = json.dumps({"pages": pages}).encode()
    shown = scan(10, 20, 30) if tif else written([], [], [])
    files = [
        (f"{at}.{kind}", data) for at in range(2) for kind, data in (("tif" if tif else "pdf", shown), ("json", told))
    ]
    return corpora.tar(folder / "idl-train-00000.tar", files)


IDL = [
    {"text": [f"page {n}", " of IDL "], "bbox": [[0, 0, 1, 1]] * 2, "poly": [], "score": [1.0] * 2} for n in range(3)
]
PDFA = [{"words": {"text": ["no"]}, "lines": {"text": [f"page {n}", "of PDFA"], "bbox": []}} for n in range(3)]


@pytest.mark.parametrize(("pages", "name"), [(IDL, "IDL"), (PDFA, "PDFA")])
@pytest.mark.parametrize("tif", [True, False])
def test_published_layouts(tmp_path, pages, name, tif):
    source = corpora.source("pdf", path=tars(tmp_path, pages, tif), pages=2, side=200)
    assert len(source) == 2 and source.texts(1) == [f"page 0\nof {name}", f"page 1\nof {name}"]
    pictures = [Image.open(io.BytesIO(p.source)) for p in source[1].pictures]
    assert [max(picture.size) for picture in pictures] == [200, 200]
    assert [picture.getpixel((0, 0))[0] for picture in pictures] == ([10, 20] if tif else [255, 255])


def test_plain_files_become_the_published_layout(tmp_path):
    (tmp_path / "a.pdf").write_bytes(written(two_columns(), [(40, 100, "Second page")]))
    out = tmp_path / "built.tar"
    builder = parse(BuilderConfig, {"name": "pdf"}).build(tmp_path / "a.pdf")
    assert builder.write(range(1), out, tmp_path).samples == 1
    built, plain = (corpora.source("pdf", path=path, pages=2, side=100) for path in (out, tmp_path / "a.pdf"))
    assert built.texts(0) == plain.texts(0) == ["\n".join([TITLE, *LEFT, *RIGHT, FOOT]), "Second page"]
    assert [p.source for p in built[0].pictures] == [p.source for p in plain[0].pictures]
    page = built.rows[0].values["pages"][0]
    start, end = page["lines"]["word_slice"][1]
    assert " ".join(page["words"]["text"][start:end]) == page["lines"]["text"][1] == LEFT[0]
    left, top, wide, tall = page["lines"]["bbox"][1]
    assert (
        left == pytest.approx(30 / WIDE, abs=0.01) and top + tall == pytest.approx(100 / TALL, abs=0.01) and wide > 0.2
    )


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ([], "`pages` is empty"),
        ([{"text": "x"}], "page 1 should have a list of lines"),
        ([3], "page 1 should have a list of lines"),
        ([{"lines": {"text": [" "]}}], "page 1 says nothing"),
        ("x", "column 'pages' should be a list"),
        (IDL * 2, "the scan has 3"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, pages, told):
    source = corpora.source("pdf", path=tars(tmp_path, pages), pages=9)
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        source[1]
    assert "00000.tar, row 1" in str(error.value)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path: no PDF files at"):
        corpora.source("pdf", path=tmp_path)
    with pytest.raises(ValueError, match=r"data\.path: no such file"):
        corpora.source("pdf", path=tmp_path / "gone.tar")
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 no")
    with pytest.raises(ValueError, match=r"bad\.pdf: not a PDF file"):
        corpora.source("pdf", path=tmp_path / "bad.pdf")
    (tmp_path / "scan.pdf").write_bytes(written([]))
    with pytest.raises(ValueError, match=r"scan\.pdf, page 1: page 1 has no text layer"):
        corpora.source("pdf", path=tmp_path / "scan.pdf")[0]
    for changes, told in (({"pages": 0}, "pages = 0"), ({"side": 9999}, "side = 9999")):
        with pytest.raises(ValueError, match=told):
            corpora.source("pdf", path=tmp_path / "scan.pdf", **changes)
