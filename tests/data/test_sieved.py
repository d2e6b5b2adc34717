"""Drops that were listed are left out, whichever list they are on."""

import json

import pytest

from data import corpora
from vlmlab.data import sieve
from vlmlab.data.sieve import Drop, Sieved


def drops(folder, gone, total):
    kept = tuple(index for index in range(total) if index not in gone)
    Sieved(kept, tuple(Drop(index, "opt_out", "domain", "x") for index in gone)).save(folder, {"made_by": "a test"})
    return str(folder)


def build(tmp_path, *folders):
    lines = corpora.as_lines(tmp_path / "s.jsonl", [{"text": f"line {number}"} for number in range(6)])
    return corpora.source("sieved", data={"name": "jsonl", "path": str(lines)}, drops=list(folders))


def said(source):
    return [source[index].messages[0].parts[0] for index in range(len(source))]


def test_what_any_list_drops_is_left_out(tmp_path):
    first, later = drops(tmp_path / "a", [0, 4], 6), drops(tmp_path / "b", [4, 5], 6)
    assert said(build(tmp_path, first)) == ["line 1", "line 2", "line 3", "line 5"]
    source = build(tmp_path, first, later)
    assert said(source) == ["line 1", "line 2", "line 3"]
    with pytest.raises(IndexError):
        source[3]
    told = json.loads((tmp_path / "b" / sieve.FACTS).read_text())
    assert told == {"made_by": "a test", "samples": 6, "kept": 4, "dropped": {"opt_out: domain": 2}}


def test_a_list_of_another_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is of a source of 9 samples, this one has 6"):
        build(tmp_path, drops(tmp_path / "a", [], 9))
    with pytest.raises(ValueError, match="is no folder that vlmlab data filter wrote"):
        build(tmp_path, str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="drops is empty"):
        build(tmp_path)


def test_what_is_held_out_is_whole(tmp_path):
    for split, count in (("train", 6), ("test", 3)):
        corpora.as_lines(tmp_path / f"{split}.jsonl", [{"text": f"{split} {number}"} for number in range(count)])
    data = {"name": "jsonl", "path": str(tmp_path / "{split}.jsonl")}
    folders = [drops(tmp_path / "a", [0, 4], 6)]
    assert len(corpora.source("sieved", data=data, drops=folders)) == 4
    assert said(corpora.source("sieved", data=data, drops=folders, split="test")) == ["test 0", "test 1", "test 2"]
