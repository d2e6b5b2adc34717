"""A recipe with a mixture, from its file to a trained model, and on from where it stopped."""

import pytest

from train import tiny
from vlmlab import component
from vlmlab.train import checkpoint, run
from vlmlab.train import recipe as recipes
from vlmlab.train.log import TIMED, read_metrics
from vlmlab.train.origin import Origin
from vlmlab.train.recipe import Stage

SOURCES = {
    "squares": {"weight": 3, "data": {"name": "train.tiny"}},
    "sums": {
        "weight": 1,
        "tokens": 64,
        "overlong": "split",
        "augment": {"upscale": 0.5, "split": 0.5},
        "data": {"name": "arithmetic", "samples": 50},
    },
}


@pytest.fixture
def recipe(tmp_path):
    path = tiny.recipe(tmp_path, stage={"schedule": "constant", "workers": 2, "noise": 1.0, "tokens": 200})
    data = component.read_toml(path)
    del data["score"]
    data["data"] = {"name": "mixture", "unit": "answers", "probe": 4, "sources": SOURCES}
    path.write_text(component.write_toml(data), encoding="utf-8")
    return path


def train(path, folder, *overrides, resume=False):
    recipe = recipes.load(path, overrides)
    run.begin(folder, recipe, resume)
    made = run.build(recipe)
    run.train(made, folder, Origin.now(recipe.text(), recipe.seed), resume)
    return made


def told(folder):
    return [
        {k: v for k, v in r.items() if k not in TIMED}
        for r in read_metrics(folder)
        if r["kind"] not in ("run", "score")
    ]


def test_a_mixture_by_answer_tokens_is_measured_once_and_goes_on(recipe, tmp_path, monkeypatch):
    whole = train(recipe, tmp_path / "whole")
    first, *rest = told(tmp_path / "whole")
    assert first["kind"] == "probe" and first["means"].keys() == SOURCES.keys() and first["unit"] == "answers"
    amounts = {name: first["shares_of_samples"][name] * first["means"][name]["answers"] for name in SOURCES}
    assert amounts["squares"] / sum(amounts.values()) == pytest.approx(0.75, abs=0.01)
    assert {r["kind"] for r in rest} >= {"step", "mixture"}

    monkeypatch.setattr(run, "fit", stopping_after(2, run.fit))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "halves")
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path / "halves").step == 2
    monkeypatch.setattr(run, "measured", None)  # a second look would fail
    resumed = train(recipe, tmp_path / "halves", resume=True)
    assert told(tmp_path / "halves") == told(tmp_path / "whole")
    others = dict(resumed.model.named_parameters())
    assert all((others[name] == value).all() for name, value in whole.model.named_parameters())


def stopping_after(step, fit):
    def stopped(model, feed, ledger, stage, seed, folder, origin, watch, every, found, team):
        def stop():
            if checkpoint.latest(folder) is not None and checkpoint.latest(folder).step == step:
                raise KeyboardInterrupt
            return {}

        return fit(model, feed, ledger, stage, seed, folder, origin, stop, 1, found, team)

    return stopped


def test_the_number_of_workers_changes_nothing(recipe, tmp_path):
    for workers in (0, 1):
        train(recipe, tmp_path / str(workers), f"stage.workers={workers}", "stage.steps=2")
    assert told(tmp_path / "0") == told(tmp_path / "1")


def test_windows_divide_a_step():
    assert [Stage(steps=1, batch=batch).together for batch in (1, 16, 128, 2048, 200)] == [1, 16, 128, 128, 100]
    assert Stage(steps=1, batch=2048, window=512).together == 512
    with pytest.raises(ValueError, match="batch = 10 is not made of whole windows of 4"):
        Stage(steps=1, batch=10, window=4)
    with pytest.raises(ValueError, match="broken must not be negative"):
        Stage(steps=1, broken=-0.1)
