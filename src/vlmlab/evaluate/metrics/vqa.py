"""VQA accuracy (Antol et al., 2015; VQAv2, TextVQA, OK-VQA): an answer is right when three of ten people gave it.

Held to `vqaEval.py` of GT-Vision-Lab/VQA. Each of the ten is left out once, and the answer scores the mean of
min(1, people who agree / 3) over the nine others. Answers are compared after a normalisation that has its oddities,
kept here: a comma between two digits anywhere makes every mark vanish instead of becoming a space; the rule that
should keep the point of `3.` has a slip and drops it; and no more than 32 points are dropped.
"""

import dataclasses
import re
from collections.abc import Callable

from vlmlab.evaluate.metrics import Metric, MetricConfig, Reference, Score, each

_NUMBERS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS.split())}
ARTICLES = frozenset(("a", "an", "the"))
MARKS = tuple(';/[]"{}()=+\\_-><@`,?!')
_MARK = re.compile("[" + re.escape("".join(MARKS)) + "]")
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_NUMBER_WITH_COMMAS = re.compile(r"\d,+\d")
_POINT = re.compile(r"\.(?!\d)")
_POINT_OF_NO_NUMBER = re.compile(r"(?<!\d)\.(?!\d)")
_POINTS = 32  # the official code hands re.UNICODE, which is 32, where the number of replacements is expected

# Right spellings; the wrong ones that are mended lack one of the apostrophes.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED.split() for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}  # the one that the official table has the wrong way round


def normalise(text: str, point: re.Pattern[str] = _POINT, comma: re.Pattern[str] = _NUMBER_WITH_COMMA) -> str:
    """An answer as the official code compares it: marks, articles, number words and contractions put aside."""
    text = without_marks(text.replace("\n", " ").replace("\t", " ").strip(), point, comma)
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join([CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES])


def without_marks(text: str, point: re.Pattern[str], comma: re.Pattern[str]) -> str:
    """Marks taken out where they touch a space, or where a number has a comma, and made spaces elsewhere."""
    out = text
    found = set(_MARK.findall(text))
    if found:
        numbered = comma.search(text) is not None
        for mark in MARKS:
            if mark in found:
                touches = numbered or mark + " " in text or " " + mark in text
                out = out.replace(mark, "" if touches else " ")
    return point.sub("", out, count=_POINTS) if "." in out else out


def normalise_as_evalai(text: str) -> str:
    """The normalisation of TextVQA's and OK-VQA's evaluation server, as lmms-eval has it: possessives come apart."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise(text, comma=_NUMBER_WITH_COMMAS)


def leave_one_out(said: str, answers: list[str]) -> float:
    """The mean, over people left out one at a time, of min(1, agreeing others / 3)."""
    agree, people = answers.count(said), len(answers)
    return ((people - agree) * min(1.0, agree / 3) + agree * min(1.0, max(agree - 1, 0) / 3)) / people


def official(said: str, reference: Reference) -> Score:
    """As the official code: where all people gave one answer, letter by letter, nothing is normalised."""
    answers = [_one_line(answer) for answer in reference.answers]
    if len(set(answers)) == 1:
        said = _one_line(said)
        return Score(leave_one_out(said, answers), said)
    return _normalised(said, reference, normalise)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _normalised(said: str, reference: Reference, normal: Callable[[str], str]) -> Score:
    parsed = normal(said)
    return Score(leave_one_out(parsed, [normal(answer) for answer in reference.answers]), parsed)


def lmms_eval(said: str, reference: Reference) -> Score:
    """As lmms-eval scores VQAv2."""
    return _normalised(said, reference, lambda text: normalise(text, comma=_NUMBER_WITH_COMMAS))


def lmms_eval_textvqa(said: str, reference: Reference) -> Score:
    """As lmms-eval scores TextVQA and OK-VQA."""
    return _normalised(said, reference, normalise_as_evalai)


def vlmevalkit(said: str, reference: Reference) -> Score:
    """As VLMEvalKit scores TextVQA."""
    return _normalised(said, reference, lambda text: normalise(text, point=_POINT_OF_NO_NUMBER))


def m4(said: str, reference: Reference) -> Score:
    """As the code Idefics2 was trained with scores VQAv2, TextVQA and OK-VQA."""
    if len(reference.answers) > 1:
        return _normalised(said, reference, normalise)
    parsed = normalise(said)
    return Score(float(parsed == normalise(reference.answers[0])), parsed)


VARIANTS = {
    "official": each(official, "normalises only where people disagree"),
    "lmms-eval": each(lmms_eval, "always normalises; two commas in a row between digits count as one"),
    "lmms-eval-textvqa": each(lmms_eval_textvqa, "always normalises; possessives come apart, commas vanish first"),
    "vlmevalkit": each(vlmevalkit, "always normalises; a point after a digit stays: `3.` is not `3`"),
    "m4": each(m4, "always normalises; a single answer must be equal"),
}


@dataclasses.dataclass(frozen=True)
class Config(MetricConfig):
    """Nothing to choose but the variant."""


class VQAAccuracy(Metric):
    """VQA accuracy against the answers of several people."""

    variants = VARIANTS


PLUGIN = VQAAccuracy
