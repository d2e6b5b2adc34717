"""Exact match: 1 when what was said is one of the answers. No code is official; `official` is letter by letter."""

import dataclasses
import string

from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, each

_NO_MARKS = str.maketrans("", "", string.punctuation)


def official(said: str, reference: Reference) -> Score:
    """Letter by letter."""
    return Score(float(said in reference.answers), said)


def lmms_eval(said: str, reference: Reference) -> Score:
    """As lmms-eval's `exact_match` with `ignore_case` and `ignore_punctuation`, the settings of GQA and others."""
    parsed = said.lower().translate(_NO_MARKS)
    return Score(float(any(parsed == one.lower().translate(_NO_MARKS) for one in reference.answers)), parsed)


def vlmevalkit(said: str, reference: Reference) -> Score:
    """As VLMEvalKit's `accuracy`."""
    parsed = said.strip().lower()
    return Score(float(any(parsed == one.strip().lower() for one in reference.answers)), parsed)


VARIANTS = {
    "official": each(official, "letter by letter"),
    "lmms-eval": each(lmms_eval, "case and ASCII punctuation aside, spaces not"),
    "vlmevalkit": each(vlmevalkit, "case and spaces at the ends aside, punctuation not"),
}


@dataclasses.dataclass(frozen=True)
class Config(MetricConfig):
    """Nothing to choose but the variant."""


class ExactMatch(Metric):
    """Exact match with one of the answers."""

    variants = VARIANTS


PLUGIN = ExactMatch
