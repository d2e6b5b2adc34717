"""MMMU (Yue et al., 2023): college questions of 30 subjects, with pictures inside the questions and their choices.

Read as MMMU/MMMU on the hub, a folder a subject (dev, validation, test), or merged, as lmms-lab/MMMU has it. The
answers of test are not public: there an answer is `?`.
"""

import ast
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from vlmlab.batch import Picture
from vlmlab.data.files import Row
from vlmlab.evaluate.benchmarks import Parts, Question, join
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.metrics.mmmu import letter
from vlmlab.evaluate.published import Published, PublishedConfig, identity, texts

PICTURES = 7
"""The columns image_1 to image_7 hold a question's pictures."""

HIDDEN = "?"
_MARK = re.compile(r"<image (\d)>")

SPLITS = {"dev": ("dev",), "validation": ("validation",), "test": ("test",)}
"""The splits, and what each is called in the names of the hub's files."""

SERVERS = {"test": "EvalAI (https://eval.ai, MMMU)"}
"""Where the splits are scored whose answers are not public."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """`subjects` are those that are asked (`Accounting`, ...); none: all."""

    subjects: tuple[str, ...] = ()


class MMMU(Published):
    """The questions of MMMU; their kind is the subject. Examples come from dev, five a subject."""

    metric = "mmmu"
    splits = SPLITS
    default_split = "validation"
    pool_split = "dev"
    servers = SERVERS

    def __init__(self, config: Config) -> None:
        """Raises ValueError when the split or a subject is unknown, or files are not there or cannot be read."""
        super().__init__(config)
        self.numbers: range | list[int] = range(len(self.rows))
        if config.subjects:
            kinds = [_subject(identity(row, "id")) for row in self.only(self.rows, ("id",))]
            for subject in config.subjects:
                if subject not in kinds:
                    known = ", ".join(sorted(set(kinds)))
                    raise ValueError(f"{config.name} has no subject {subject!r}; it has {known}")
            self.numbers = [number for number, kind in enumerate(kinds) if kind in config.subjects]

    def count(self) -> int:
        """How many there are."""
        return len(self.numbers)

    def read(self, number: int) -> Question:
        """Question number `number`. Raises ValueError naming the file and the row."""
        return super().read(self.numbers[number])

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A question with its pictures in place."""
        one = identity(row, "id")
        options = _options(row["options"])
        pictures = {
            at: row.picture(row.values[f"image_{at}"], number=at)
            for at in range(1, PICTURES + 1)
            if row.values.get(f"image_{at}") is not None
        }
        asked = row.text("question")
        named = {int(at) for text in (asked, *options) for at in _MARK.findall(text)}
        # What no text names is shown all the same, before the question.
        parts = join((*(pictures[at] for at in pictures if at not in named), *_placed(asked, pictures)))
        shown = tuple(_placed(option, pictures) for option in options)
        if not any(isinstance(part, Picture) for option in shown for part in option):
            shown = ()
        reference = Reference(_answers(row.text("answer"), bool(options)), options)
        for answer in reference.answers if options else ():
            if answer not in reference.options:
                raise ValueError(f"its answer {answer!r} is none of {', '.join(reference.options)}")
        return Question(one, parts, reference, _subject(one), shown)

    def submission(self, answers: Mapping[str, str]) -> dict[str, str]:
        """EvalAI's form: by question id, the letter that was read, or the text as it came where none was."""
        said, told = self.whole(answers), {}
        for row in self.only(self.rows, ("id", "options")):
            one = identity(row, "id")
            if one in said:
                options = Reference((), _options(row["options"])).options
                told[one] = (letter(said[one], options) if options else "") or said[one].strip()
        if len(told) != len(said):
            odd = next(one for one in said if one not in told)
            raise ValueError(f"{self.config.name} {self.split} has no question {odd!r}")
        return told


def _subject(one: str) -> str:
    """`Accounting` of `validation_Accounting_1`."""
    found = re.fullmatch(r"[^_]+_(.+)_\d+", one)
    if not found:
        raise ValueError(f"column 'id' should be like validation_Accounting_1, not {one!r}")
    return found.group(1)


def _options(value: Any) -> tuple[str, ...]:
    """The choices: the file holds a list as Python writes one, `['$6', '$7']`."""
    if isinstance(value, str):
        value = _literal(value)
    if not isinstance(value, list):
        raise ValueError(f"column 'options' should be a list, as Python writes one, not {value!r:.80}")
    return texts([one if isinstance(one, str) else str(one) for one in value], "options")


def _answers(value: str, chosen: bool) -> tuple[str, ...]:
    """The letter, or what counts as right: one text, or several, as Python writes a list."""
    if value == HIDDEN:
        return ()
    several = None if chosen or not value.startswith("[") else _literal(value)
    if isinstance(several, list) and several and all(isinstance(one, str) for one in several):
        return tuple(several)
    return (value,)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _placed(text: str, pictures: Mapping[int, Picture]) -> Parts:
    """A text with its pictures where it names them. Raises ValueError where one is missing."""
    parts: list[str | Picture] = []
    for at, piece in enumerate(_MARK.split(text)):
        if at % 2 and int(piece) not in pictures:
            raise ValueError(f"it names <image {piece}>, but column 'image_{piece}' is empty")
        parts.append(pictures[int(piece)] if at % 2 else piece)
    return join(parts)


PLUGIN = MMMU
