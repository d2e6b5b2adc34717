"""MathVista's accuracy (Lu et al., 2023) without a judge: the answer is read by rules, then made into the right type.

Held to `extract_answer.py` (with `--quick_extract`, and no answer from the language model it would ask next) and
`calculate_score.py` of lupantech/MathVista. References hold the text of the right choice. The official rules read
little, so an answer in prose to a multiple choice question becomes the option nearest to an empty text: the shortest.
`rules` is ours: it reads what a judge would mostly read.
"""

import ast
import dataclasses
import re

from vlmlab.evaluate.edits import edits
from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, each
from vlmlab.evaluate.options import vlmevalkit_option

KINDS = ("integer", "float", "list")
_QUOTED = re.compile(r'The answer is "(.*)"\.')
_BRACKETED = re.compile(r"\(([a-zA-Z])\)")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_LIST = re.compile(r"\[[^\[\]]*\]")
_SAID = re.compile(
    r"(?i:answer|option|choice)(?i:\s+(?:is|would be|should be))?\s*[:=]?\s*\(?([A-Z])(?![\w'])(?!\s+[a-z])"
)
_LONE = re.compile(r"(?<![\w'])([A-Z])(?![\w'])(?!\s+[a-z])")  # not the article, nor the pronoun


def extract(said: str, reference: Reference, quick: bool = True) -> str:
    """What the official rules read: the whole answer where it is an option or a number, else one quoted, else nothing.

    Only `quick` extraction reads a quoted one.
    """
    if reference.choices and said in reference.choices:
        return said
    try:
        if reference.kind == "integer":
            return str(int(said))
        if reference.kind == "float":
            return str(float(said))
    except ValueError:
        pass
    quoted = _QUOTED.search(said) if quick else None
    return quoted.group(1) if quoted else ""


def typed(extracted: str, reference: Reference) -> str:
    """What was read as the type asked for: an option's text, a whole number, a number, a list; nothing if it is none.

    A letter in brackets, or alone, is an option's; any other text becomes the option nearest to it by its edits.
    """
    if reference.choices:
        extracted = extracted.strip()
        letters = _BRACKETED.findall(extracted)
        extracted = letters[0].upper() if letters else extracted
        if extracted in reference.options:
            return reference.options[extracted]
        return min(reference.choices, key=lambda choice: edits(extracted, choice))
    try:
        if reference.kind == "integer":
            return str(int(float(extracted)))
        if reference.kind == "float":
            return str(round(float(extracted), int(reference.precision or 0)))
    except (ValueError, OverflowError):
        return ""
    return extracted


def official(said: str, reference: Reference) -> Score:
    """As the official code, without the language model that it asks where its rules read nothing."""
    _check(reference)
    extracted = extract(said, reference)
    parsed = typed(extracted, reference)
    return Score(float(parsed == reference.answers[0]), parsed, found=bool(extracted))


def _check(reference: Reference) -> None:
    if not reference.choices and reference.kind not in KINDS:
        raise ValueError(
            f"kind should be one of {', '.join(KINDS)}, not {reference.kind!r}, where there are no choices"
        )
    if reference.kind == "float" and not reference.choices and reference.precision is None:
        raise ValueError("a float needs its precision, in decimal places")
    if reference.choices and reference.answers[0] not in reference.choices:
        raise ValueError(f"the answer {reference.answers[0]!r} is none of the choices {', '.join(reference.choices)}")


def lmms_eval(said: str, reference: Reference) -> Score:
    """As lmms-eval without a judge: no quick extraction, and a precision such as 1.0 fails every number."""
    _check(reference)
    said = said.strip()
    extracted = extract(said, reference, quick=False)
    parsed = typed(extracted, reference)
    if reference.kind == "float" and not reference.choices and not isinstance(reference.precision, int):
        parsed = ""
    return Score(float(parsed.strip() == reference.answers[0].strip()), parsed, found=bool(extracted))


def vlmevalkit(said: str, reference: Reference) -> Score:
    """As VLMEvalKit without a judge: an option by its rules, or a number that is the whole answer."""
    _check(reference)
    if reference.choices:
        parsed = vlmevalkit_option(said, reference.options)
        return Score(float(reference.options.get(parsed) == reference.answers[0]), parsed, found=bool(parsed))
    kinds = {"integer": int, "float": float}
    try:
        value, truth = (kinds[reference.kind](text) for text in (said, reference.answers[0]))
    except (ValueError, KeyError):
        return Score(0.0, "", found=False)
    return Score(float(value == truth and bool(value)), str(value))


def rules(said: str, reference: Reference) -> Score:
    """Ours: an option by its letter or text, the last number, the last list; what is not found is wrong."""
    _check(reference)
    extracted = extract(said.strip(), reference) or _read(said, reference)
    parsed = typed(extracted, reference) if extracted else ""
    right = parsed == reference.answers[0]
    if reference.kind == "list" and not right and parsed:
        right = _list(parsed) == _list(reference.answers[0])
    return Score(float(right), parsed, found=bool(parsed))


def _read(said: str, reference: Reference) -> str:
    if reference.choices:
        return _option(said, reference)
    if reference.kind == "list":
        return next(iter(reversed(_LIST.findall(said))), "")
    numbers = [number.replace(",", "") for number in _NUMBER.findall(said)]
    return numbers[-1] if numbers else ""


def _option(said: str, reference: Reference) -> str:
    options = reference.options
    for pattern in (_SAID, _BRACKETED, _LONE):
        named = [one.upper() for one in pattern.findall(said) if one.upper() in options]
        if named and (pattern is not _LONE or len(set(named)) == 1):
            return named[-1]
    lower = said.lower()
    held = [choice for choice in reference.choices if choice and choice.lower() in lower]
    longest = max(held, key=len, default="")
    return longest if all(one.lower() in longest.lower() for one in held) else ""


def _list(text: str) -> list[object] | None:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, list) else None


VARIANTS = {
    "official": each(official, "the official rules; an unread multiple choice answer becomes the shortest option"),
    "lmms-eval": each(lmms_eval, '`The answer is "...".` is not read; a precision that is no whole number fails all'),
    "vlmevalkit": each(vlmevalkit, "options by letter or text; numbers unrounded; lists and the number 0 never count"),
    "rules": each(rules, "ours: also reads prose, the last number or list; nothing is guessed"),
}


@dataclasses.dataclass(frozen=True)
class Config(MetricConfig):
    """Nothing to choose but the variant."""


class MathVista(Metric):
    """MathVista's accuracy without a judge."""

    variants = VARIANTS


PLUGIN = MathVista
