"""Relaxed accuracy (ChartQA, Masry et al., 2022, section 5.1): a number within 5 % is right, a text must be equal.

Held to `relaxed_correctness` of google-research/pix2struct, which every harness took over: `%` divides by 100, a
reference of 0 is compared as text, and what `float` does not read (`1,000`, `$5`) is text.
"""

import dataclasses

from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, each

TOLERANCE = 0.05
_DIGITS = "zero one two three four five six seven eight nine"
NUMBERS = {word: str(at) for at, word in enumerate(_DIGITS.split())}


def number(text: str) -> float | None:
    """What `float` reads, a percentage as its share; None for a text."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def close(said: str, answer: str) -> bool:
    """Whether what was said is within 5 % of the answer, or, unless both are numbers, equal but for case."""
    value, truth = number(said), number(answer)
    if value is not None and truth:
        return abs(value - truth) / abs(truth) <= TOLERANCE
    return said.lower() == answer.lower()


def official(said: str, reference: Reference) -> Score:
    """As pix2struct."""
    return Score(float(any(close(said, answer) for answer in reference.answers)), said)


def lmms_eval(said: str, reference: Reference) -> Score:
    """As lmms-eval, whose questions have one answer."""
    return Score(float(close(said, reference.answers[0])), said)


def vlmevalkit(said: str, reference: Reference) -> Score:
    """As VLMEvalKit."""
    return official(said.strip(), reference)


def m4(said: str, reference: Reference) -> Score:
    """As the code Idefics2 was trained with."""
    parsed, right = said.strip("."), False
    value = _number_in_words(parsed)
    for answer in (one.strip(".") for one in reference.answers):
        truth = _number_in_words(answer)
        if truth is None:
            right = right or parsed == answer
        elif value is not None:
            # Over the answer, not over its size: below zero, anything that is not far below it counts.
            right = (abs(value - truth) / truth < TOLERANCE or right) if truth else value == truth
            break
    return Score(float(right), parsed)


def _number_in_words(text: str) -> float | None:
    text = text.lower()
    for word, digit in NUMBERS.items():
        text = text.replace(word, digit)
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


VARIANTS = {
    "official": each(official, "`%` is a share; spaces at the ends of a text count"),
    "lmms-eval": each(lmms_eval, "equal to official, for the first answer alone"),
    "vlmevalkit": each(vlmevalkit, "spaces at the ends of what was said are dropped"),
    "m4": each(
        m4, "below 5 %, not up to; commas and number words are read, `%` is not; case counts; negative answers are lax"
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(MetricConfig):
    """Nothing to choose but the variant."""


class RelaxedAccuracy(Metric):
    """Relaxed accuracy, as ChartQA counts it."""

    variants = VARIANTS


PLUGIN = RelaxedAccuracy
