"""What builders make of raw files is what our sources read, and says what was left out and why."""

import collections
import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image, ImageDraw

from data import corpora
from data.test_pdf import written
from vlmlab.batch import Picture
from vlmlab.component import parse
from vlmlab.data import html
from vlmlab.data.builders import BuilderConfig
from vlmlab.data.sources import typeset

PROSE = "The kite rose over the field while the wind held, and all of us watched it grow small."


def make(kind, place, out, **keys):
    """One shard of all units. Returns its path and what became of them."""
    out.mkdir(exist_ok=True)
    builder = parse(BuilderConfig, {"name": kind, **keys}).build(place)
    path = out / f"shard{builder.ending}"
    return path, builder.write(range(len(builder)), path, out)


def photo(path, width=300, height=200, shade=0, kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height), (shade, 90, 200))
    ImageDraw.Draw(image).line((0, 0, width, height), (255, 255, shade), 9)
    image.save(path, kind)
    return path


@pytest.fixture
def site(tmp_path):
    """Pages with pictures of every sort."""
    root = tmp_path / "site"
    for number, shade in enumerate((10, 60, 110)):
        photo(root / "pictures" / f"{number}.jpg", shade=shade)
    photo(root / "pictures" / "small.png", 40, 40, kind="PNG")
    photo(root / "pictures" / "long.png", 1600, 200, kind="PNG")
    photo(root / "pictures" / "Site-Logo.png", 300, 300, kind="PNG")
    photo(root / "pictures" / "a b.png", 200, 200, 30, kind="PNG")
    photo(tmp_path / "secret.jpg", shade=200)
    (root / "pictures" / "cut.jpg").write_bytes((root / "pictures" / "0.jpg").read_bytes()[:900])
    (root / "pictures" / "draw.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='300' height='300'/>")
    bad = ["small.png", "long.png", "Site-Logo.png", "cut.jpg", "draw.svg", "gone.jpg", "0.jpg"]
    shown = "".join(f"<img src='../pictures/{name}'>" for name in bad)
    more = "<img src='https://example.org/x.jpg'><img src='../../secret.jpg'><img src='data:image/png;base64,AA'>"
    body = (
        f"<nav>Home</nav><h1>Kites</h1><p>{PROSE}</p><img src='../pictures/0.jpg' alt='A kite'><p>Between.</p>{shown}"
        f"{more}<img src='/pictures/1.jpg?v=2#top'><img src='../pictures/a%20b.png'><p>The end.</p><footer>c</footer>"
    )
    (root / "a").mkdir()
    (root / "a" / "one.html").write_text(f"<html lang=en><title>One</title><body>{body}</body></html>")
    (root / "b.htm").write_text(f"<body><p>{PROSE}</p><img src=pictures/2.jpg></body>")
    (root / "few.html").write_text("<p>Too few.</p><img src=pictures/2.jpg>")
    (root / "none.html").write_text(f"<p>{PROSE}</p><img src=pictures/small.png>")
    (root / "notes.txt").write_text("no page")
    return root


def test_documents_are_in_the_published_layout(site, tmp_path):
    path, tally = make("documents", site, tmp_path / "out")
    table = pyarrow.parquet.read_table(path)
    assert table.schema.names == ["images", "metadata", "general_metadata", "texts"]
    row = table.to_pylist()[0]
    assert row["texts"][0] == f"Kites\n\n{PROSE}" and row["texts"][2] == "Between." and row["texts"][-1] == "The end."
    assert [text is None for text in row["texts"]] == [image is not None for image in row["images"]]
    facts = json.loads(row["metadata"])
    assert [each and each["src"] for each in facts] == [
        None,
        "pictures/0.jpg",
        None,
        "pictures/1.jpg",
        "pictures/a b.png",
        None,
    ]
    assert facts[1]["alt_text"] == "A kite" and (facts[1]["original_width"], facts[1]["format"]) == (300, "jpeg")
    assert json.loads(row["general_metadata"]) == {"url": "a/one.html", "title": "One", "language": "en"}
    assert tally.samples == 2 and tally.dropped == {
        "picture: elsewhere": 2,
        "picture: not there": 2,
        "picture: damaged, or of no format that is read": 2,
        "picture: small": 1,
        "picture: long": 1,
        "picture: icon": 1,
        "picture: repeated": 1,
        "few words": 1,
        "few pictures": 1,
    }
    assert tally.listed == [
        ("few.html", "few words", "2 words, 1 pictures"),
        ("none.html", "few pictures", "18 words, 0 pictures"),
    ]


