"""The embedded corpus: whole, in its own words, and held out by title and by picture."""

import hashlib
import importlib.resources
import io

import PIL.Image
import pytest

from vlmlab.batch import Picture
from vlmlab.data.sources import emoji


def source(split: str, **changes) -> emoji.Emoji:
    return emoji.Emoji(emoji.Config(split=split, **changes))


def test_counts_and_size():
    assert [len(source(split)) for split in ("train", "validation", "test")] == [3499, 141, 352]
    folder = importlib.resources.files("vlmlab.data.corpora").joinpath("emoji")
    sizes = [len(folder.joinpath(name).read_bytes()) for name in ("pictures.zip", "pairs.jsonl")]
    assert sum(sizes) <= 12_000_000
    assert "Apache-2.0" in folder.joinpath("PROVENANCE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_picture_is_the_one_that_its_record_names(split):
    pictures = source(split)
    for index, record in enumerate(pictures.records):
        data = pictures.pair(index).picture.source
        assert hashlib.sha256(data).hexdigest() == record["sha256"]
        assert record["licence"] in ("Apache-2.0", "MIT", "CC-BY-4.0")
        if index % 50 == 0:
            assert PIL.Image.open(io.BytesIO(data)).size == (record["width"], record["height"])


def test_no_held_out_title_or_group_is_trained_on():
    train = source("train").records
    words = {frozenset(map(emoji.folded, r["title"].split())) for r in train}
    groups, heads = {r["group"] for r in train}, {r["head"] for r in train}
    for record in source("test").records + source("validation").records:
        assert frozenset(map(emoji.folded, record["title"].split())) not in words, record["title"]
        assert record["group"] not in groups
        assert record["head"] in heads


def test_pictures_of_some_licences():
    free = source("train", licences=("Apache-2.0", "MIT"))
    assert (len(free), {r["author"] for r in free.records}) == (2316, {"Google", "Microsoft"})
    assert len(free) + len(source("train", licences=("CC-BY-4.0",))) == len(source("train"))
    with pytest.raises(ValueError, match="licences is empty"):
        emoji.Config(licences=())


def test_a_sample_as_a_conversation_and_as_a_document():
    chat, document = source("test")[3], source("test", chat=False, question="Title:")[3]
    assert [m.role for m in chat.messages] == ["user", "assistant"]
    assert [m.role for m in document.messages] == ["text", "continuation"]
    assert document.messages[1].parts == (" " + chat.messages[1].parts[0],)
    assert isinstance(document.messages[0].parts[0], Picture) and document.messages[0].parts[1] == "Title:"


def test_past_the_end():
    with pytest.raises(IndexError):
        source("test").pair(352)
