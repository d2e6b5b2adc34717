"""What a run is scored on: the titles of held-out pictures of each of its sources that has any."""

import json
import re

import pytest
import torch

from train import tiny
from vlmlab import component, demo
from vlmlab.batch import IGNORE, Message, Sample
from vlmlab.evaluate import ten_way
from vlmlab.evaluate.held_out import held_out, titled, watch
from vlmlab.train import recipe as recipes
from vlmlab.train import run
from vlmlab.train.log import read_metrics

SOURCES = {
    "squares": {"weight": 2, "data": {"name": "train.tiny"}},
    "more": {"weight": 1, "learn": "everything", "data": {"name": "train.tiny", "count": 36}},
    "none": {"weight": 0, "data": {"name": "train.tiny"}},
}


def mixed(folder, own=SOURCES, **score):
    """A recipe on two sources of squares, and one of lines without pictures."""
    (folder / "lines.jsonl").write_text('{"text": "a document"}\n' * 9, encoding="utf-8")
    path = tiny.recipe(folder)
    data = component.read_toml(path)
    lines = {"learn": "everything", "data": {"name": "jsonl", "path": str(folder / "lines.jsonl")}}
    data["data"] = {"name": "mixture", "sources": {**own, "lines": lines}}
    data["score"] |= score
    path.write_text(component.write_toml(data), encoding="utf-8")
    return recipes.load(path)


def test_a_mixture_is_scored_by_source(tmp_path, capsys):
    recipe, out = mixed(tmp_path), tmp_path / "run"
    demo.train(recipe, out, False, "cpu")
    scores = [r for r in read_metrics(out) if r["kind"] == "score"]
    assert [r["step"] for r in scores] == [0, 2, 4]
    for record in scores:
        for key in ten_way.LOSSES:
            found = record[f"{key}_by_source"]
            assert list(found) == ["squares", "more"]
            assert record[key] == pytest.approx(sum(found.values()) / 2, abs=1e-6)
    after = json.loads((out / "scores.json").read_text())["after"]
    assert {name: told["pictures"] for name, told in after.items()} == {"squares": 24, "more": 36}
    told = capsys.readouterr().out
    assert told.index("squares") < told.index("more") and "held-out pictures" in told


def test_titles_are_scored_whatever_is_learned(tmp_path):
    """Of two sources of the same pictures, one learned whole, the same is measured, as if each were alone."""
    alike = {**SOURCES, "more": {**SOURCES["more"], "data": {"name": "train.tiny"}}}
    made = run.build(mixed(tmp_path, alike))
    found = held_out(made)
    assert list(found) == ["squares", "more"] and len(found["more"].samples) == 24
    assert found["more"].samples.source.split == "test" and found["more"].others.source.split == "train"
    both = watch(made)()
    assert both["right_by_source"]["squares"] == both["right_by_source"]["more"] == both["right"]
    alone = recipes.load(tiny.recipe(tmp_path))
    assert watch(run.build(alone))() == {key: both[key] for key in ten_way.LOSSES}


def test_the_title_of_a_plain_document_is_what_stands_behind_its_picture(tmp_path):
    made = run.build(mixed(tmp_path))
    picture = tiny.Colours().pair(0).picture
    prepared = held_out(made)["squares"].samples.process(Sample((Message("text", ("Here:", picture, "colour 0")),)))
    plain = made.processor([Sample((Message("text", ("Here:", picture, "colour 0")),))], learn="everything")
    assert torch.equal(prepared.tokens, plain.tokens)
    learned = prepared.targets[prepared.targets != IGNORE].tolist()
    assert made.processor.tokenizer.decode(learned) == "colour 0"
    asked = made.source[0]
    assert titled(asked) is asked


def test_sources_can_be_chosen(tmp_path):
    assert list(held_out(run.build(mixed(tmp_path, sources=["more"])))) == ["more"]


def test_what_has_no_titles_is_not_scored(tmp_path):
    both = mixed(tmp_path, {"other": {"data": {"name": "jsonl", "path": str(tmp_path / "lines.jsonl")}}})
    with pytest.raises(
        ValueError, match="needs a source of titled pictures; of 'other', 'lines' none is: leave it out"
    ):
        held_out(run.build(both))
    with pytest.raises(ValueError, match=r"score\.sources names 'lines'; .* here: squares, more"):
        held_out(run.build(mixed(tmp_path, sources=["lines"])))


def test_samples_are_shown_as_they_are_learned(tmp_path):
    """On the page of a mixture each source has its share, and what is learned is marked as its own says."""
    page = tmp_path / "page.html"
    assert demo.look(mixed(tmp_path), 5, page) == 5
    cards = [card.partition("</section>")[0] for card in page.read_text().split('<section class="card">')[1:]]
    assert [re.search(r"<h2>(\w+), sample", card)[1] for card in cards] == ["squares", "more", "more", "lines", "lines"]
    learned = [int(re.search(r"(\d+) learned", card)[1]) for card in cards]
    assert 0 < learned[0] < learned[1]
