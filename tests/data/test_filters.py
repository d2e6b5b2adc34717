"""Filters drop what they are for and nothing else, and every drop can be counted and listed."""

import io
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import corpora
from vlmlab import component
from vlmlab.batch import Message, Picture, Sample
from vlmlab.data import sieve
from vlmlab.data.filters import FilterConfig
from vlmlab.data.filters import opt_out as opting
from vlmlab.data.filters.repeats import frequent, repeated, repeated_lines
from vlmlab.data.sources import Source


def made(name, **keys):
    return component.parse(FilterConfig, {"name": name, **keys}).build()


def sample(*parts):
    return Sample((Message("text", tuple(parts)),))


def picture(width, height):
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return Picture(file.getvalue(), f"{width} by {height}")


class Listed(Source):
    """A source of samples in memory; an error in their place is raised."""

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if isinstance(self.samples[index], Exception):
            raise self.samples[index]
        return self.samples[index]


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ([(150, 150)], None),
        ([(149, 600)], "too small"),
        ([(150, 20_001)], "too large"),
        ([(150, 750), (750, 150)], None),
        ([(150, 751)], "too long"),
        ([(200, 200)] * 30, None),
        ([(200, 200)] * 31, "too many"),
        ([], None),
    ],
)
def test_pictures_by_size(sizes, kind):
    reason = made("pictures").why_not(sample("x", *(picture(*size) for size in sizes)))
    assert (reason and reason.kind) == kind


def test_sizes_are_read_without_decoding(monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", None)
    shown = picture(300, 200)
    cut = Picture(shown.source[:60], "cut off")  # its head is whole
    assert made("pictures").why_not(sample(cut)) is None
    assert made("pictures").why_not(sample(Picture(Image.new("L", (9, 9)), "x"))).kind == "too small"
    with pytest.raises(ValueError, match="no picture: not a picture"):
        made("pictures").why_not(sample(Picture(b"text", "no picture")))


WORDS = [f"word{number}" for number in range(200)]


def test_repeats():
    rules = made("repeats", least=3, most=500)
    prose = " ".join(random.Random(0).choices(WORDS, k=300))
    assert rules.why_not(sample(prose)) is None
    assert rules.why_not(sample("two words")).kind == "too short"
    assert rules.why_not(sample(*[prose] * 2)).kind == "too long"
    assert rules.why_not(sample("\n".join(["buy these kites now today"] * 20))).kind == "same lines"
    assert rules.why_not(sample("buy kites " * 60)).kind == "same words"
    spun = " ".join(f"{word} the best kites in the whole town" for word in WORDS[:40])
    assert rules.why_not(sample(spun)).kind == "same words"
    assert rules.why_not(sample("yes yes yes yes")) is None  # too short to judge


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_shares_are_shares(words):
    for share in (frequent(words), repeated(words), repeated(words, 2), repeated_lines("\n".join(words))):
        assert 0 <= share <= 1
    assert repeated(WORDS) == frequent(WORDS) == repeated_lines("\n".join(WORDS)) == 0
    assert repeated([*WORDS[:6], *WORDS[:6]]) == 0.5 and repeated_lines("a\nb\na\n\nc") == 0.25


LISTS = """# people who asked
https://photos.example.org/cats/1.jpg # all of it
*.Example.NET
painter.art
http://shop.example.com:8080/a%20b.png?size=2
"""


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("https://photos.example.org/cats/1.jpg", "address"),
        ("HTTP://Photos.Example.Org:80/cats/1.jpg#top", "address"),
        ("https://photos.example.org/cats/2.jpg", None),
        ("https://example.net/x.png", "domain"),
        ("https://a.b.example.net/x.png", "domain"),
        ("https://notexample.net/x.png", None),
        ("https://painter.art:8443/x.png", "domain"),
        ("https://painter.art.example.org/x.png", None),
        ("https://shop.example.com:8080/a b.png?size=2", "address"),
        ("https://shop.example.com/a%20b.png?size=2", None),
        ("folder/painter.art/x.png", None),
    ],
)
def test_opting_out(tmp_path, address, kind):
    (tmp_path / "list.txt").write_text(LISTS)
    rule = made("opt_out", lists=[str(tmp_path / "list.txt")])
    assert rule.addresses and len(rule.domains) == 2
    fetched = Picture(corpora.png(1), address)  # a picture from a cache still says where it is from
    for shown in (Picture(address, ""), fetched):
        reason = rule.why_not(sample("x", picture(9, 9), shown))
        assert (reason and reason.kind) == kind


