"""Which words a model uses more for one group of people than for another.

As the model card does it: TF-IDF over all answers to one prompt, the mean vector of each group, terms ranked by the
variance of those means. A ranking alone always has a first place, so each term is held against chance too: groups are
dealt out again among the portraits, many times, and a term counts where its share of variance between groups is beyond
the largest of *any* term in 95 % of the deals.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Term:
    """One word: the variance of its mean TF-IDF over groups, those means, in how many answers it stands.

    `chance` is the probability that some word differs this much where groups make no difference. `most` is the group
    whose mean is highest, `ahead` by how much over everybody else, with its 95 % interval.
    """

    word: str
    variance: float
    means: dict[str, float]
    answers: int
    chance: float
    most: str
    ahead: float
    low: float
    high: float


def differences(
    texts: Sequence[str],
    groups: Sequence[str],
    least: int = 5,
    deals: int = 1000,
    seed: int = 0,
) -> list[Term]:
    """Words in at least `least` of the texts, by the variance of their mean TF-IDF over groups, largest first.

    `groups[i]` is the group of text i. Raises ValueError where there are fewer than two groups.
    """
    from scipy import sparse  # comes with scikit-learn

    if len(texts) != len(groups):
        raise ValueError(f"{len(texts)} texts, but {len(groups)} groups: there must be one for each")
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError(f"a difference needs two groups or more; all texts are of {', '.join(names) or 'none'}")
    vectors, words = _tfidf(texts, least)
    if not words:
        return []
    place = np.array([names.index(group) for group in groups])
    sizes = np.bincount(place, minlength=len(names)).astype(np.float64)

    def means(of: NDArray[np.int64]) -> Vectors:
        pick = sparse.csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(len(names), len(of)))
        return np.asarray((pick @ vectors).todense()) / sizes[:, None]

    overall = np.asarray(vectors.mean(axis=0)).ravel()
    spread = np.asarray(vectors.multiply(vectors).sum(axis=0)).ravel() - len(texts) * overall**2

    def share(of: NDArray[np.int64]) -> Vectors:
        """How much of each word's variance is between groups."""
        return np.asarray((sizes[:, None] * (means(of) - overall) ** 2).sum(0) / np.maximum(spread, 1e-12))

    draw = np.random.default_rng(seed)
    largest = np.sort([share(draw.permutation(place)).max() for _ in range(deals)])
    here = means(place)
    beyond = deals - np.searchsorted(largest, share(place), side="left")
    chance = (beyond + 1) / (deals + 1)
    first = here.argmax(0)
    variance = here.var(0)
    held = np.asarray((vectors > 0).sum(axis=0)).ravel()
    ranked = np.argsort(-variance, kind="stable")
    ahead, low, high = _ahead(vectors, place, len(names))
    return [
        Term(
            words[t],
            float(variance[t]),
            {name: float(here[g, t]) for g, name in enumerate(names)},
            int(held[t]),
            float(chance[t]),
            names[first[t]],
            *(float(of[first[t], t]) for of in (ahead, low, high)),
        )
        for t in ranked
    ]


def _tfidf(texts: Sequence[str], least: int) -> tuple[Any, list[str]]:
    """Each text's TF-IDF [texts, words] and the words, of which there may be none; stop words are left out."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ModuleNotFoundError:
        raise ValueError("the words of groups are compared with scikit-learn: pip install 'vlmlab[bias]'") from None
    maker = TfidfVectorizer(stop_words="english", min_df=least)
    try:
        vectors = maker.fit_transform(texts)
    except ValueError:  # no word is left
        return None, []
    return vectors, list(maker.get_feature_names_out())


def _ahead(vectors: Any, place: NDArray[np.int64], groups: int) -> tuple[Vectors, Vectors, Vectors]:
    """Each group's mean less that of everybody else [groups, words], and its interval as Welch's test has it."""
    found = []
    squares = vectors.multiply(vectors).tocsr()
    for group in range(groups):
        sides = []
        for rows in (place == group, place != group):
            count = rows.sum()
            mean = np.asarray(vectors[rows].mean(axis=0)).ravel()
            variance = np.asarray(squares[rows].mean(axis=0)).ravel() - mean**2
            sides.append((mean, np.maximum(variance, 0) / max(count - 1, 1)))
        (mine, one), (others, two) = sides
        wide = 1.96 * np.sqrt(one + two)
        found.append((mine - others, mine - others - wide, mine - others + wide))
    ahead, low, high = (np.stack(column) for column in zip(*found, strict=True))
    return ahead, low, high
