"""A recipe is read whole or refused; what a run resolved it to can be read again."""

import pytest

from train import tiny
from vlmlab.train import recipe as recipes
from vlmlab.train.recipe import Score, Stage, Start


def test_the_resolved_recipe_is_the_recipe(tmp_path):
    resolved = recipes.load(tiny.recipe(tmp_path), ["stage.steps=9", "model.language.window=none"])
    assert resolved.stage.steps == 9 and resolved.data.count == 24 and resolved.model.language.window is None
    again = tmp_path / "again.toml"
    again.write_text(resolved.text(), encoding="utf-8")
    assert recipes.load(again) == resolved
    assert "decay_factors" in resolved.text() and 'window = "none"' in resolved.text()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stage.stps=9", "unknown key 'stage.stps'; did you mean 'steps'"),
        ("stage.steps=many", "stage.steps should be a whole number, not 'many'"),
        ("stage.steps=0", "stage: steps must be 1 or more"),
        ("stage.train=['eyes']", "train names 'eyes', which is no part"),
        ("stage.train=[]", "train names no part"),
        ("stage.lr_factors.head=2", "lr_factors names 'head'"),
        ("stage.lr=-1", "lr must not be negative"),
        ("stage.schedule=cosin", "stage.schedule = 'cosin' is not one of"),
        ("data.name=emojit", "no sources plug-in called 'emojit'"),
        ("start.model=somewhere", "`tokenizer` is for random weights"),
        ("seed=-1", "seed must be between"),
        ("score.candidates=1", "candidates must be 2 or more"),
        ("sed=1", "unknown key 'sed'; did you mean 'seed'"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path, override, told):
    path = tiny.recipe(tmp_path)
    with pytest.raises(ValueError) as error:
        recipes.load(path, [override])
    assert told in str(error.value) and "tiny.toml" in str(error.value)


def test_what_is_missing_is_named(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text('[data]\nname = "train.tiny"\n')
    with pytest.raises(ValueError, match="missing key 'stage'"):
        recipes.load(path)
    path.write_text('[data]\nname = "train.tiny"\n[stage]\nsteps = 3\n')
    with pytest.raises(ValueError, match=r"\[model\] is missing"):
        recipes.load(path)
    path.write_text('[data]\nname = "train.tiny"\n[stage]\nsteps = 3\n[start]\nmodel = "x"\n')
    assert recipes.load(path).start == Start(model="x")


def test_defaults_are_whole():
    assert Stage(steps=1).train == ("connector",) and Score().candidates == 10
