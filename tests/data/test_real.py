"""Sources on real data, as packages carry it.

Emoji, charts and the table need nothing that is not here: they run everywhere. What is marked `download` fetches 65 MB
through apt, and is skipped where that cannot be had; `-m "not download"` leaves it out.
"""

import collections
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data import corpora
from vlmlab.data import get
from vlmlab.data.stats import stats
from vlmlab.processor.decode import open_picture

GIMP, R, FLAGS = "gimp-help-en", "r-doc-pdf", "iso-flags-png-320x240"


def letters(text):
    return len(text)


def test_emoji_as_they_ship():
    found = stats(corpora.source("emoji", split="validation"), tokens=letters)
    assert found.unreadable == found.absent == found.without_pictures == 0
    assert found.pictures.most == found.pictures.least == 1 and found.widths.least >= 64
    assert found.answer_tokens.least >= 2


@pytest.fixture
def prices(tmp_path):
    """Microsoft's share prices of 2003, which matplotlib ships with its examples."""
    matplotlib = pytest.importorskip("matplotlib")
    path = Path(matplotlib.get_data_path()) / "sample_data" / "msft.csv"
    shutil.copy(path, tmp_path)
    return tmp_path / "msft.csv"


def test_a_table_of_prices(prices):
    source = corpora.source("table", path=prices, picture="", question="Date", answer="Close")
    lines = prices.read_text().splitlines()
    assert len(source) == len(lines) - 1
    for index in (0, 7, len(source) - 1):
        said = [message.parts[0] for message in source[index].messages]
        assert said == [lines[index + 1].split(",")[at] for at in (0, 4)]


