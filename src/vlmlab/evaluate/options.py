"""Which option a free text chooses: the rules of two harnesses, which several of their benchmarks share."""

from collections.abc import Callable, Mapping

REFUSED = "Z"
"""What VLMEvalKit reads where an answer refuses, or says Z itself: never the right option."""

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_FAILED = "Failed to obtain answer via API"
_NEAR_THE_END = 5


def vlmevalkit_option(said: str, options: Mapping[str, str]) -> str:
    """The letter that VLMEvalKit reads, `Z` for a refusal, or nothing.

    One option's letter must stand alone among the last four words; else one option's text must be in the answer, and
    the answer be no longer than twice all options together.
    """
    if _FAILED not in said:
        if any(refusal in said for refusal in _REFUSALS):
            return REFUSED
        words = said.translate(_SEPARATORS).split()
        named = [letter for letter in options if letter in words]
        if len(named) == 1 and words.index(named[0]) > len(words) - _NEAR_THE_END:
            return named[0]
        if not named and REFUSED in words:
            return REFUSED
    if len(said.lower()) > 2 * sum(map(len, options.values())):
        return ""
    return only_text(said, options)


def only_text(said: str, options: Mapping[str, str]) -> str:
    """The letter of the option whose text is in the answer, case aside; nothing where none is, or more than one."""
    said = said.lower()
    named = [letter for letter, text in options.items() if text.lower() in said]
    return named[0] if len(named) == 1 else ""


_FRAMES = (
    *(("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ").")),
    *((":", ""), (":", ","), (":", "."), (":", ")"), (":", ").")),
)


def lmms_option(said: str, options: Mapping[str, str]) -> str:
    """The letter that lmms-eval reads first for MMBench, or nothing.

    One of A to E must stand alone among the words, or in a frame such as `(B)` or `B.`; else one option's text must be
    in the answer.
    """
    return ("" if _FAILED in said else _lone_letter(said.split())) or only_text(said, options)


def _lone_letter(words: list[str]) -> str:
    bare = [letter for letter in "ABCDE" if letter in words]
    if len(bare) == 1 and not ("A" in words and len(words) > 3):  # more likely the article
        return bare[0]
    for before, after in _FRAMES:
        framed = [letter for letter in "ABCDE" if before + letter + after in words]
        if len(framed) == 1:
            return framed[0]
    return ""


_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is"),
    *("best answer is", "the correct option is", "correct option is", "the best option is", "best option is"),
    *("the choice is", "choice is", "the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *("my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def lmms_letter(said: str, letters: list[str]) -> str:
    """The letter that lmms-eval's general rule reads, or nothing.

    The surest place wins: the start, the end, after a phrase such as `the answer is`, then `(A)`, `A.`, `A:`, `A)`,
    and `A` before a space, even at the end of a word; among equally sure places the latest.
    """
    if not said.strip():
        return ""
    text = said.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    text = f" {text} "
    found = _places(text, letters) or [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda place: place[:2])[2] if found else ""


def _places(text: str, letters: list[str]) -> list[tuple[int, int, str]]:
    """How sure, where, and which letter, in the order in which they are looked for."""
    frames = ((6, "(", ")"), (5, "", "."), (4, "", ":"), (3, "", ")"), (2, "", " "))
    found = [
        (sure, text.rfind(before + letter + after), letter)
        for sure, before, after in frames
        for letter in letters
        if before + letter + after in text
    ]
    lower = text.lower()
    for phrase in _PHRASES:
        if phrase in lower:
            after = lower.find(phrase) + len(phrase)
            found += [(7, text.find(letter, after), letter) for letter in letters if text.find(letter, after) != -1]
    bare = text.strip()
    edges: list[tuple[int, int, Callable[[str], bool], Callable[[str], bool]]] = [
        (10, 0, bare.startswith, lambda letter: len(bare) == 1 or not bare[1].isalpha()),
        (9, len(text) - 1, bare.endswith, lambda letter: len(bare) == 1 or not bare[-2].isalpha()),
    ]
    for sure, where, touches, alone in edges:
        found += [(sure, where, letter) for letter in letters if touches(letter) and alone(letter)]
    return found
