"""MathVista (Lu et al., 2023): mathematics in pictures, with choices or with a number or a list as the answer.

Read as AI4Math/MathVista on the hub (testmini, test), or as its authors publish it: `annot_testmini.json` or
`testmini.json` (likewise test), an object of questions by their ids, with the pictures in `images/` beside it. The
answers of test are not public.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vlmlab.data.files import File, Row
from vlmlab.evaluate.benchmarks import Parts, Question
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.published import Entries, Published, PublishedConfig, find, identity, read_json, texts

SPLITS = {"testmini": ("testmini",), "test": ("test",)}
"""The splits, and what each is called in the names of the hub's files."""

SERVERS = {"test": "the authors of MathVista (https://mathvista.github.io)"}
"""Where the splits are scored whose answers are not public."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """`words` are the paper's (a letter, a very brief answer), or the published query, whose hint says what to give."""

    words: Literal["paper", "published"] = "paper"


class MathVista(Published):
    """The questions of MathVista; their kind is the task (geometry, figures, ...).

    The variant `rules` scores, because the official rules, which leave reading to a judge, do not read a letter.
    """

    metric = "mathvista"
    variant = "rules"
    splits = SPLITS
    default_split = "testmini"
    pool_split = ""
    servers = SERVERS

    def __init__(self, config: Config) -> None:
        """Raises ValueError when the split is unknown, or its files are not there or cannot be read."""
        super().__init__(config)
        self.published = config.words == "published"
        self.max_new_tokens = 256 if self.published else 32

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """The JSON file of the authors."""
        asked = find(place, f"annot_{split}.json", f"{split}.json")
        if asked is None:
            return None
        return [_Asked(asked, read_json(asked, kind=dict))]

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A question; its unit, where it has one, stands behind it in brackets, as in the published query."""
        values = row.values
        choices = texts(values.get("choices"), "choices")
        image = values.get("decoded_image") or row["image"]
        reference = Reference(
            texts(values.get("answer"), "answer"), choices, row.text("answer_type"), values.get("precision")
        )
        if reference.answers and choices and reference.answers[0] not in choices:
            raise ValueError(f"its answer {reference.answers[0]!r} is none of its choices")
        about = values.get("metadata") or {}
        asked = row.text("query") if self.published else _with_unit(row)
        return Question(identity(row, "pid"), (row.picture(image), asked), reference, about.get("task") or "")

    def prompt(self, question: Question) -> Parts:
        """The paper's words around the question, or the published query, which has its own."""
        return question.parts if self.published else super().prompt(question)

    def shown_answer(self, question: Question) -> str:
        """The letter of the right choice, or the answer."""
        answer = super().shown_answer(question)
        if self.published or not question.reference.choices:
            return answer
        return question.reference.letters[question.reference.choices.index(answer)]

    def submission(self, answers: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """What the authors' extraction reads: questions by id, each with its response."""
        kept = ("question", "query", "choices", "unit", "precision", "question_type", "answer_type", "metadata")
        said, told = self.whole(answers), {}
        for row in self.only(self.rows, ("pid", *kept)):
            one = identity(row, "pid")
            if one not in said:
                raise ValueError(f"{row.place}: there is no answer to question {one}")
            told[one] = {"pid": one, **{name: row.values.get(name) for name in kept}, "response": said[one]}
        return told


def _with_unit(row: Row) -> str:
    unit = row.values.get("unit")
    return f"{row.text('question')} (Unit: {unit})" if unit else row.text("question")


class _Asked(Entries):
    """The questions of an object, which holds them by id."""

    def __init__(self, path: Path, told: Mapping[str, Any]) -> None:
        super().__init__(path, told.values())
        self.ids = list(told)

    def values(self, index: int) -> Mapping[str, Any]:
        return {"pid": self.ids[index], **super().values(index)}


PLUGIN = MathVista