def test_a_wrong_list_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("painter.art\n\nnot a domain\n")
    with pytest.raises(ValueError, match=r"list\.txt, line 3: 'not a domain' is neither an address nor a domain"):
        made("opt_out", lists=[str(tmp_path / "list.txt")])
    with pytest.raises(ValueError, match="lists: cannot read"):
        made("opt_out", lists=[str(tmp_path / "gone.txt")])
    with pytest.raises(ValueError, match="lists is empty"):
        made("opt_out", lists=[])


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_not(text):
    found = opting.normal(text)
    assert found is None or opting.normal("https://" + found) is not None


def sieved(tmp_path):
    (tmp_path / "list.txt").write_text("painter.art\n")
    source = Listed(
        sample("good", picture(200, 200)),
        sample("small", picture(9, 200)),
        sample("theirs", Picture("https://painter.art/a.png", "x")),
        ValueError("row 3: cut short"),
        sample("small too", picture(8, 8)),
        sample("good too"),
        sample("broken", Picture(b"no", "p")),
    )
    filters = {"opt_out": made("opt_out", lists=[str(tmp_path / "list.txt")]), "pictures": made("pictures")}
    return source, sieve.sieve(source, filters)


def test_every_drop_is_counted_and_listed(tmp_path):
    source, found = sieved(tmp_path)
    assert found.kept == (0, 5)
    assert found.counts() == {
        "pictures: too small": 2,
        "unreadable: ValueError": 2,
        "opt_out: domain": 1,
    }
    assert sum(found.counts().values()) + len(found.kept) == len(source)
    assert [drop.index for drop in found.listed("pictures: too small")] == [1, 4]
    assert "9 by 200" in found.listed("pictures: too small")[0].detail
    assert found.listed("unreadable: ValueError")[0].detail == "row 3: cut short"
    assert found.summary().splitlines()[0] == "2 of 7 samples kept"
    with pytest.raises(ValueError, match=r"nothing was dropped for 'x'; reasons: pictures: too small,"):
        found.listed("x")
    kept = sieve.Kept(source, found.kept)
    assert len(kept) == 2 and kept[1].messages[0].parts == ("good too",)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            kept[index]


def test_drops_are_written_and_read_again(tmp_path):
    source, found = sieved(tmp_path)
    found.write(tmp_path / "drops.jsonl")
    assert sieve.Sieved.read(tmp_path / "drops.jsonl", len(source)) == found
    for line, told in (
        ("{", "line 1:"),
        ("[]", "should be an object with index, filter, kind, detail"),
        ('{"index": "0", "filter": "a", "kind": "b", "detail": ""}', "`index` should be a whole number"),
        ('{"index": 7, "filter": "a", "kind": "b", "detail": ""}', "sample 7 is not one of 7"),
    ):
        (tmp_path / "bad.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match=re.escape(told)):
            sieve.Sieved.read(tmp_path / "bad.jsonl", 7)


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("pictures", {"least": 9, "most": 8}, "0 < least <= most"),
        ("pictures", {"ratio": 0.5}, "a ratio of 1 or more"),
        ("repeats", {"lines": 1.5}, "lines = 1.5 should be a share"),
        ("repeats", {"least": 5, "most": 4}, "the least first"),
        ("decontaminate", {"evaluation": []}, "evaluation is empty"),
        ("decontaminate", {"evaluation": [{"name": "emoji"}], "alike": 0.0}, "alike above 0"),
        ("sizes", {}, "no filters plug-in called 'sizes'"),
    ],
)
def test_what_is_wrong_is_said(name, keys, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        made(name, **keys)
