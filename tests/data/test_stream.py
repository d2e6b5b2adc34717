"""The order of samples: a function of the seed and the place, in exact shares, found again at any place."""

import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmlab.data import stream
from vlmlab.data.stream import Draw, Order, scattered, windows

weights = st.lists(st.integers(1, 1000), min_size=2, max_size=12)


def mixed(given_: list[int], seed: int = 0, length: int = 7) -> Order:
    names = [f"s{number}" for number in range(len(given_))]
    shares = {name: Fraction(weight, sum(given_)) for name, weight in zip(names, given_, strict=True)}
    return Order(seed, dict.fromkeys(names, length), shares)


@given(seed=st.integers(0, 1 << 20), length=st.integers(1, 40), turns=st.integers(1, 3))
def test_every_sample_comes_once_before_any_comes_again(seed, length, turns):
    order = Order(seed, {"one": length})
    for turn in range(turns):
        drawn = [order[place] for place in range(turn * length, (turn + 1) * length)]
        assert sorted(draw.number for draw in drawn) == list(range(length))
        assert {draw.turn for draw in drawn} == {turn}


@pytest.mark.parametrize("seed", [0, 5])
def test_one_source_has_the_order_it_always_had(seed):
    """The demo's figures hang on it."""
    order, length = Order(seed, {"emoji": 29}), 29
    expected = [
        (place // length, int(np.random.default_rng((seed, place // length)).permutation(length)[place % length]))
        for place in range(80)
    ]
    assert [(order[place].turn, order[place].number) for place in range(80)] == expected
    assert order[40].number == Order(seed, {"called otherwise": 29})[40].number


def test_seeds_passes_and_sources_differ():
    orders = [tuple(Order(seed, {"one": 30})[at].number for at in range(30)) for seed in range(4)]
    order = Order(0, {"one": 30})
    orders += [tuple(order[at].number for at in range(turn * 30, turn * 30 + 30)) for turn in range(1, 4)]
    both = mixed([1, 1], length=30)
    drawn = [both[at] for at in range(60)]
    orders += [tuple(draw.number for draw in drawn if draw.source == name) for name in ("s0", "s1")]
    assert len(set(orders)) == len(orders)


@given(weights=weights, places=st.integers(0, 5000))
def test_no_source_is_ever_two_samples_off_its_share(weights, places):
    order = mixed(weights)
    given_ = order.given(places)
    assert sum(given_.values()) == places
    for name, share in order.shares.items():
        assert abs(given_[name] - places * share) < 2


@given(weights=weights, start=st.integers(0, 10**9))
def test_places_and_counts_agree_anywhere(weights, start):
    order = mixed(weights)
    before, drawn = order.given(start), [order[place] for place in range(start, start + 30)]
    counts = Counter(draw.source for draw in drawn)
    assert {name: before[name] + counts[name] for name in before} == order.given(start + 30)
    # Each source goes on where it was.
    for name in before:
        own = [draw for draw in drawn if draw.source == name]
        assert [draw.turn for draw in own] == [(before[name] + at) // 7 for at in range(len(own))]


@given(length=st.integers(1, 300), seed=st.integers(0, 9))
def test_a_scattered_order_is_a_permutation(length, seed):
    assert sorted(scattered(at, length, (seed,)) for at in range(length)) == list(range(length))


def test_very_large_sources_hold_nothing(monkeypatch):
    monkeypatch.setattr(stream, "LARGE", 10)
    order = Order(3, {"one": 50})
    drawn = [order[place].number for place in range(100)]
    assert sorted(drawn[:50]) == sorted(drawn[50:]) == list(range(50))
    assert drawn[:50] != drawn[50:] and not order.permutations
    huge = Order(3, {"one": 10**12})
    assert len({huge[place].number for place in (0, 1, 10**11, 10**12 - 1)}) == 4


def test_few_permutations_are_held():
    order = mixed([3, 2, 1], length=4)
    for place in range(400):
        _ = order[place]
    assert len(order.permutations) <= 2 * 3 + 1


@given(per=st.integers(1, 5), count=st.integers(1, 12), step=st.integers(0, 9), world=st.integers(1, 5))
def test_a_step_holds_the_same_windows_at_any_number_of_ranks(per, count, step, world):
    alone = windows(step, per * count, per)
    dealt = [window for rank in range(world) for window in windows(step, per * count, per, rank, world)]
    assert sorted(dealt, key=lambda window: window.start) == alone
    assert [place for window in alone for place in window] == list(range(step * per * count, (step + 1) * per * count))


def test_a_state_is_plain_and_of_its_order_only():
    order = mixed([2, 3], length=900)
    state = json.loads(json.dumps(order.state(1500)))
    mixed([2, 3], length=900).check(state, 1500)
    with pytest.raises(ValueError, match=r"'s0' changed, samples: 900 then, 901 now"):
        mixed([2, 3], length=901).check(state, 1500)
    with pytest.raises(ValueError, match=r"'s0' changed, share: 2/5 then, 1/5 now"):
        mixed([1, 4], length=900).check(state, 1500)
    with pytest.raises(ValueError, match="the seed changed from 0 to 1"):
        mixed([2, 3], seed=1, length=900).check(state, 1500)
    with pytest.raises(ValueError, match="drawn before this step changed from 1500 to 1600"):
        order.check(state, 1600)
    with pytest.raises(ValueError, match=r"'s2' changed, samples: none then"):
        mixed([2, 3, 1], length=900).check(state, 1500)


def test_the_digest_is_over_a_thousand_samples_each_way(monkeypatch):
    order, place = Order(0, {"one": 10_000}), 5000
    digest = order.digest(place)
    assert digest != order.digest(place + 1)
    held = order.permutations["one", 0]
    for at, matters in ((3999, False), (4000, True), (5999, True), (6000, False)):
        old = held[at]
        held[at] = 0
        assert (order.digest(place) != digest) == matters
        held[at] = old
    state = order.state(place)
    held[5500] = 0
    with pytest.raises(ValueError, match="was numpy changed"):
        order.check(state, place)


def test_what_has_no_samples_or_no_share_is_refused():
    with pytest.raises(ValueError, match="the source 'b' has no samples"):
        Order(0, {"a": 3, "b": 0})
    with pytest.raises(ValueError, match="add up to 1"):
        Order(0, {"a": 3, "b": 3}, {"a": Fraction(1, 2), "b": Fraction(1, 3)})
    assert Order(0, {"a": 3, "b": 3}, {"a": Fraction(1), "b": Fraction(0)})[7].source == "a"
    assert str(Draw("photos", 4, 1)) == "photos sample 4"
