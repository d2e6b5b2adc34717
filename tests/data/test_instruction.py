"""The instruction mixture from its folders: Table 14's shares, and sets that somebody does not have."""

import pytest

from data import corpora
from vlmlab.component import parse
from vlmlab.data.sft_mixture import table, text_sets
from vlmlab.data.sources import SourceConfig

TEXT = {name: f"{name}/*.jsonl" for name in text_sets()}


def config(**keys):
    told = {"name": "instruction", "cauldron": "the_cauldron", "text": TEXT, **keys}
    return parse(SourceConfig, told, "data")


def test_it_is_the_table_in_answer_tokens():
    augment = {"upscale": 0.7, "turns": True, "split": 0.5}
    mixture = config(augment=augment, tokens=512).mixture()
    assert mixture.unit == "answers" and len(mixture.sources) == 59
    weights = {name: each.weight for name, each in mixture.sources.items()}
    assert list(weights.values()) == [e.percent for e in table()]
    assert (weights["vqav2"], weights["robut_wtq"], weights["goat"]) == (5.72, 0.51, 0.86)
    assert {(e.tokens, e.kind, e.learn, e.overlong) for e in mixture.sources.values()} == {
        (512, "instruct", "answers", "drop")
    }
    assert all(each.augment.turns and each.augment.split == 0.5 for each in mixture.sources.values())
    assert (mixture.sources["goat"].data.set, mixture.sources["goat"].data.path) == ("goat", "goat/*.jsonl")
    assert mixture.sources["iam"].data.subset == "iam"


def test_sets_that_are_not_there_are_left_out(tmp_path):
    kept = {"iam", "dolly"}
    without = [e.subset for e in table() if e.subset and e.subset not in kept] + [n for n in TEXT if n not in kept]
    rows = [{"images": [{"bytes": corpora.png(1), "path": None}], "texts": [{"user": "Q?", "assistant": "A."}]}]
    corpora.parquet(tmp_path / "iam/train-0.parquet", rows)
    dolly = corpora.as_lines(tmp_path / "dolly.jsonl", [{"instruction": "Q?", "context": "", "response": "A."}] * 2)
    source = corpora.source("instruction", cauldron=tmp_path, text={"dolly": str(dolly)}, without=without)
    assert len(source) == 3 and source[0].pictures and not source[2].pictures
    assert {name: w * 142 for name, w in source.weights().items()} == {"iam": 74, "dolly": 68}


def test_wrong_names_are_named():
    with pytest.raises(ValueError, match=r"text\.goat is missing: give its file, or name it in `without`"):
        config(text={name: path for name, path in TEXT.items() if name != "goat"})
    with pytest.raises(ValueError, match=r"without names 'vqa2', which is no set of Table 14; they are vqav2, "):
        config(without=["vqa2"])
    with pytest.raises(ValueError, match=r"text names 'vqav2', .* they are openhermes, lima"):
        config(text={**TEXT, "vqav2": "x.json"})
