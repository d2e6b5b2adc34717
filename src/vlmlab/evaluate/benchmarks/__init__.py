"""Benchmarks: questions with references, how they are asked, and by which metric the answers are scored.

Each file is one benchmark. It reads the layout in which the benchmark is published, and says what its rows mean; how a
question is asked, with or without worked examples, is said once, here.

    [benchmark]
    name = "docvqa"
    path = "datasets/DocVQA"
    shots = 4
"""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from vlmlab.batch import Message, Picture, Sample
from vlmlab.component import Plugin
from vlmlab.evaluate.metrics import Reference

BRIEF = "Question: {question}\nGive a very brief answer."
"""How the paper asks open questions (A.3.1)."""

LETTER = "Question: {question}\nChoices:\n{choices}\nAnswer with the letter."
"""How the paper asks multiple choice (A.3.1); a line of `choices` is `A. the first one`."""

STOP = ("Question", "User")
"""Texts that end an answer (A.3.1); the tokens of the end of an utterance and of a text end it in any case."""

Form = Literal["chat", "document"]
"""How a question is put: as a turn of a conversation, or as a document that the model goes on writing."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One question as it was published, without the prompt around it.

    `id` is the benchmark's own, or the row's number: no two are equal. `parts` are its words and pictures in reading
    order. `kind` is a group that scores are also told for (a subject, a type of question).
    """

    id: str
    parts: tuple[str | Picture, ...]
    reference: Reference
    kind: str = ""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures in reading order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))

    @property
    def text(self) -> str:
        """Its words, without the pictures."""
        return " ".join(part.strip() for part in self.parts if isinstance(part, str)).strip()


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(Plugin):
    """What every benchmark has.

    `path` is the folder of the published dataset. An empty `split` is the one the paper scores. `shots` worked
    examples, pictures included, stand before each question, drawn at random from the benchmark's own pool: `draw` is
    the number of the draw. `limit` keeps that many questions, chosen evenly over the split (0: all).
    """

    home: ClassVar[str] = "vlmlab.evaluate.benchmarks"

    path: str = dataclasses.field(kw_only=True)
    split: str = ""
    shots: int = 0
    draw: int = 0
    form: Form = "chat"
    limit: int = 0

    def __post_init__(self) -> None:
        for name in ("shots", "draw", "limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


class Benchmark:
    """A benchmark: `len(benchmark)` questions, by number; how each is asked; which metric scores the answers.

    A subclass says what its rows are, by `count`, `read` and, where there are examples to show, `pool_count` and
    `pool_read`.
    """

    metric: ClassVar[str]
    """The metric's name; `vlmlab.evaluate.metrics.get` has it in its variants."""
    max_new_tokens: ClassVar[int] = 32
    stop: ClassVar[tuple[str, ...]] = STOP

    def __init__(self, config: BenchmarkConfig) -> None:
        self.config = config

    def count(self) -> int:
        """How many questions the split has."""
        raise NotImplementedError

    def read(self, number: int) -> Question:
        """Question number `number` of the split. Raises ValueError naming the file and the row."""
        raise NotImplementedError

    def pool_count(self) -> int:
        """How many questions with known answers there are to draw examples from."""
        return 0

    def pool_read(self, number: int) -> Question:
        """Question number `number` of those that examples are drawn from."""
        raise NotImplementedError

    def __len__(self) -> int:
        whole = self.count()
        return min(self.config.limit, whole) if self.config.limit else whole

    def question(self, index: int) -> Question:
        """Question number `index`, from 0. Raises IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.read(index * self.count() // len(self))

    def examples(self, question: Question) -> list[Question]:
        """The worked examples that stand before a question: the same for the same draw, whatever else is asked.

        A question never stands among its own examples. Raises ValueError where the pool is too small.
        """
        if not self.config.shots:
            return []
        size = self.pool_count()
        drawn = random.Random(f"{self.config.draw} {question.id}").sample(range(size), min(size, self.config.shots + 1))
        shown = [one for one in map(self.pool_read, drawn) if one.id != question.id][: self.config.shots]
        if len(shown) < self.config.shots:
            raise ValueError(f"{self.config.name}: {self.config.shots} examples are asked for, its pool has {size}")
        return shown

    def prompt(self, question: Question) -> tuple[str | Picture, ...]:
        """A question as it is put to the model: its pictures, then the paper's words around its own (A.3.1)."""
        choices = question.reference.options
        listed = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
        words = (LETTER if choices else BRIEF).format(question=question.text, choices=listed)
        return (*question.pictures, words)

    def shown_answer(self, question: Question) -> str:
        """The answer that an example shows."""
        return question.reference.answers[0]

    def ask(self, question: Question) -> Sample:
        """The whole of what the model is given: the examples, then the question."""
        if self.config.form == "document":
            return self._document(question)
        messages = []
        for one in self.examples(question):
            messages += [Message("user", self.prompt(one)), Message("assistant", (self.shown_answer(one),))]
        return Sample((*messages, Message("user", self.prompt(question))))

    def _document(self, question: Question) -> Sample:
        parts: list[str | Picture] = []
        for one in self.examples(question):
            parts += [*self.prompt(one), f"\nAnswer: {self.shown_answer(one)}\n\n"]
        return Sample((Message("text", (*parts, *self.prompt(question), "\nAnswer:")),))

    def submission(self, answers: Mapping[str, str]) -> Any:
        """The answers, by question id, as plain data in the form the benchmark's own server takes.

        Raises ValueError for a benchmark that is scored here only.
        """
        raise ValueError(f"{self.config.name} has no server that scores answers: it is scored here")
