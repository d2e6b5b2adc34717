"""Figures of scores: intervals hold what they should, differences are symmetric, and n tells what it says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.questions import record
from vlmlab.evaluate.bootstrap import ratio
from vlmlab.evaluate.figures import TELLS, Clusters, difference, mean, spread, standard_error
from vlmlab.evaluate.metrics import Reference


def alone(count: int) -> Clusters:
    return Clusters(np.arange(count), np.ones(count))


def pictures(count: int, each: int) -> Clusters:
    """`count` pictures, each asked about so many times."""
    return Clusters(np.repeat(np.arange(count), each), np.ones(count * each))


def share(held: list[bool]) -> float:
    return sum(held) / len(held)


@pytest.mark.parametrize("discrete", [True, False])
def test_an_interval_holds_the_truth_as_often_as_it_says(discrete):
    generator = np.random.default_rng(0)
    held = []
    for seed in range(300):
        values = (generator.random(80) < 0.3) if discrete else generator.gamma(2.0, 1.5, 80)
        found = mean(values.astype(float).tolist(), alone(80), 500, seed)
        held.append(found.low <= (0.3 if discrete else 3.0) <= found.high)
    assert 0.90 <= share(held) <= 0.985


def test_questions_about_one_picture_are_not_counted_as_so_many_facts():
    """Five questions a picture that are right or wrong together: only the clustered interval holds the truth."""
    generator = np.random.default_rng(1)
    held, naive = [], []
    for seed in range(200):
        values = np.repeat(generator.random(60), 5) + generator.normal(0, 0.05, 300)
        both = mean(values.tolist(), pictures(60, 5), 400, seed), mean(values.tolist(), alone(300), 400, seed)
        held.append(both[0].low <= 0.5 <= both[0].high)
        naive.append(both[1].low <= 0.5 <= both[1].high)
    assert share(held) >= 0.90 and share(naive) <= 0.75


def test_both_ways_to_draw_are_one():
    """The same scores, once few distinct ones and once with noise too small to matter, and the plain bootstrap."""
    generator = np.random.default_rng(2)
    values = generator.integers(0, 4, 300) / 3
    noisy = (values + generator.random(300) * 1e-9).tolist()
    few, many, plain = mean(values.tolist(), alone(300)), mean(noisy, alone(300)), ratio(values.tolist())
    for other in (many, plain):
        assert few.value == pytest.approx(other.value)
        assert few.low == pytest.approx(other.low, abs=0.005) and few.high == pytest.approx(other.high, abs=0.005)


def test_rotations_of_one_question_count_once():
    records = [record(n, reference=Reference(("A",), ("a", "b"), group="g"), cluster="g") for n in range(4)]
    records.append(record(4, 0.0))
    assert mean([1.0, 1.0, 1.0, 1.0, 0.0], Clusters.of(records)).value == pytest.approx(0.5)


@pytest.mark.parametrize(("value", "held"), [(0.0, 0.06), (100.0, 0.94 * 100)])
def test_nothing_right_is_not_certainty(value, held):
    """Of 50, none: a rate of 7 % gives that once in 40 times."""
    found = mean([value] * 50, alone(50), most=100.0)
    assert found.value == value and found.high - found.low == pytest.approx(100 * (1 - 0.025 ** (1 / 50)))
    assert mean([value] * 50, alone(50)).high == value


_SCORE = st.sampled_from([0.0, 0.3, 1.0])


@settings(max_examples=40)
@given(st.lists(st.tuples(_SCORE, _SCORE), min_size=2, max_size=40))
def test_a_difference_is_symmetric(pairs):
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    there = difference(first, second, alone(len(pairs)), 0.5, 400)
    back = difference(second, first, alone(len(pairs)), 0.5, 400)
    assert there.value.value == pytest.approx(-back.value.value)
    assert there.value.low == pytest.approx(-back.value.high) and there.value.high == pytest.approx(-back.value.low)
    assert (there.wins, there.losses, there.ties) == (back.losses, back.wins, back.ties)
    assert there.wins + there.losses + there.ties == len(pairs)
    assert there.needed == back.needed
    assert there.value.low <= there.value.value <= there.value.high


def test_a_paired_difference_sees_what_two_intervals_do_not():
    generator = np.random.default_rng(3)
    first = generator.random(200)
    second = first + 0.02 + generator.normal(0, 0.02, 200)
    found = difference(first.tolist(), second.tolist(), alone(200), 0.01)
    assert found.clear and 0.01 < found.value.low < 0.02 < found.value.high < 0.03
    one, other = mean(first.tolist(), alone(200)), mean(second.tolist(), alone(200))
    assert one.high > other.low


def test_so_many_questions_tell_the_difference():
    """With `needed` questions of the same kind a true difference of `tell` is told about four times in five."""
    generator = np.random.default_rng(4)

    def sides(count, by):
        first = generator.normal(0, 1, count)
        return first.tolist(), (first + by + generator.normal(0, 1.0, count)).tolist()

    needed = difference(*sides(4000, 0.0), alone(4000), 0.3, 100).needed
    assert needed == pytest.approx((TELLS / 0.3) ** 2, rel=0.1)
    told = [difference(*sides(needed, 0.3), alone(needed), 0.3, 400).value.low > 0 for _ in range(200)]
    assert 0.7 <= share(told) <= 0.9


def test_what_nothing_is_known_of_needs_no_number():
    assert difference([1.0, 1.0], [1.0, 1.0], alone(2), 0.5).needed is None
    assert difference([1.0, 0.0], [0.0, 1.0], pictures(1, 2), 0.5).needed is None
    assert standard_error([1.0, 0.0], pictures(1, 2)) == math.inf
    with pytest.raises(ValueError, match="above 0"):
        difference([1.0, 1.0], [1.0, 0.0], alone(2), 0.0)
    with pytest.raises(ValueError, match="at least one"):
        mean([], alone(0))


def test_draws_are_told_from_questions():
    generator = np.random.default_rng(5)
    base = (generator.random(400) < 0.5).astype(float)
    same = spread([base.tolist(), base.tolist(), base.tolist()], alone(400))
    assert same.between == 0 and same.within == pytest.approx(0.025, rel=0.05) and len(same.each) == 3
    shifted = spread([(base * share).tolist() for share in (1.0, 0.8, 0.6)], alone(400))
    assert shifted.between > 3 * shifted.within
    assert shifted.value.value == pytest.approx(np.mean(shifted.each))
    with pytest.raises(ValueError, match="two draws"):
        spread([base.tolist()], alone(400))
