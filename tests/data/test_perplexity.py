"""The worst share of texts is dropped: the same samples in any order, and about as many as was asked for."""

import math
import random

import pytest

from data.test_filters import Listed, made, sample
from vlmlab.batch import Picture
from vlmlab.data import sieve


def surprised(text, most):
    """A language model that finds each number so many nats strange."""
    words = text.split()[:most]
    return sum(float(word) for word in words[1:]), max(0, len(words) - 1)


def readers(name):
    assert name == "nano"
    return surprised


def text(strange, generator):
    """Twenty words whose mean is about `strange`."""
    return " ".join(f"{generator.gauss(strange, 1):.6f}" for _ in range(20))


def corpus(count, seed=0):
    generator = random.Random(seed)
    return Listed(*(sample(text(generator.uniform(0, 5), generator)) for _ in range(count)))


@pytest.mark.parametrize(("share", "dropped"), [(0.05, 10), (0.25, 50), (0.001, 0)])
def test_the_worst_share_is_dropped(share, dropped):
    source = corpus(200)
    rule = made("perplexity", share=share)
    found = sieve.sieve(source, {"perplexity": rule}, readers)
    assert len(found.dropped) == dropped
    scores = [rule.judge(source[index])[0].score for index in range(200)]
    assert max((scores[i] for i in found.kept), default=0) <= rule.most
    assert all(scores[drop.index] > rule.most for drop in found.dropped)
    assert rule.facts() == {"most": rule.most, "measured": 200}


def test_what_was_measured_on_some_holds_for_the_rest():
    source = corpus(4000)
    rule = made("perplexity", measured=1000)
    rule.prepare(source, readers)
    dropped = sum(rule.why_not(source[index]) is not None for index in range(4000))
    # Of 1,000 drawn, the 950th smallest is the threshold: its share in the whole strays by 0.7 of a hundred.
    assert 0.03 * 4000 <= dropped <= 0.07 * 4000
    again = made("perplexity", measured=1000)
    again.prepare(source, readers)
    assert again.most == rule.most
    other = made("perplexity", measured=1000, seed=1)
    other.prepare(source, readers)
    assert other.most != rule.most


def test_a_verdict_is_a_sample_s_own():
    source = corpus(100)
    rule = made("perplexity", share=0.3)
    rule.prepare(source, readers)
    first = [rule.why_not(source[index]) for index in range(100)]
    assert [rule.why_not(source[index]) for index in reversed(range(100))] == first[::-1]
    known = made("perplexity", most=rule.most)
    known.prepare(Listed(), readers)  # measures nothing: another machine, another part of the corpus
    assert [known.why_not(source[index]) for index in range(100)] == first
    assert next(filter(None, first)).kind == "strange text"


def test_all_text_is_read_and_short_texts_pass():
    rule = made("perplexity", most=math.e**2, least=4, tokens=6)
    rule.prepare(Listed(), readers)
    assert rule.why_not(sample("9 9 9")) is None
    assert rule.why_not(sample("9 9 9 9")) is not None
    assert rule.why_not(sample("0 0", Picture("x"), "9 9")) is not None
    assert rule.why_not(sample(Picture("x"))) is None
    assert rule.why_not(sample("0 0 0 0 0 0 9 9 9 9 9")) is None  # only the first six are read


def test_what_is_wrong_is_said():
    rule = made("perplexity")
    with pytest.raises(ValueError, match="needs the language model 'nano'"):
        rule.prepare(corpus(3))
    with pytest.raises(ValueError, match="`prepare` comes before judging"):
        made("perplexity").why_not(sample("1 2 3"))
    rule = made("perplexity")
    with pytest.raises(ValueError, match="none of 2 samples has 8 tokens of text"):
        rule.prepare(Listed(sample("1 2"), ValueError("cut short")), readers)
    for keys, told in (
        ({"share": 0.0}, "share = 0.0"),
        ({"tokens": 1}, "tokens and least of 2 or more"),
        ({"most": -1.0}, "most = -1.0"),
    ):
        with pytest.raises(ValueError, match=told):
            made("perplexity", **keys)
