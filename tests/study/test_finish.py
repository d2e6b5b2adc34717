"""What is trained last: it goes on with each arm's model, counts as the run's, and can be stopped like the rest."""

import pytest

from study import small
from vlmlab.study import one, page
from vlmlab.study import plan as plans
from vlmlab.study import study as studies
from vlmlab.train import run

FINISH = ["data.seed=5", "stage.steps=3", "stage.lr=1e-2", "stage.schedule=constant", "stage.save_every=1"]


def load(folder, finish=FINISH, **changes):
    return plans.load(small.study(folder, finish=list(finish), **changes))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same run with and without what is trained last."""
    folder = tmp_path_factory.mktemp("finish")
    plain, finished = (load(folder, finish) for finish in ((), FINISH))
    made = [one.carry_out(plan, "two", 0, folder / str(at), "cpu") for at, plan in enumerate((plain, finished))]
    return folder, finished, *made


def test_it_goes_on_with_what_the_first_course_left(both):
    _, _, plain, finished = both
    assert len(plain["losses"]) == 4 and len(finished["losses"]) == 7
    assert finished["losses"][:4] == plain["losses"]
    assert finished["answers"]["two"]["losses"] != plain["answers"]["two"]["losses"]


def test_its_samples_time_and_operations_are_the_runs(both):
    folder, plan, plain, finished = both
    assert (plain["count"], finished["count"]) == (16, 28) and plain["samples"] != finished["samples"]
    assert finished["cost"]["flops"] == pytest.approx(plain["cost"]["flops"] * 7 / 4, rel=0.2)
    assert finished["identity"] != plain["identity"]
    assert one.result(folder / "1", plan, "two", 0) == finished
    assert not list((folder / "1").rglob("checkpoints"))
    place = one.folder_of(folder / "1", plan, "two", 0)
    steps = sum(record["seconds"] for record in one.read_metrics(place / one.LAST) if record["kind"] == "step")
    (place / one.RESULT).rename(folder / "moved.json")
    spent = one.spent(folder / "1", plan, "two", 0)
    (folder / "moved.json").rename(place / one.RESULT)
    assert spent > one.share() * steps > 0


def test_stopped_in_what_is_trained_last_it_goes_on_to_the_same_bits(both, tmp_path, monkeypatch):
    _, plan, _, finished = both
    fit, courses = run.fit, []

    def stopping(model, feed, *given, **named):
        courses.append(feed)
        window, seen = feed.window, []

        def read(places):
            seen.append(places)
            if len(courses) == 2 and len(seen) > 2:
                raise KeyboardInterrupt
            return window(places)

        feed.window = read
        return fit(model, feed, *given, **named)

    monkeypatch.setattr(run, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        one.carry_out(plan, "two", 0, tmp_path, "cpu")
    monkeypatch.setattr(run, "fit", fit)
    assert len(courses) == 2 and one.result(tmp_path, plan, "two", 0) is None
    again = one.carry_out(plan, "two", 0, tmp_path, "cpu")
    assert again["answers"] == finished["answers"] and again["losses"] == finished["losses"]


def test_the_card_says_both(tmp_path):
    plan = load(tmp_path, seeds=[0])
    card = studies.carry_out(plan, tmp_path / "runs", tmp_path / "cards", "cpu", lambda text: None)
    assert "seeds 0, 4 and then 3 steps of 4 samples" in page.text(card)


@pytest.mark.parametrize("change", ["model.connector.latents=5", "stage.train=['language']", "seed=4"])
def test_it_trains_the_same_parts_of_the_same_model(change, tmp_path):
    with pytest.raises(ValueError, match="finish changes the data and the course alone"):
        load(tmp_path, [change])


def test_full_size_and_small_have_their_own(tmp_path):
    with pytest.raises(ValueError, match=r"`finish` with \[evaluate\], and `follow` with \[benchmarks\]"):
        load(tmp_path, [], follow="recipe.toml")
