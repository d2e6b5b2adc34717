"""ANLS (Biten et al., 2019; DocVQA): 1 minus edits over length for the nearest answer, and 0 below a half.

Held to the evaluation script of the benchmark's server (rrc.cvc.uab.es), as QwenLM/Qwen-VL carries it: case and spaces
aside for the edits, but the length is that of the texts as they came, so spaces raise the score; exactly a half counts.
"""

import dataclasses

from vlmlab.evaluate.edits import edits
from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, each

THRESHOLD = 0.5


def plain(text: str) -> str:
    """Case and runs of spaces put aside."""
    return " ".join(text.lower().split())


def official(said: str, reference: Reference) -> Score:
    """As the server's script."""
    parsed, length = plain(said), len(said.upper())
    shares = [_share(edits(plain(one), parsed), max(len(one.upper()), length)) for one in reference.answers]
    best = 1 - min(shares)
    return Score(best if best >= THRESHOLD else 0.0, parsed)


def m4(said: str, reference: Reference) -> Score:
    """As the code Idefics2 was trained with."""
    parsed = said.strip().strip(".").lower()
    if not parsed:
        return Score(0.0, parsed)
    answers = [answer.lower() for answer in reference.answers]
    shares = [_share(edits(one, parsed), max(len(one), len(parsed))) for one in answers]
    return Score(max(1 - share if share < THRESHOLD else 0.0 for share in shares), parsed)


def _share(count: int, length: int) -> float:
    return count / length if length else 0.0


VARIANTS = {
    "official": each(official, "exactly a half counts; the length is that of the texts as they came"),
    "lmms-eval": each(official, "equal to official"),
    "vlmevalkit": each(official, "equal to official"),
    "m4": each(m4, "exactly a half is 0; full stops at both ends of what was said are dropped; spaces inside count"),
}


@dataclasses.dataclass(frozen=True)
class Config(MetricConfig):
    """Nothing to choose but the variant."""


class ANLS(Metric):
    """Average normalised Levenshtein similarity."""

    variants = VARIANTS


PLUGIN = ANLS
