"""Verdicts on planted effects: what is there is found, what is not there is not, and what is too small is said so."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlab.study.decide import Table, judge, spread, student, together
from vlmlab.study.plan import Claim

PICTURES = list(range(300)) * 4


def planted(effect: float, seeds: int = 3, wobble: float = 0.0, seed: int = 0, base: float = 0.5) -> Table:
    """Right answers of `seeds` runs: each with the chance `base` plus the effect, and the wobble of its seed."""
    generator = np.random.default_rng(seed)
    chances = base + effect + wobble * generator.standard_normal(seeds)
    difficulty = np.random.default_rng(99).random(len(PICTURES))  # the same questions are hard for every arm
    right = [difficulty < chance for chance in chances]
    noise = generator.random((seeds, len(PICTURES))) < 0.1
    guessed = generator.random((seeds, len(PICTURES))) < 0.5
    return Table.of(np.where(noise, guessed, right).astype(float).tolist(), PICTURES)


def verdict(kind: str, one: Table, other: Table, margin: float = 0.02):
    return judge(Claim("", kind, ("a", "b"), margin), {"a": one, "b": other}, {}).verdict


@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_a_large_effect_is_found_in_its_own_direction(seed):
    good, bad = planted(0.2, seed=seed), planted(0.0, seed=seed + 1)
    assert verdict("better", good, bad) == "supported"
    assert verdict("better", bad, good) == "not supported"
    assert verdict("alike", good, bad) == "not supported"


@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_one_arm_is_like_itself_and_no_better(seed):
    same = planted(0.0, seed=seed)
    assert verdict("alike", same, same) == "supported"
    assert verdict("better", same, same) == "not supported"


@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_seeds_that_disagree_tell_nothing(seed):
    generator = np.random.default_rng(seed)
    rough = np.array([0.1, -0.1, 0.03]) + 0.01 * generator.standard_normal(3)
    one = Table(np.repeat(rough[:, None] * 4, 300, 1), np.full(300, 4.0))
    other = Table(np.zeros((3, 300)), np.full(300, 4.0))
    assert verdict("better", one, other) == verdict("alike", one, other) == "cannot tell"


def test_the_interval_covers_what_is_planted_as_often_as_it_says():
    """Of wobbling seeds too, of which a plain bootstrap of three would cover 60 %."""
    for wobble in (0.0, 0.03):
        hits = 0
        for seed in range(120):
            found = spread(planted(0.1, 3, wobble, 2 * seed) - planted(0.0, 3, wobble, 2 * seed + 1), 300)
            hits += found.estimate.low <= 0.09 <= found.estimate.high  # a tenth of the answers are guesses
        assert hits >= 108, wobble


def test_seeds_alone_give_students_interval():
    values = np.array([0.2, 0.3, 0.4])
    table = Table(np.repeat(values[:, None], 50, 1), np.ones(50))
    found = spread(table, 20_000)
    student_half = 4.303 * 0.1 / 3**0.5
    assert found.of_pictures < 1e-12
    assert student_half * 0.95 < found.half < student_half * 1.3  # three draws are coarse, never too narrow
    assert found.estimate.value == pytest.approx(0.3)


def test_one_seed_has_the_interval_of_its_pictures():
    found = spread(planted(0.0, 1))
    plain = (0.25 * 0.8 / 1200) ** 0.5
    assert found.of_seed == 0
    assert 1.5 * plain < found.half < 3 * plain


def test_pictures_are_drawn_whole():
    """Ten questions that stand or fall together are one."""
    generator = np.random.default_rng(0)
    whole = np.repeat((generator.random(100) < 0.5).astype(float), 10)
    apart = (generator.random(1000) < 0.5).astype(float)
    places = np.repeat(np.arange(100), 10)
    together_, alone = (spread(Table.of([some.tolist()], places.tolist())).half for some in (whole, apart))
    assert together_ > 2.5 * alone


def test_what_it_would_take_shrinks_as_the_difference_grows():
    found = spread(planted(0.02, 3, 0.02, 5) - planted(0.0, 3, 0.02, 6))
    few, many = found.needed(0.2), found.needed(0.02)
    assert few[0] <= many[0]
    assert found.expected(many[0], found.questions) <= 0.02 < found.expected(many[0] - 1, found.questions)
    assert found.needed(0.0) == (None, None)
    assert found.smallest == pytest.approx(found.half * 2.802 / 1.96, rel=1e-3)


def test_a_verdict_that_cannot_be_told_says_what_would():
    rough = Table(np.repeat(np.array([[0.4], [-0.3], [0.05]]), 300, 1), np.full(300, 4.0))
    none = Table(np.zeros((3, 300)), np.full(300, 4.0))
    judged = judge(Claim("", "better", ("a", "b")), {"a": rough, "b": none}, {})
    assert judged.verdict == "cannot tell"
    assert "seeds of as many questions" in judged.why


def test_a_difference_of_differences():
    tables = {
        "a": planted(0.3, seed=1),
        "b": planted(0.0, seed=2),
        "c": planted(0.05, seed=3),
        "d": planted(0.0, seed=4),
    }
    claim = Claim("", "larger", ("a", "b", "c", "d"))
    assert judge(claim, tables, {}).verdict == "supported"
    assert judge(dataclasses.replace(claim, arms=("c", "d", "a", "b")), tables, {}).verdict == "not supported"


@pytest.mark.parametrize(
    ("first", "others", "wanted"),
    [
        ([True, True], [False, False], "supported"),
        ([False, False], [False, False], "not supported"),
        ([True, False], [False, False], "cannot tell"),
        ([True, True], [True, False], "cannot tell"),
        ([], [False], "cannot tell"),
    ],
)
def test_divergence(first, others, wanted):
    assert judge(Claim("", "diverges", ("a", "b")), {}, {"a": first, "b": others}).verdict == wanted


def test_an_arm_without_scores_leaves_it_open():
    judged = judge(Claim("", "better", ("a", "b")), {"a": planted(0.0)}, {})
    assert (judged.verdict, judged.why) == ("cannot tell", "b has no scores")


def test_other_questions_are_not_compared():
    with pytest.raises(ValueError, match="only be compared on the same questions"):
        planted(0.0) - Table.of([[1.0] * 4] * 3, [0, 1, 2, 3])


def test_a_card_is_as_strong_as_its_weakest_claim():
    yes, no, open_ = (
        dataclasses.replace(judge(Claim("", "diverges", ("a",)), {}, {"a": [True]}), verdict=verdict)
        for verdict in ("supported", "not supported", "cannot tell")
    )
    assert together([yes, yes]) == "supported"
    assert together([yes, open_]) == "cannot tell"
    assert together([yes, open_, no]) == "not supported"


def test_students_points():
    assert student(3) == 4.303
    assert student(12) == pytest.approx(2.201, abs=0.003)
    assert student(31) == pytest.approx(2.042, abs=0.003)