def test_charts_of_prices(prices):
    rows = [line.split(",") for line in prices.read_text().splitlines()]
    few = [row[:5] for row in rows[:9]]
    (prices.parent / "few").mkdir()
    (prices.parent / "few" / "prices.csv").write_text("\n".join(",".join(row) for row in few) + "\n")
    known = [float(row[at]) for row in few[1:] for at in range(1, 5)]
    sums = {*known, *(abs(one - other) for one in known for other in known), *range(9)}  # or a count of rows
    source = corpora.source("charts", tables=prices.parent / "few", samples=40, kinds=["table"])
    said = [message.parts[0] for index in range(40) for message in source[index].messages[1::2]]
    numbers = [float(answer) for answer in said if re.fullmatch(r"-?[\d.]+", answer)]
    assert len(numbers) > 5 and all(min(abs(number - one) for one in sums) < 0.006 for number in numbers)
    assert {answer for answer in said if answer[0].isalpha()} <= {*few[0], "yes", "no", "Yes", "No"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The packages, unpacked as `vlmlab data get` does it."""
    root = tmp_path_factory.mktemp("packages") / "root"
    try:
        get.download((GIMP, "gimp-help-common", R, FLAGS), root)
    except ValueError as error:
        pytest.skip(str(error))
    return root


def build(kind, place, out, *keys):
    """As a user builds it: in a process of its own, where types are not checked at every call. Returns the manifest."""
    line = [sys.executable, "-m", "vlmlab.cli", "data", "build", kind, str(place), str(out), *keys, "--workers", "1"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "manifest.json").read_text())


class Figures(html.parser.HTMLParser):
    """The figures of a page of GIMP's manual: the title above, and the pictures. By another parser than ours."""

    def __init__(self, text):
        super().__init__()
        self.found, self.depth, self.titled = [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        if tag == "div" and (told.get("class") == "figure" or self.depth):
            self.depth += 1
            if self.depth == 1:
                self.found.append(["", []])
        elif self.depth and tag == "p" and told.get("class") == "title":
            self.titled = True
        elif self.depth and tag == "img":
            self.found[-1][1].append(told["src"])

    def handle_endtag(self, tag):
        if self.depth and tag == "div":
            self.depth -= 1
        self.titled = self.titled and tag != "p"

    def handle_data(self, data):
        if self.titled:
            self.found[-1][0] += data


def folded(text):
    return " ".join(text.split())


@pytest.mark.slow
@pytest.mark.download
def test_documents_of_a_manual(packages, tmp_path):
    place = tmp_path / "pages"
    shutil.copytree(packages / "usr/share/gimp/2.0/help/en", place)
    for page in sorted(place.glob("*.html"))[::3] + sorted(place.glob("*.html"))[1::3]:
        page.unlink()  # a third will do
    manifest = build("documents", place, tmp_path / "out")
    source = corpora.source("documents", path=tmp_path / "out" / "*.parquet")
    assert len(source) == manifest["samples"] > 120
    figures = before = 0
    for index in range(len(source)):
        document = source[index]
        told = source.metadata(index)
        parts = document.messages[0].parts
        text = "\n".join(part for part in parts if isinstance(part, str))
        assert not re.search(r"^(Prev|Next|Home|Up)$", text, re.MULTILINE), told["general_metadata"]
        shown = [each and each["unformatted_src"] for each in told["metadata"]]
        page = (place / told["general_metadata"]["url"]).read_text(encoding="utf-8")
        for caption, pictures in Figures(page).found:
            places = [shown.index(name) for name in pictures if name in shown]
            if places and folded(caption):
                figures += 1
                said = folded(" ".join(part for part in parts[: places[0]] if isinstance(part, str)))
                before += folded(caption) in said[-400 - len(caption) :]
    assert figures > 150 and before >= 0.97 * figures, f"{before} of {figures} titles stand right before their picture"
    found = stats(source)
    assert found.absent == found.unreadable == 0 and min(found.widths.least, found.heights.least) >= 150


@pytest.mark.slow
@pytest.mark.download
def test_pages_of_manuals(packages, tmp_path):
    import pypdfium2

    place = tmp_path / "manuals"
    place.mkdir()
    shutil.copy(packages / "usr/share/R/doc/manual/R-FAQ.pdf", place)
    build("pdf", place, tmp_path / "out")
    built = corpora.source("pdf", path=tmp_path / "out" / "*.tar", pages=64, side=200)
    plain = corpora.source("pdf", path=place, side=200)
    assert len(built) == 1 and len(built.texts(0)) == len(plain) > 40
    document = pypdfium2.PdfDocument(place / "R-FAQ.pdf")
    for number in (5, 12, 30):
        assert built.texts(0)[number] == plain.texts(number)[0]
        theirs = collections.Counter(re.findall(r"\w+", document[number].get_textpage().get_text_bounded()))
        ours = collections.Counter(re.findall(r"\w+", plain.texts(number)[0]))
        assert sum((theirs & ours).values()) >= 0.98 * sum(theirs.values())
    assert max(open_picture(plain[3].pictures[0]).size) == 200


@pytest.mark.slow
@pytest.mark.download
def test_pairs_of_flags(packages, tmp_path):
    place = tmp_path / "flags"
    shutil.copytree(packages / "usr/share" / FLAGS, place)
    named = sorted(path for path in place.rglob("*.png") if re.fullmatch(r"[a-z]{2}\.png", path.name))
    for path in named:
        path.with_suffix(".txt").write_text(f"The flag of {path.stem}.")
    manifest = build("pairs", place, tmp_path / "out", "shard=64")
    source = corpora.source("pairs", path=tmp_path / "out" / "*.tar")
    assert len(source) == manifest["samples"] == len(named) > 200 and len(manifest["shards"]) > 3
    for index in (0, 100, len(source) - 1):
        pair = source.pair(index)
        code = pair.title.removeprefix("The flag of ").rstrip(".")
        with Image.open(place / f"{code}.png") as flag:
            assert open_picture(pair.picture).tobytes() == open_picture(corpora.Picture(flag, code)).tobytes()


@pytest.mark.slow
@pytest.mark.download
def test_rendered_text_of_a_manual(packages, tmp_path):
    from vlmlab.data import html as pages

    page = pages.read((packages / "usr/share/gimp/2.0/help/en/gimp-tool-crop.html").read_bytes())
    text = "\n\n".join(part for part in page.parts if isinstance(part, str))
    (tmp_path / "crop.txt").write_text(text, encoding="utf-8")
    build("typeset", tmp_path / "crop.txt", tmp_path / "out", "samples=20", "fonts=own", "words=6")
    source = corpora.source("rendered_text", path=tmp_path / "out" / "*.tar")
    assert len(source) == 20
    known = set(text.split())
    said = [word for index in range(20) for word in source[index].messages[1].parts[0].split()]
    assert sum(word in known for word in said) >= 0.95 * len(said)  # the longest are broken to fit
