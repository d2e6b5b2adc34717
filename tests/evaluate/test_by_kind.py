"""Scores by kind: right answers counted as right, reading by its edits, and baselines that are really asked blind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmlab.batch import Picture
from vlmlab.data.sources import arithmetic, emoji, jsonl, scenes, typeset
from vlmlab.evaluate import by_kind
from vlmlab.evaluate.by_kind import Asked, Score, plain
from vlmlab.evaluate.edits import edits


def perfect(asked: list[Asked]):
    """A model that knows every answer when it sees the picture, and says "no" when it does not."""
    known = {(one.picture.name, one.text): one.answer for one in asked}

    def generate(samples):
        said = []
        for sample in samples:
            parts = sample.messages[0].parts
            said.append(known[parts[0].name, parts[1]] if isinstance(parts[0], Picture) else "No.")
        return said

    return generate


def scored(asked: list[Asked], learned: list[Asked]) -> list[Score]:
    return by_kind.scores(by_kind.answer(asked, perfect(asked), by_kind.frequent(learned)), resamples=200)


def test_a_model_that_sees_everything_beats_both_baselines() -> None:
    source, before = (scenes.Config(split=split, samples=60).build() for split in ("test", "train"))
    asked, learned = by_kind.questions("scenes", source, 60), by_kind.questions("scenes", before, 60)
    found = {score.kind: score for score in scored(asked, learned)}
    assert {one.kind for one in asked} == found.keys() and len(found) >= 5
    for score in found.values():
        assert score.model.value == 1 and score.clear
        assert 0 < score.gain.value < 1 or max(score.blind.value, score.frequent.value) == 0
    share = sum(one.answer == "no" for one in asked if one.kind == "existence")
    assert found["existence"].blind.value == pytest.approx(share / found["existence"].questions)


def test_reading_is_scored_by_its_letters() -> None:
    source = typeset.Config(split="test", samples=20, words=1, fonts="own").build()
    asked = by_kind.questions("typeset", source, 20)
    (score,) = scored(asked, asked)
    assert score.kind == "reading" and score.model.value == 0 and score.blind.value > 0.5 and score.clear
    total = sum(len(plain(one.answer)) for one in asked)
    assert score.blind.value == pytest.approx(sum(edits("no", plain(one.answer)) for one in asked) / total)


def test_titled_pictures_and_sums_are_asked_alone() -> None:
    titles = by_kind.questions("emoji", emoji.Config(split="test").build(), 5)
    assert {one.kind for one in titles} == {by_kind.TITLE} and all(one.answer and one.picture for one in titles)
    sums = by_kind.questions("sums", arithmetic.Config(split="test", samples=5).build(), 30)
    assert [one.picture_number for one in sums] == [0, 1, 2, 3, 4]
    (read,) = by_kind.questions("lines", emoji.Config(split="test").build(), 1, "reading")
    assert read.kind == "reading"


def test_an_article_does_not_make_a_title_wrong() -> None:
    picture = Picture(b"", "p")
    for kind, right in ((by_kind.TITLE, 1.0), ("colour", 0.0)):
        (score,) = by_kind.scores(
            by_kind.answer([Asked("s", kind, 0, picture, "?", "A red kite.")], lambda s: ["Red kite"] * len(s), {})
        )
        assert score.model.value == right
    assert by_kind.without_article("A.") == "a" and by_kind.without_article("the an") == "an"


def test_without_a_picture_the_same_question_is_asked_once() -> None:
    asked_for: list[int] = []

    def generate(samples):
        asked_for.append(len(samples))
        return [f"{len(asked_for)} {number}" for number in range(len(samples))]

    asked = [Asked("s", "k", n, Picture(b"", "p"), "ab"[n % 2], "x") for n in range(6)]
    answered = by_kind.answer(asked, generate, {})
    assert asked_for == [6, 2] and [one.blind for one in answered] == ["2 0", "2 1"] * 3


def test_the_most_frequent_answer_is_that_of_training() -> None:
    picture = Picture(b"", "p")
    learned = [Asked("s", "k", n, picture, "?", said) for n, said in enumerate(["red", "blue", "blue"])]
    assert by_kind.frequent(learned) == {("s", "k"): "blue"}
    (only,) = by_kind.answer([Asked("s", "other", 0, picture, "?", "x")], lambda some: ["x"] * len(some), {})
    assert only.frequent == ""


def test_how_often_it_says_yes_where_the_truth_is_no() -> None:
    picture = Picture(b"", "p")
    asked = [Asked("s", "k", n, picture, "?", truth) for n, truth in enumerate(["no", "no", "no", "yes"])]
    said = ["Yes.", "no", "yes", "yes"]
    answered = by_kind.answer(asked, lambda some: said[: len(some)], {})
    assert by_kind.yes_when_no(answered, resamples=100).value == pytest.approx(2 / 3)
    assert by_kind.yes_when_no(answered[3:]) is None


def test_a_source_without_kinds_is_refused(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="mine: its questions have no kind"):
        by_kind.questions("mine", jsonl.Config(path=str(path)).build(), 1)


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edits_are_a_distance(one: str, other: str, third: str) -> None:
    assert edits(one, other) == edits(other, one) and (edits(one, other) == 0) == (one == other)
    assert edits(one, third) <= edits(one, other) + edits(other, third)
    assert abs(len(one) - len(other)) <= edits(one, other) <= max(len(one), len(other))


def test_edits_of_a_known_pair() -> None:
    assert edits("kitten", "sitting") == 3 and edits("", "abc") == 3
