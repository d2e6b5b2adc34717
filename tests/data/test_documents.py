"""Interleaved documents in OBELICS's layout: reading order, pictures by URL, by folder and by bytes."""

import hashlib
import json

import pytest

from data import corpora
from vlmlab.batch import Picture

URL = "https://example.org/a.jpg"


def documents(path, *rows, **keys):
    corpora.parquet(path / "train-0.parquet", rows)
    return corpora.source("documents", path=path / "{split}-*.parquet", **keys)


def test_texts_and_pictures_come_in_reading_order(tmp_path):
    row = {
        "images": [None, URL, None, None, None, None],
        "metadata": json.dumps([None, {"src": URL, "alt_text": "a"}, None, None, None, None]),
        "general_metadata": json.dumps({"url": "https://example.org/page"}),
        "texts": ["First.\n", None, " Second, <image> as written.", "Third.", "  ", "Fourth."],
    }
    found = documents(tmp_path, row)
    (message,) = found[0].messages
    assert message.role == "text"
    first, picture, *rest = message.parts
    assert first == "First." and "".join(rest) == "Second, <image> as written.\n\nThird.\n\nFourth."
    assert isinstance(picture, Picture) and (picture.source, picture.name) == (URL, URL)
    about = found.metadata(0)
    assert about["metadata"][1]["alt_text"] == "a" and about["general_metadata"] == {"url": "https://example.org/page"}


def test_pictures_in_a_folder_and_in_the_file(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / hashlib.sha256(URL.encode()).hexdigest()).write_bytes(corpora.png(5))
    (kept / "b.png").write_bytes(corpora.png(6))
    found = documents(tmp_path, {"images": [URL, "b.png"], "texts": [None, None]}, pictures=kept)
    assert [corpora.shade(picture) for picture in found[0].pictures] == [5, 6]
    assert found[0].pictures[0].name == URL
    (tmp_path / "b.png").write_bytes(corpora.png(7))
    beside = documents(tmp_path, {"images": ["b.png", None], "texts": [None, "x"]})
    assert corpora.shade(beside[0].pictures[0]) == 7
    inside = documents(tmp_path, {"images": [{"bytes": corpora.png(8), "path": "x.png"}, None], "texts": [None, "x"]})
    assert corpora.shade(inside[0].pictures[0]) == 8


def test_a_url_is_not_fetched_and_a_missing_file_is_named(tmp_path):
    plain = documents(tmp_path, {"images": [URL], "texts": [None]})
    with pytest.raises(ValueError, match=rf"{URL}: pictures are not fetched"):
        corpora.shade(plain[0].pictures[0])
    kept = documents(tmp_path, {"images": [URL], "texts": [None]}, pictures=tmp_path)
    with pytest.raises(ValueError, match=rf"{URL}: no such picture"):
        corpora.shade(kept[0].pictures[0])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"images": [URL, None], "texts": [None]}, "`images` has 2 places and `texts` 1"),
        ({"images": [URL], "texts": ["a"]}, "place 0 holds both"),
        ({"images": [URL, None], "texts": [None, None]}, "place 1 holds nothing"),
        ({"images": [None], "texts": ["  "]}, "the document is empty"),
        ({"images": [], "texts": []}, "the document is empty"),
        ({"images": [" "], "texts": [None]}, "picture 0 should be"),
        ({"images": None, "texts": ["a"]}, "'images' should be a list"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, told):
    found = documents(tmp_path, {"images": [URL], "texts": [None]}, row)
    with pytest.raises(ValueError) as error:
        found[1]
    assert "train-0.parquet, row 1: " in str(error.value) and told in str(error.value)


def test_metadata_that_cannot_be_read_is_named_and_samples_do_without(tmp_path):
    found = documents(tmp_path, {"images": [None], "texts": ["a"], "metadata": "[{"})
    assert found[0].messages[0].parts == ("a",)
    with pytest.raises(ValueError, match=r"train-0\.parquet, row 0: "):
        found.metadata(0)


def test_lines_in_the_same_layout(tmp_path):
    corpora.as_lines(
        tmp_path / "a.jsonl", [{"images": [None, URL], "texts": ["a", None]}, {"images": [], "texts": [3]}]
    )
    found = corpora.source("documents", path=tmp_path / "a.jsonl")
    assert found[0].messages[0].parts[0] == "a" and found[0].pictures[0].source == URL
    with pytest.raises(ValueError, match=r"a\.jsonl, row 1: "):
        found[1]
