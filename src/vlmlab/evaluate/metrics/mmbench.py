"""MMBench's accuracy (Liu et al., 2023): circular, so a question is right when every rotation of its options is.

Held to VLMEvalKit, which is the benchmark's own evaluator, in the mode that asks no judge. References that share a
`group` are rotations of one question; each gets the group's score, so weigh by group: `mean` does.
"""

import dataclasses
from collections.abc import Callable, Sequence

from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, Variant, each
from vlmlab.evaluate.options import lmms_letter, lmms_option, vlmevalkit_option

Read = Callable[[str, Reference], str]


def vanilla(said: str, reference: Reference) -> Score:
    """One rotation alone, read by VLMEvalKit's rules."""
    return _one(said, reference, read_as_vlmevalkit)


def read_as_vlmevalkit(said: str, reference: Reference) -> str:
    """The letter by VLMEvalKit's rules, or nothing."""
    return vlmevalkit_option(said, reference.options)


def read_as_lmms(said: str, reference: Reference) -> str:
    """The letter by lmms-eval's rules for MMBench, or nothing."""
    return lmms_option(said, reference.options) or lmms_letter(said, reference.letters)


def _one(said: str, reference: Reference, read: Read) -> Score:
    if len(reference.choices) < 2 or reference.answers[0] not in reference.options:
        raise ValueError(
            f"the answer {reference.answers[0]!r} is none of {', '.join(reference.options) or 'no options'}"
        )
    parsed = read(said, reference)
    return Score(float(parsed == reference.answers[0]), parsed, found=bool(parsed))


def circular(read: Read, differs: str) -> Variant:
    """The variant in which every question of a group scores 1 where all of the group are right, else 0."""
    alone = each(lambda said, reference: _one(said, reference, read), differs)

    def together(said: Sequence[str], references: Sequence[Reference]) -> list[Score]:
        scores = alone.score(said, references)
        wrong = set()
        for number, (score, reference) in enumerate(zip(scores, references, strict=True)):
            if not reference.group:
                raise ValueError(f"question {number} has no group, which says whose rotation it is")
            if not score.value:
                wrong.add(reference.group)
        return [
            dataclasses.replace(score, value=float(reference.group not in wrong))
            for score, reference in zip(scores, references, strict=True)
        ]

    return Variant(together, differs)


def mean(scores: Sequence[Score], references: Sequence[Reference]) -> float:
    """The share of questions that are right, each counted once however many rotations it has."""
    values = {reference.group: score.value for score, reference in zip(scores, references, strict=True)}
    if not values:
        raise ValueError("a mean needs at least one question")
    return sum(values.values()) / len(values)


VARIANTS = {
    "official": circular(read_as_vlmevalkit, "circular; a letter near the end, or one option's text"),
    "vlmevalkit": circular(read_as_vlmevalkit, "equal to official"),
    "lmms-eval": circular(read_as_lmms, "circular, by its static rules: a letter almost anywhere is read"),
    "vanilla": each(vanilla, "each rotation alone, read as in official"),
}


@dataclasses.dataclass(frozen=True)
class Config(MetricConfig):
    """Nothing to choose but the variant."""


class MMBench(Metric):
    """MMBench's circular accuracy."""

    variants = VARIANTS


PLUGIN = MMBench
