"""The Cauldron in its published layout, each of its 50 subsets by name."""

import pytest

from data import corpora
from vlmlab.batch import Picture
from vlmlab.data import sft_mixture

SUBSETS = [entry.subset for entry in sft_mixture.table() if entry.subset]


def image(shade):
    return {"bytes": corpora.png(shade), "path": None}


def turn(user, assistant):
    return {"user": user, "assistant": assistant, "source": "X"}


def subset(folder, *rows, name="ai2d"):
    corpora.parquet(folder / name / "train-00000-of-00001-0123456789abcdef.parquet", rows)
    return corpora.source("cauldron", path=folder, subset=name)


def test_a_row_is_one_conversation_with_its_pictures_first(tmp_path):
    row = {
        "images": [image(3), image(9)],
        "texts": [turn("Which is lighter?\n", " The second."), turn("Sure?", "Yes.")],
    }
    sample = subset(tmp_path, row)[0]
    assert [message.role for message in sample.messages] == ["user", "assistant", "user", "assistant"]
    first = sample.messages[0].parts
    assert [type(part) for part in first] == [Picture, Picture, str] and first[2] == "Which is lighter?"
    assert [message.parts for message in sample.messages[1:]] == [("The second.",), ("Sure?",), ("Yes.",)]
    assert [corpora.shade(picture) for picture in sample.pictures] == [3, 9]
    assert "row 0, picture 1" in sample.pictures[1].name


@pytest.mark.parametrize("name", SUBSETS)
def test_every_subset_is_found_by_its_name(tmp_path, name):
    rows = [{"images": [image(at)], "texts": [turn(f"{name} {at}?", str(at))]} for at in range(3)]
    found = subset(tmp_path, *rows, name=name)
    assert len(found) == 3
    assert [found[at].messages[1].parts for at in (2, 0)] == [("2",), ("0",)]
    assert corpora.shade(found[1].pictures[0]) == 1


def test_shards_follow_each_other_and_other_splits_are_left_out(tmp_path):
    for shard, answer in [("train-00001-of-00002", "b"), ("train-00000-of-00002", "a"), ("test-00000-of-00001", "c")]:
        corpora.parquet(tmp_path / "vqav2" / f"{shard}.parquet", [{"images": [], "texts": [turn("?", answer)]}])
    found = corpora.source("cauldron", path=tmp_path, subset="vqav2")
    assert [found[at].messages[1].parts[0] for at in range(len(found))] == ["a", "b"]


def test_a_wrong_name_is_told_the_nearest_right_one(tmp_path):
    with pytest.raises(ValueError, match="no subset 'chart_qa'; did you mean 'chartqa'"):
        corpora.source("cauldron", path=tmp_path, subset="chart_qa")
    with pytest.raises(ValueError, match="they are ai2d, aokvqa"):
        corpora.source("cauldron", path=tmp_path, subset="zzz")
    with pytest.raises(ValueError, match=r"no file is called .*ai2d.train-\*\.parquet"):
        corpora.source("cauldron", path=tmp_path, subset="ai2d")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"images": [image(1)], "texts": []}, "no questions"),
        ({"images": [image(1)], "texts": [turn("a", " ")]}, "turn 0 of `texts` should have text as its 'assistant'"),
        ({"images": [image(1)], "texts": [turn("a", "b"), turn(None, "b")]}, "turn 1 of `texts`"),
        ({"images": [{"bytes": None, "path": None}], "texts": [turn("a", "b")]}, "picture 0 should be bytes"),
        ({"images": None, "texts": [turn("a", "b")]}, "'images' should be a list"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, told):
    whole = {"images": [image(1)], "texts": [turn("a", "b")]}
    found = subset(tmp_path, whole, row)
    with pytest.raises(ValueError) as error:
        found[1]
    assert "cdef.parquet, row 1: " in str(error.value) and told in str(error.value)
    assert found[0].messages


def test_a_damaged_picture_is_named_when_it_is_opened(tmp_path):
    row = {"images": [image(1), {"bytes": b"no picture", "path": None}], "texts": [turn("a", "b")]}
    sample = subset(tmp_path, row)[0]
    with pytest.raises(ValueError, match=r"cdef\.parquet, row 0, picture 1: not a picture"):
        corpora.shade(sample.pictures[1])
