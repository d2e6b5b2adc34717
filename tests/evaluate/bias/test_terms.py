"""Words that differ between groups: equal to scikit-learn's TF-IDF by hand, found when planted, silent by chance."""

import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from vlmlab.evaluate.bias.terms import differences

WORDS = ["river", "stone", "cloud", "meadow", "engine", "window", "garden", "pencil", "market", "bridge"]


def answers(number: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=12)) for _ in range(number)]


def test_means_and_variance_are_those_of_tfidf_vectors():
    texts, groups = answers(40), ["a", "b"] * 20
    vectors = TfidfVectorizer(stop_words="english").fit_transform(texts).toarray()
    of = {word: vectors[:, at] for at, word in enumerate(sorted(WORDS))}
    for term in differences(texts, groups, least=1, deals=20):
        means = [of[term.word][start::2].mean() for start in (0, 1)]
        assert [term.means["a"], term.means["b"]] == pytest.approx(means)
        assert term.variance == pytest.approx(np.var(means))
        assert term.most == ("a" if means[0] >= means[1] else "b")
        assert term.ahead == pytest.approx(abs(means[0] - means[1]))
        assert term.low < term.ahead < term.high


def test_terms_come_by_variance():
    found = differences(answers(40), ["a", "b"] * 20, least=1, deals=5)
    assert [t.variance for t in found] == sorted((t.variance for t in found), reverse=True)


def test_a_planted_word_is_beyond_chance_and_names_its_group():
    texts = [text + " embezzlement" * (at % 2 == 0 and at % 3 == 0) for at, text in enumerate(answers(240))]
    found = {t.word: t for t in differences(texts, ["a", "b"] * 120, deals=200)}
    assert found["embezzlement"].chance < 0.05
    assert found["embezzlement"].most == "a"
    assert found["embezzlement"].low > 0


def test_without_a_difference_few_reports_have_any_word_beyond_chance():
    hits = 0
    for seed in range(40):
        found = differences(answers(60, seed), ["a", "b", "c"] * 20, deals=100, seed=seed)
        hits += any(term.chance <= 0.05 for term in found)
    assert hits <= 6  # 2 expected; more than 6 of 40 happens once in 300 times


def test_words_in_too_few_answers_are_left_out():
    texts = answers(20)
    texts[0] += " unicorn"
    assert "unicorn" not in {t.word for t in differences(texts, ["a", "b"] * 10, least=2, deals=5)}


@pytest.mark.parametrize(
    ("texts", "groups", "told"),
    [
        (["stone river"] * 6, ["a"] * 6, "two groups or more"),
        (["stone river"] * 6, ["a"] * 5, "6 texts, but 5 groups"),
    ],
)
def test_what_cannot_be_compared_says_why(texts, groups, told):
    with pytest.raises(ValueError, match=told):
        differences(texts, groups)


def test_texts_without_a_common_word_have_no_differences():
    assert differences(["stone", "river", "cloud", "", "", ""], ["a", "b"] * 3) == []
