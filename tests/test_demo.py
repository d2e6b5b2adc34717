"""The demo's story on a tiny recipe: what it leaves, that it goes on when it was stopped, and starts over when done."""

import json
import re

import pytest

from train import tiny
from vlmlab import demo
from vlmlab.train import checkpoint, run
from vlmlab.train.log import read_metrics
from vlmlab.train.loop import Interrupted


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    path = tiny.recipe(tmp_path)
    monkeypatch.setattr(demo, "RECIPE", path)
    monkeypatch.setattr(run, "device", lambda: "cpu")
    return path


def test_a_demo_leaves_everything(recipe, tmp_path, capsys):
    out = tmp_path / "runs" / "demo"
    demo.demo(out)
    told = capsys.readouterr().out
    assert re.findall(r"^(\d)/6  ", told, re.MULTILINE) == list("123456")
    assert "connector" in told and "right title" in told and "Done in" in told
    assert {path.name for path in out.iterdir()} == {
        "answers.html",
        "answers.json",
        "checkpoints",
        "loss.svg",
        "metrics.jsonl",
        "model",
        "recipe.toml",
        "samples.html",
        "scores.json",
    }
    scores = json.loads((out / "scores.json").read_text())
    assert scores["before"]["pictures"] == scores["after"]["pictures"] == 24
    assert "choices" not in scores["before"] or scores["before"]["choices"] == []
    assert len(scores["after"]["choices"]) == 24
    answers = json.loads((out / "answers.json").read_text())["answers"]
    assert len(answers) == 12
    for answer in answers:
        assert answer["right"] == (answer["chosen"] == answer["title"]) and len(answer["probabilities"]) == 10
    page = (out / "answers.html").read_text()
    assert page.count('<section class="card"><img src="data:image/png') == 12
    assert 'src="http' not in page and json.loads((out / "answers.json").read_text())["made_by"]["recipe"] in page
    watched = [r for r in read_metrics(out) if r["kind"] == "score"]
    assert [r["step"] for r in watched] == [0, 2, 4]


def test_a_second_demo_starts_over(recipe, tmp_path, capsys):
    out = tmp_path / "demo"
    demo.demo(out)
    (out / "mine.txt").write_text("kept")
    first = (out / "scores.json").read_text()
    demo.demo(out)
    assert "There was one before: starting over." in capsys.readouterr().out
    steps = [r["step"] for r in read_metrics(out) if r["kind"] == "step"]
    assert steps == [1, 2, 3, 4] and (out / "mine.txt").exists()
    again = json.loads((out / "scores.json").read_text())
    assert again["after"] == json.loads(first)["after"]


def test_a_stopped_demo_goes_on(recipe, tmp_path, capsys, monkeypatch):
    out, fit = tmp_path / "demo", run.fit

    def stopped(model, feed, ledger, stage, seed, folder, origin, watch, every, found, team):
        def stop():
            if (checkpoint.latest(folder) or checkpoint.Checkpoint(folder, 0)).step == 2:
                raise Interrupted(2, stage.steps, folder, 2)
            return {}

        return fit(model, feed, ledger, stage, seed, folder, origin, stop, 2, found, team)

    monkeypatch.setattr(run, "fit", stopped)
    with pytest.raises(Interrupted):
        demo.demo(out)
    before = json.loads((out / "scores.json").read_text())["before"]
    monkeypatch.setattr(run, "fit", fit)
    demo.demo(out)
    assert "One was stopped there after step 2: it goes on." in capsys.readouterr().out
    assert json.loads((out / "scores.json").read_text())["before"] == before
    monkeypatch.setattr(run, "fit", stopped)
    with pytest.raises(Interrupted):
        demo.demo(out)
    monkeypatch.setattr(run, "fit", fit)
    demo.demo(out, ["stage.lr=0.5"])
    assert "of another recipe: starting over" in capsys.readouterr().out
    with pytest.raises(Interrupted):
        monkeypatch.setattr(run, "fit", stopped)
        demo.demo(out)
    monkeypatch.setattr(run, "fit", fit)
    demo.demo(out, fresh=True)
    assert "There was one before: starting over." in capsys.readouterr().out


def test_a_score_needs_titles(tmp_path):
    lines = tmp_path / "data.jsonl"
    lines.write_text('{"text": "a document"}\n')
    path = tiny.recipe(tmp_path)
    from vlmlab.train import recipe as recipes

    loaded = recipes.load(path, ["data.name=jsonl", f"data.path={lines}", "stage.learn=everything"])
    with pytest.raises(ValueError, match=r"\[score\] needs a source of titled pictures; 'jsonl' is none"):
        demo.train(loaded, tmp_path / "run", False, "cpu")


def test_the_recipe_of_the_demo_is_in_the_repository():
    assert demo.RECIPE.name == "demo.toml" and demo.RECIPE.is_file()
