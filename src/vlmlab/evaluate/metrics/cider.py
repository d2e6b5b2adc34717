"""CIDEr-D (Vedantam et al., 2015; COCO captions): how alike a caption and people's captions are, in rare n-grams.

Held to pycocoevalcap 1.2, its PTB tokeniser included. A caption's score depends on the whole set, whose references say
how rare an n-gram is: score all captions of a benchmark together. The published figure is 100 times pycocoevalcap's,
which goes from 0 to 10; a score here is a tenth of that.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, Variant
from vlmlab.evaluate.ptb import words

LONGEST, SIGMA, SCALE = 4, 6.0, 10.0
Words = list[str]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each caption against its references, from 0 to 10.

    For each length n of 1 to 4 words, the cosine of the n-grams' counts, weighed by how rare they are among all
    references, each of the caption's clipped at the reference's, times a Gaussian of the difference in length. The
    length that counts is, as in the official code, the number of pairs of words.
    """
    pictures, many = len(captions), np.array([len(people) for people in references], np.int64)
    if not pictures:
        return []
    texts = [*captions, *(text for people in references for text in people)]
    lengths = np.array([len(text) for text in texts], np.int64)
    of_picture = np.concatenate([np.arange(pictures), np.repeat(np.arange(pictures), many)])
    apart = np.maximum(lengths - 1, 0) - np.maximum(lengths - 1, 0)[of_picture]
    alike = sum(_cosines(*counts, of_picture, pictures) for counts in _counted(texts, lengths))
    alike = alike * np.exp(-(apart**2) / (2 * SIGMA**2))
    return (SCALE / LONGEST * np.bincount(of_picture[pictures:], alike[pictures:], pictures) / many).tolist()


def _counted(texts: list[Words], lengths: IntArray) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """For each length of n-grams: which text has which n-gram, and how often. N-grams are numbered from 0."""
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for text in texts for word in text], np.int64)
    of_text = np.repeat(np.arange(len(texts)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words up to the text's end, this one too
    grams, count = words, len(numbers)
    for size in range(1, LONGEST + 1):
        if size > 1:
            # An n-gram is the one before it and one more word; where the text ends it is none.
            going = np.flatnonzero(left >= size)
            pairs = np.full(len(grams), -1)
            made, renumbered = np.unique(grams[going] * len(numbers) + words[going + size - 1], return_inverse=True)
            pairs[going] = renumbered
            grams, count = pairs, len(made)
        there = np.flatnonzero(grams >= 0)
        found, often = np.unique(of_text[there] * max(count, 1) + grams[there], return_counts=True)
        yield found // max(count, 1), found % max(count, 1), often


def _cosines(text: IntArray, gram: IntArray, often: IntArray, of_picture: IntArray, pictures: int) -> FloatArray:
    """For each text, how alike its n-grams and those of its picture's caption are, from 0 to 1."""
    count = int(gram.max(initial=0)) + 1
    place = of_picture[text] * count + gram  # the n-gram as one of a picture's
    said = text < pictures
    met = np.bincount(np.unique(place[~said]) % count, minlength=count)
    weighed = often * (math.log(pictures) - np.log(np.maximum(met, 1)))[gram]
    norms = np.sqrt(np.bincount(text, weighed**2, len(of_picture)))
    places, mine = place[said], weighed[said]
    at = np.minimum(np.searchsorted(places, place), max(len(places) - 1, 0))
    both = places[at] == place if len(places) else np.zeros(len(place), bool)
    products = np.minimum(mine[at[both]], weighed[both]) * weighed[both]
    over = norms * norms[of_picture]
    return np.bincount(text[both], products, len(of_picture)) / np.where(over > 0, over, 1)


def variant(read: Callable[[str], Words], differs: str) -> Variant:
    """CIDEr-D of the words that `read` finds."""

    def together(said: Sequence[str], references: Sequence[Reference]) -> list[Score]:
        captions = [read(text) for text in said]
        scores = cider_d(captions, [[read(answer) for answer in reference.answers] for reference in references])
        return [
            Score(min(score / SCALE, 1.0), " ".join(caption), found=bool(caption))
            for score, caption in zip(scores, captions, strict=True)
        ]

    return Variant(together, differs)


VARIANTS = {
    "official": variant(words, "PTB tokens in lower case, without punctuation"),
    "lmms-eval": variant(words, "equal to official"),
    "vlmevalkit": variant(str.split, "no tokeniser: `Dog.` is not `dog`, as captions came, split at spaces"),
    "m4": variant(words, "equal to official"),
}


@dataclasses.dataclass(frozen=True)
class Config(MetricConfig):
    """Nothing to choose but the variant."""


class CIDEr(Metric):
    """CIDEr-D, over all captions together."""

    variants = VARIANTS
    published = 1000.0


PLUGIN = CIDEr