def test_documents_are_read_by_their_source(site, tmp_path):
    path, _ = make("documents", site, tmp_path / "out")
    source = corpora.source("documents", path=path)
    assert len(source) == 2
    first = source[0]
    assert [part if isinstance(part, str) else "picture" for part in first.messages[0].parts] == [
        f"Kites\n\n{PROSE}",
        "picture",
        "Between.",
        "picture",
        "picture",
        "The end.",
    ]
    assert Path(first.pictures[0].source).read_bytes() == (site / "pictures" / "0.jpg").read_bytes()
    kept = [file for file in (tmp_path / "out" / "pictures").rglob("*") if file.is_file()]
    assert len(kept) == 4  # none of those that were dropped, nor of pages that were
    assert source.metadata(0)["general_metadata"]["title"] == "One"


def test_a_page_s_pictures_stay_inside(site, tmp_path):
    (site / "way out").symlink_to(tmp_path)
    (site / "b.htm").write_text(f"<p>{PROSE}</p><img src='way%20out/secret.jpg'><img src='/../secret.jpg'>")
    _, tally = make("documents", site, tmp_path / "out")
    assert tally.dropped["picture: not there"] == 2 and tally.samples == 1
    assert ("b.htm", "few pictures", "18 words, 0 pictures") in tally.listed


def test_broken_pages_are_dropped(site, tmp_path, monkeypatch):
    from vlmlab.data.builders import documents

    monkeypatch.setattr(documents, "_MOST", 400)
    (site / "b.htm").unlink()
    (site / "b.htm").symlink_to(site / "nowhere")
    _, tally = make("documents", site, tmp_path / "out", words=0, pictures=0)
    assert [(name, kind) for name, kind, _ in tally.listed] == [("a/one.html", "unreadable")]


def test_pdf_files_become_pdfa_s_tars(tmp_path):
    place = tmp_path / "papers"
    (place / "more").mkdir(parents=True)
    (place / "b.pdf").write_bytes(written([(30, 40, "Second file")]))
    (place / "a.pdf").write_bytes(written([(30, 40, "First file")]))
    (place / "more" / "c.PDF").write_bytes(b"no PDF")
    (place / "empty.pdf").write_bytes(written([]))
    path, tally = make("pdf", place, tmp_path / "out")
    source = corpora.source("pdf", path=path)
    assert [source.texts(index) for index in range(len(source))] == [["First file"], ["Second file"]]
    assert [(name, kind) for name, kind, _ in tally.listed] == [
        ("empty.pdf", "few words"),
        ("more/c.PDF", "unreadable"),
    ]
    _, tally = make("pdf", place, tmp_path / "out", words=0, most=1)
    assert tally.samples == 3


def test_pairs_become_tars(tmp_path):
    place = tmp_path / "photos"
    photo(place / "kite.jpg").with_suffix(".txt").write_text("A kite.\n")
    photo(place / "b" / "dot.png", 9, 9, kind="PNG").with_suffix(".txt").write_text("A dot.")
    photo(place / "long.png", 900, 100, kind="PNG").with_suffix(".txt").write_text("A line.")
    photo(place / "dumb.webp", kind="WEBP")
    (place / "cut.jpg").write_bytes((place / "kite.jpg").read_bytes()[:500])
    (place / "cut.txt").write_text("Cut.")
    path, tally = make("pairs", place, tmp_path / "out")
    source = corpora.source("pairs", path=path)
    assert len(source) == tally.samples == 1 and source.pair(0).title == "A kite."
    assert source.pair(0).picture.source == (place / "kite.jpg").read_bytes()
    assert tally.dropped == {"small": 1, "long": 1, "unreadable": 2}
    assert {name: kind for name, kind, _ in tally.listed} == {
        "b/dot.png": "small",
        "long.png": "long",
        "dumb.webp": "unreadable",
        "cut.jpg": "unreadable",
    }
    assert str(tmp_path) not in str(tally.listed)
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["000000003.jpg", "000000003.txt", "000000003.json"]


def test_pairs_from_a_table(tmp_path):
    photo(tmp_path / "photos" / "kite.jpg")
    (tmp_path / "photos" / "metadata.csv").write_text("file_name,text\nkite.jpg,A kite.\ngone.jpg,Gone.\n")
    for place in (tmp_path / "photos", tmp_path / "photos" / "metadata.csv"):
        path, tally = make("pairs", place, tmp_path / "out")
        assert corpora.source("pairs", path=path).pair(0).title == "A kite." and tally.dropped == {"unreadable": 1}


