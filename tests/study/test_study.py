"""A whole study end to end; what is done is skipped, what was stopped goes on, unequal samples are found."""

import json
import shlex

import pytest

from house import tree
from study import small
from vlmlab import cli
from vlmlab.evaluate import suite
from vlmlab.study import one, page
from vlmlab.study import plan as plans
from vlmlab.study import study as studies
from vlmlab.train import recipe as recipes
from vlmlab.train import run
from vlmlab.train.loop import Interrupted
from vlmlab.writing import alone


def carry_out(path, folder, **changes):
    told = []
    card = studies.carry_out(plans.load(path), folder / "runs", folder / "cards", "cpu", told.append, **changes)
    return card, told


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    path = small.study(folder)
    return path, folder, *carry_out(path, folder)


def results(path, folder):
    return studies.collected(plans.load(path), folder / "runs")


def test_it_leaves_a_card_with_its_data_pictures_and_index(done):
    _, folder, card, told = done
    assert [line.split("  ")[1] for line in told if line[0].isdigit()] == [
        "two, seed 0",
        "three, seed 0",
        "two, seed 1",
        "three, seed 1",
    ]
    assert card.seeds == (0, 1) and card.questions >= 15
    text = (folder / "cards" / "latents.md").read_text(encoding="utf-8")
    for wanted in (
        "# Do more latents help?",
        "128 71.2",
        "| three are like two |",
        "`model.connector.latents` | 2 | 3 |",
    ):
        assert wanted in text
    held = json.loads((folder / "cards" / "latents.json").read_text(encoding="utf-8"))
    assert len(held["runs"]) == 4 and held["verdict"] == card.verdict
    assert all(len(run["answers"][run["arm"]]["right"]) == card.questions for run in held["runs"])
    for name in ("latents.svg", "latents-loss.svg"):
        assert (folder / "cards" / name).read_text(encoding="utf-8").startswith("<svg")
    index = (folder / "cards" / "index.md").read_text(encoding="utf-8")
    assert "[Do more latents help?](latents.md)" in index
    assert "[latents](latents.md): three are like two" in index.split("| 4. ")[1].splitlines()[0]


def test_a_card_of_few_questions_does_not_count(done):
    _, _, card, _ = done
    assert not card.counts and card.verdict == "cannot tell"
    assert "control failed" in card.why or "questions were asked, 1000 are needed" in card.why


def test_what_an_arm_costs(done):
    _, _, card, _ = done
    two, three = (row.cost for row in card.rows)
    assert three["trained"] == two["trained"] + 32
    assert three["flops"] > two["flops"] > 0 and three["memory"] > 0
    assert (two["visual_tokens"], three["visual_tokens"]) == (2, 3)


def test_arms_of_a_seed_are_given_the_same_samples_and_another_seed_others(done):
    path, folder, _, _ = done
    given = {run: found["samples"] for run, found in results(path, folder).items()}
    assert given["two", 0] == given["three", 0] != given["two", 1] == given["three", 1]


def test_what_is_done_is_not_done_again(done, monkeypatch):
    path, folder, card, _ = done
    monkeypatch.setattr(one, "carry_out", lambda *given: pytest.fail("it was done"))
    again, told = carry_out(path, folder)
    assert told == [] and again.rows == card.rows


def test_no_checkpoints_are_left_and_towers_look_once(done):
    _, folder, _, _ = done
    assert not list((folder / "runs").rglob("checkpoints"))
    files = list((folder / "runs" / one.GALLERY).rglob("*.safetensors"))
    assert len(files) <= 4 and len({file.parent for file in files}) == 2  # a random tower for each seed


def test_a_run_that_was_killed_goes_on_to_the_same_answers(done, tmp_path, monkeypatch):
    path, folder, _, _ = done
    fit = run.fit

    def stopping(model, feed, *given, **named):
        window, seen = feed.window, []

        def read(places):
            seen.append(places)
            if len(seen) > 3:
                raise KeyboardInterrupt
            return window(places)

        feed.window = read
        return fit(model, feed, *given, **named)

    monkeypatch.setattr(run, "fit", stopping)
    plan = plans.load(path)
    with pytest.raises(KeyboardInterrupt):
        one.carry_out(plan, "two", 0, tmp_path, "cpu")
    monkeypatch.setattr(run, "fit", fit)
    assert one.result(tmp_path, plan, "two", 0) is None
    assert one.spent(tmp_path, plan, "two", 0) > 0
    again = one.carry_out(plan, "two", 0, tmp_path, "cpu")
    before = results(path, folder)["two", 0]
    assert again["answers"] == before["answers"] and again["losses"] == before["losses"]


def test_a_run_is_held_while_it_is_at_work_fresh_or_not(done, tmp_path, monkeypatch):
    plan, train = plans.load(done[0]), run.train
    folder = one.folder_of(tmp_path, plan, "two", 0)
    tried = []

    def look(*given, **more):
        with pytest.raises(ValueError, match="another process is at work there"), alone(folder):
            pytest.fail("it was held twice")
        tried.append(folder)
        return train(*given, **more)

    monkeypatch.setattr(run, "train", look)
    one.carry_out(plan, "two", 0, tmp_path, "cpu")
    one.carry_out(plans.load(done[0], ("base.stage.lr=0.002",)), "two", 0, tmp_path, "cpu")
    assert tried == [folder, folder]


