"""CIDEr-D (Vedantam et al., 2015; COCO captions): how alike a caption and people's captions are, in rare n-grams.

Held to pycocoevalcap 1.2, its PTB tokeniser included. A caption's score depends on the whole set, whose references say
how rare an n-gram is: score all captions of a benchmark together. The published figure is 100 times pycocoevalcap's,
which goes from 0 to 10; a score here is a tenth of that.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from operator import mul

from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, Variant
from vlmlab.evaluate.ptb import words

LONGEST, SIGMA, SCALE = 4, 6.0, 10.0
Words = list[str]
_Grams = list[dict[tuple[str, ...], int]]


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each caption against its references, from 0 to 10.

    For each length n of 1 to 4 words, the cosine of the n-grams' counts, weighed by how rare they are among all
    references, each of the caption's clipped at the reference's, times a Gaussian of the difference in length.
    """
    grams = [[_grams(one) for one in people] for people in references]
    met: collections.Counter[tuple[str, ...]] = collections.Counter()
    for people in grams:
        met.update({gram for one in people for counts in one for gram in counts})
    most = math.log(len(references)) if references else 0.0
    weight = {gram: most - math.log(count) for gram, count in met.items()}
    return [
        _against(_grams(caption), len(caption), people, list(map(len, texts)), weight, most)
        for caption, people, texts in zip(captions, grams, references, strict=True)
    ]


def _grams(text: Words) -> _Grams:
    """The counts of the n-grams of a text, by length."""
    return [collections.Counter(zip(*(text[at:] for at in range(size)), strict=False)) for size in range(1, LONGEST + 1)]


def _against(
    said: _Grams, length: int, people: list[_Grams], lengths: list[int], weight: dict[tuple[str, ...], float], most: float
) -> float:
    """One caption against its references."""
    penalties = [math.exp(-((max(length - 1, 0) - max(other - 1, 0)) ** 2) / (2 * SIGMA**2)) for other in lengths]
    total = 0.0
    for size in range(LONGEST):
        mine = {gram: count * weight.get(gram, most) for gram, count in said[size].items()}
        own = math.sqrt(sum(map(mul, mine.values(), mine.values())))
        if not own:
            continue
        for one, penalty in zip(people, penalties, strict=True):
            theirs = {gram: count * weight[gram] for gram, count in one[size].items()}
            norm = math.sqrt(sum(map(mul, theirs.values(), theirs.values())))
            if norm:
                both = mine.keys() & theirs.keys()
                total += penalty * sum(min(mine[gram], theirs[gram]) * theirs[gram] for gram in both) / (own * norm)
    return SCALE * total / LONGEST / len(people)


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
