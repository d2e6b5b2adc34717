"""MMMU's accuracy (Yue et al., 2023): the letter read in an answer, or for an open question what it may have meant.

Held to `eval_utils.py` of MMMU-Benchmark/MMMU. Where its rules read no letter it draws an option at random; here the
score is the mean of that draw, one over the number of options, so that the same answers always score the same.
"""

import dataclasses
import re
from collections.abc import Iterable

from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, each
from vlmlab.evaluate.options import vlmevalkit_option

_ENDS = ",.!?;:'"
_SIGNS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_M4_SIGNS = (*_SIGNS, "answer: ")
_TRIVIAL = frozenset(":,.!?;'")
_SENTENCE = re.compile(r"\.\s(?=[A-Z])|\n")
_GROUPED = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
_DIGIT = re.compile(r"\d")
_DIGITS = "zero one two three four five six seven eight nine"
_WORDS = {word: str(at) for at, word in enumerate(_DIGITS.split())}


def letter(said: str, options: dict[str, str], frames: Iterable[tuple[str, str]] = ((" ", " "),)) -> str:
    """The last option named in an answer as `(A)`, in one of `frames`, or by its text; nothing where none is.

    Texts count only in answers of more than five words. Of several named ones the last wins, where its place is
    measured as `(A)` or between spaces.
    """
    for mark in _ENDS:
        said = said.strip(mark)
    said = f" {said} "
    found = {one: said.rfind(f"({one})") for one in options if f"({one})" in said}
    for before, after in frames if not found else ():
        if named := [one for one in options if before + one + after in said]:
            found = {one: said.rfind(f" {one} ") for one in named}
            break
    if not found and len(said.split()) > 5:
        lower = said.lower()
        found = {one: lower.rfind(text.lower()) for one, text in options.items() if text.lower() in lower}
    return max(found, key=found.__getitem__) if found else ""


def candidates(said: str, signs: tuple[str, ...] = _SIGNS) -> list[str]:
    """The parts of an answer to an open question that may be it: what follows `is`, `so`, ..., and every number there.

    Where no sign is found, the whole answer in lower case.
    """
    parts = _SENTENCE.split(said.strip().strip(".").lower())
    found = []
    for number, part in enumerate(parts):
        last = (*signs, "=") if number == len(parts) - 1 else signs
        shortest = ""
        for sign in last:
            if sign in part:
                tail = part.rsplit(sign, 1)[1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _TRIVIAL:
            found.append(shortest)
    found = found or [said.strip().strip(".").lower()]
    return found + [number for part in found if _DIGIT.search(part) for number in numbers(part)]


def numbers(text: str) -> list[str]:
    """Every number in a text: with commas, scientific, and plain."""
    return [*_GROUPED.findall(text), *_SCIENTIFIC.findall(text), *_SIMPLE.findall(text)]


def normalise(text: str) -> list[str | float]:
    """A number to two decimals, or the text in lower case; one letter as ` a` and `a `, which are rarer in a text."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [" " + text, text + " "] if len(text) == 1 else [text]


def meets(parsed: Iterable[str | float], answers: Iterable[str | float]) -> bool:
    """Whether a number is among the answers, or a text has one in it."""
    answers = list(answers)
    texts = [answer for answer in answers if isinstance(answer, str)]
    return any(any(text in one for text in texts) if isinstance(one, str) else one in answers for one in parsed)


def official(said: str, reference: Reference) -> Score:
    """As the official code; a guess counts with its mean."""
    return _chosen(letter(said, reference.options), reference) if reference.choices else _open(said, reference)


def lmms_eval(said: str, reference: Reference) -> Score:
    """As lmms-eval; a guess counts with its mean."""
    if not reference.choices:
        return _open(said, reference)
    return _chosen(letter(said, reference.options, (("", " "), ("", "."))), reference)


def _chosen(parsed: str, reference: Reference) -> Score:
    _check(reference)
    if not parsed:
        right = sum(one in reference.answers for one in reference.options)
        return Score(right / len(reference.choices), "", found=False)
    return Score(float(parsed in reference.answers), parsed)


def _check(reference: Reference) -> None:
    for answer in reference.answers:
        if answer not in reference.options:
            raise ValueError(f"the answer {answer!r} is none of the options {', '.join(reference.options)}")


def _open(said: str, reference: Reference) -> Score:
    read = candidates(said)
    right = meets(
        [value for one in read for value in normalise(one)],
        [value for answer in reference.answers for value in normalise(answer)],
    )
    return Score(float(right), " | ".join(dict.fromkeys(read)))


def vlmevalkit(said: str, reference: Reference) -> Score:
    """As VLMEvalKit without a judge; an open question becomes a choice between its answer and `Other Answers`."""
    options, answers = reference.options, reference.answers
    if options:
        _check(reference)
    else:
        options = {"A": answers[0], "B": "Other Answers"}
        answers = answers if len(answers[0]) == 1 and "A" <= answers[0] <= "Z" else ("A",)
    parsed = vlmevalkit_option(said, options)
    return Score(float(parsed in answers), parsed, found=bool(parsed))


def m4(said: str, reference: Reference) -> Score:
    """As the code Idefics2 was trained with, on generated text."""
    if reference.choices:
        _check(reference)
        parsed = [_m4_normal(said)]
    else:
        parsed = [_m4_normal(one) for one in candidates(said, _M4_SIGNS)]
    answers = [_m4_normal(answer) for answer in reference.answers]
    right = any(
        (answer in one if isinstance(one, str) and isinstance(answer, str) else answer == one)
        for answer in answers
        for one in parsed
        if isinstance(one, str) == isinstance(answer, str)
    )
    return Score(float(right), " | ".join(dict.fromkeys(map(str, parsed))))


def _m4_normal(text: str) -> str | float:
    text = text.strip()
    if text.startswith("Answer: "):
        text = text.replace("Answer: ", "")
    text = text.lower()
    number = text
    for word, digit in _WORDS.items():
        number = number.replace(word, digit)
    try:
        return round(float(number.replace(",", "")), 2)
    except ValueError:
        return text


VARIANTS = {
    "official": each(official, "a letter counts as `(B)` or between spaces; a guess counts with its mean"),
    "lmms-eval": each(lmms_eval, "a letter also counts at the end of a word: `USA ` names A; a guess as in official"),
    "vlmevalkit": each(vlmevalkit, "no guess; open questions become a choice between the answer and `Other Answers`"),
    "m4": each(m4, "no guess; the right letter anywhere in the text counts, even inside a word; number words are read"),
}


@dataclasses.dataclass(frozen=True)
class Config(MetricConfig):
    """Nothing to choose but the variant."""


class MMMU(Metric):
    """MMMU's rules for multiple choice and for open questions."""

    variants = VARIANTS


PLUGIN = MMMU