def test_a_changed_recipe_is_trained_anew(done, tmp_path):
    path, folder, _, _ = done
    other = plans.load(path, ("base.stage.lr=3e-3",))
    assert one.result(folder / "runs", other, "two", 0) is None
    assert one.result(folder / "runs", plans.load(path, ("evaluate.together=5",)), "two", 0) is None


@pytest.mark.parametrize(("key", "told"), [("samples", "the same samples"), ("count", "the same number of samples")])
def test_unequal_samples_are_found(done, key, told):
    path, folder, _, _ = done
    plan, found = plans.load(path), results(path, folder)
    found["two", 1] = {**found["two", 1], key: "other"}
    with pytest.raises(ValueError, match=f"seed 1: arms were not given {told}"):
        studies.check(plan, found)
    found["two", 1] = {**found["three", 1], "questions": "others"}
    with pytest.raises(ValueError, match="same questions"):
        studies.check(plan, found)


def test_arms_with_other_batches_are_refused(tmp_path):
    path = small.study(tmp_path, arms={"two": [], "three": ["stage.batch=2"]})
    with pytest.raises(ValueError, match="same samples"):
        carry_out(path, tmp_path)


def test_where_data_are_varied_only_their_number_is_compared(done):
    path, folder, _, _ = done
    plan, found = plans.load(path, ('shared="count"',)), results(path, folder)
    found["two", 1] = {**found["two", 1], "samples": "other"}
    studies.check(plan, found)


def test_it_stops_before_its_budget_is_exceeded(done, tmp_path, monkeypatch):
    path, folder, _, _ = done
    slow = {run: {**found, "spent": 50.0} for run, found in results(path, folder).items()}
    for (arm, seed), found in slow.items():
        if (arm, seed) != ("three", 1):
            place = one.folder_of(tmp_path / "runs", plans.load(path), arm, seed)
            place.mkdir(parents=True)
            (place / one.RESULT).write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setattr(one, "carry_out", lambda *given: pytest.fail("it was done"))
    plan = plans.load(path, ("budget=3",))
    told = []
    card = studies.carry_out(plan, tmp_path / "runs", tmp_path / "cards", "cpu", told.append)
    assert told == ["stopped before three, seed 1: 2.5 of 3 minutes are used, one more run takes about 50 s"]
    assert card.seeds == (0,) and not card.counts
    assert "The budget ended" in page.text(card)


def test_a_run_that_would_exceed_the_budget_is_stopped_and_saved(done, tmp_path):
    path, _, _, _ = done
    plan = plans.load(path, ("base.stage.steps=400", "base.stage.save_every=400"))
    with pytest.raises(one.OutOfTime):
        one.carry_out(plan, "two", 0, tmp_path, "cpu", 0.5)
    folder = one.folder_of(tmp_path, plan, "two", 0)
    assert list((folder / "checkpoints").glob("step-*"))


def test_a_loss_that_leaves_what_it_had_reached():
    falling = [4.0 - 0.02 * n for n in range(100)]
    assert one.rise(falling) == pytest.approx(0.0)
    assert one.rise([*falling[:60], *[6.0] * 40]) > 1
    assert one.rise([]) == one.rise([1.0]) == 0.0


def test_the_command(done, tmp_path, capsys):
    path, folder, card, _ = done
    words = ["study", str(path), "--runs", str(folder / "runs"), "--out", str(tmp_path / "cards"), "--device", "cpu"]
    assert cli.main(words) == 0
    assert f"latents.md: {card.verdict}" in capsys.readouterr().out
    assert cli.main([*words, "--commands"]) == 0
    first = f"vlmlab study {path} --runs {folder / 'runs'} --arm two --seed 0"
    assert capsys.readouterr().out.splitlines()[0] == first
    assert cli.main([*words, "base.stage.steps=3", "--commands"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first.replace(" --runs", " base.stage.steps=3 --runs")
    assert cli.main([*words, "--arm", "four"]) == 2
    assert "its arms: two, three" in capsys.readouterr().err


def test_it_can_be_interrupted(done, tmp_path, monkeypatch, capsys):
    path, _, _, _ = done

    def stop(*given):
        raise Interrupted(1, 4, tmp_path, 2)

    monkeypatch.setattr(one, "carry_out", stop)
    words = ["study", str(path), "--runs", str(tmp_path), "--out", str(tmp_path), "--device", "cpu"]
    assert cli.main(words) == 130
    assert "The same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["budget=0", "budget=-1", "budget=nan", "watch=-1"])
def test_a_budget_of_nothing_is_refused(done, change):
    with pytest.raises(ValueError, match="budget must be above 0 and watch 0 or more"):
        plans.load(done[0], (change,))


def test_the_commands_of_a_study_at_full_size_can_be_given():
    """What they ask for are benchmarks that there are; what changes every arm's recipe goes with them."""
    path = tree.ROOT / "studies" / "full" / "connectors.toml"
    overrides = ("base.stage.steps=3",)
    lines = studies.commands(plans.load(path, overrides), path, overrides, tree.ROOT / "runs")
    trained = [shlex.split(line) for line in lines if line.startswith("vlmlab train ")]
    asked = [shlex.split(line) for line in lines if line.startswith("vlmlab eval ")]
    assert len(trained) == len(asked) == 3
    for words, (_, _, model, *benchmarks) in zip(trained, asked, strict=True):
        recipe = recipes.load(words[2], words[3 : words.index("--out")])
        assert recipe.stage.steps == 3 and model.startswith(words[words.index("--out") + 1])
        assert {each.shots for each in suite.parse(benchmarks).values()} == {4}