def test_rendered_text_is_read_with_its_places(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(f"{PROSE} Number {number}." for number in range(40)))
    path, tally = make("typeset", tmp_path / "text.txt", tmp_path / "out", samples=6, fonts="own", side=256, words=8)
    source = corpora.source("rendered_text", path=path)
    assert len(source) == tally.samples == 6 and not tally.dropped
    for index in range(6):
        answer = source[index].messages[1].parts[0]
        assert all(word in PROSE or word.strip(".").isdigit() or word == "Number" for word in answer.split())


def widened(box, slack):
    """A box with so much more on each side."""
    (x0, y0), (x1, y1), _, (x3, y3) = box
    along, down = (x1 - x0, y1 - y0), (x3 - x0, y3 - y0)
    found = []
    for (x, y), (a, d) in zip(box, ((-1, -1), (1, -1), (1, 1), (-1, 1)), strict=True):
        for (dx, dy), way in ((along, a), (down, d)):
            long = max(1e-9, (dx**2 + dy**2) ** 0.5)
            x, y = x + way * slack * dx / long, y + way * slack * dy / long
        found.append((x, y))
    return found


@pytest.mark.parametrize("angle", [0.0, 15.0, 45.0])
def test_corners_are_where_the_ink_is(angle):
    """Ink, all of it, inside the boxes of the lines; and none of a line outside its own."""
    config = typeset.Config(samples=30, seed=3, angle=angle, fonts="own", words=8)
    source = typeset.Typeset(config)
    for index in range(30):
        truth = source.truth(index)
        plain = typeset.dataclasses.replace(truth, ink=(0, 0, 0), papers=((255,) * 3, (255,) * 3), ground="plain")
        drawn = source.draw(plain).convert("L")
        corners = source.corners(truth)
        assert len(corners) == len(truth.lines)
        slack = 2 + truth.size / 4  # letters lean out of their boxes
        mask = Image.new("L", drawn.size, 255)
        for box in corners:
            ImageDraw.Draw(mask).polygon(widened(box, slack), 0)
        outside = sum(1 for ink, open_ in zip(drawn.tobytes(), mask.tobytes(), strict=True) if ink < 128 and open_)
        assert outside == 0, (index, truth)
        for box in corners:
            left, top = (round(sum(point[axis] for point in box) / 4) for axis in (0, 1))
            near = drawn.crop((left - 40, top - 14, left + 40, top + 14))
            assert min(near.tobytes()) < 128, (index, box)


@pytest.mark.parametrize(
    ("kind", "files", "keys", "told"),
    [
        ("documents", {"a.txt": b"x"}, {}, "holds no file that ends in .htm, .html, .xhtml"),
        ("pdf", {"a.txt": b"x"}, {}, "holds no file that ends in .pdf"),
        ("pairs", {}, {}, "holds no samples"),
        ("documents", {}, {"least": 0}, "least and ratio of 1 or more"),
        ("pdf", {}, {"most": 0}, "most of 1 or more"),
        ("pairs", {}, {"ratio": 0.5}, "least and ratio of 1 or more"),
        ("pdf", {}, {"shard": 0}, "shard = 0 should be 1 or more"),
        ("typeset", {"a.txt": b""}, {}, "has no paragraphs for the split"),
    ],
)
def test_what_is_wrong_is_said(kind, files, keys, told, tmp_path):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=told):
        make(kind, tmp_path, tmp_path / "out", **keys)


def test_what_tells_inputs_apart(site):
    def prints():
        return parse(BuilderConfig, {"name": "documents"}).build(site).fingerprint()

    first = prints()
    assert first == prints()
    (site / "b.htm").rename(site / "c.htm")
    assert prints() != first


def test_nothing_is_fetched_or_read_from_elsewhere():
    page = html.read("<p>x</p><img src='file:///etc/passwd'><img src='//example.org/a.png'>")
    assert [part.address for part in page.parts[1:]] == ["file:///etc/passwd", "//example.org/a.png"]


def test_shards_carry_no_date_and_no_owner(tmp_path):
    photo(tmp_path / "photos" / "kite.jpg").with_suffix(".txt").write_text("A kite.\n")
    path, _ = make("pairs", tmp_path / "photos", tmp_path / "out")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert collections.Counter(Path(m.name).suffix for m in members) == {".jpg": 1, ".txt": 1, ".json": 1}
    assert Picture.of(io.BytesIO(path.read_bytes()).getvalue()).name
