"""Benchmarks: questions with references, how they are asked, and by which metric the answers are scored.

Each file is one benchmark. It reads the layout in which the benchmark is published, and says what its rows mean; how a
question is asked, with or without worked examples, is said once, here.

    [benchmark]
    name = "docvqa"
    path = "datasets/DocVQA"
    shots = 4
"""

import collections
import dataclasses
import itertools
import json
import random
import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from vlmlab.batch import Message, Picture, Sample
from vlmlab.component import Plugin
from vlmlab.evaluate import metrics
from vlmlab.evaluate.metrics import Reference, Score

BRIEF = "Question: {question}\nGive a very brief answer."
"""How the paper asks open questions (A.3.1)."""

LETTER = "Question: {question}\nChoices:\n{choices}\nAnswer with the letter."
"""How the paper asks multiple choice (A.3.1); a line of `choices` is `A. the first one`."""

STOP = ("Question", "User")
"""Texts that end an answer (A.3.1); the tokens of the end of an utterance and of a text end it in any case."""

# The reference code (huggingface/smollm at a0417598, vision/m4: VQA template 9 of the base model's evaluation).
OPENING = "Instruction: provide an answer to the question. Use the image to answer.\n"
"""How a document begins, in which a base model is asked."""

LEAD = "Image:"
"""What stands before the pictures of a question in a document."""

OPEN_ITEM = "{pictures}Question: {question} Answer:"
"""A question in a document; an example goes on with a space, its answer and a line break."""

CHOICE_ITEM = "{pictures}Question: {question}\nChoices:\n{choices}\nAnswer:"
"""A question with choices in a document. Ours: the reference code ranks a base model's choices, it does not ask."""

# Of the reference code's list the words that begin questions (What, Who, ...) are left out: they are answers too. A
# line break cannot be generated there.
DOCUMENT_STOP = ("\n", "Question", "User", "Image")
"""Texts that end an answer in a document."""

Form = Literal["chat", "document"]
"""How a question is put: as a turn of a conversation, or as a document that the model goes on writing."""

Parts = tuple[str | Picture, ...]
"""Words and pictures in reading order."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One question as it was published, without the prompt around it.

    `id` is the benchmark's own, or the split and the row's number: no two are equal. `parts` are its words and pictures
    in reading order. `kind` is a group that scores are also told for (a subject, a type of question). `choices` are the
    options as they are shown, where pictures stand in them; else they are shown as the reference has them.
    """

    id: str
    parts: Parts
    reference: Reference
    kind: str = ""
    choices: tuple[Parts, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures in reading order, those of its choices too."""
        return tuple(part for part in (*self.parts, *itertools.chain(*self.choices)) if isinstance(part, Picture))

    @property
    def text(self) -> str:
        """Its words, without the pictures."""
        return " ".join(part.strip() for part in self.parts if isinstance(part, str)).strip()

    def listed(self) -> Parts:
        """The choices, a line each, with their letters."""
        shown = self.choices or [(text,) for text in self.reference.choices]
        lines: list[str | Picture] = []
        for letter, choice in zip(self.reference.letters, shown, strict=True):
            lines += ["\n" * bool(lines) + f"{letter}. ", *choice]
        return join(lines)


def join(parts: Sequence[str | Picture]) -> Parts:
    """The same parts, where words that meet are one, and none is empty."""
    joined: list[str | Picture] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)


def fill(template: str, slots: Mapping[str, Sequence[str | Picture]]) -> Parts:
    """A template whose `{names}` are replaced by words and pictures."""
    parts: list[str | Picture] = []
    for words, name, _, _ in string.Formatter().parse(template):
        parts += [words, *(slots[name] if name else ())]
    return join(parts)


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

    metric: str
    """The metric's name; `vlmlab.evaluate.metrics.get` has it in its variants."""
    variant: str = metrics.OFFICIAL
    """The metric's variant that scores where no other is asked for."""
    spread: ClassVar[bool] = False
    """Whether how far the kinds' scores lie apart is part of the figure: see `spread_over_kinds`."""
    servers: ClassVar[Mapping[str, str]] = {}
    """Splits whose answers are not public, and where they are scored."""
    submission_ending: ClassVar[str] = ".json"
    """How the name of a submission's file ends."""
    max_new_tokens: int = 32
    stop: tuple[str, ...] = STOP
    """Texts that end an answer."""
    document_stop: ClassVar[tuple[str, ...]] = DOCUMENT_STOP
    opening: ClassVar[str] = OPENING
    open_item: ClassVar[str] = OPEN_ITEM
    choice_item: ClassVar[str] = CHOICE_ITEM

    def __init__(self, config: BenchmarkConfig) -> None:
        self.config = config
        self.split = config.split
        if config.form == "document":
            self.stop = self.document_stop

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

        A question never stands among its own examples, nor does a rotation of it. Raises ValueError where the pool is
        too small.
        """
        if not self.config.shots:
            return []
        size = self.pool_count()
        drawn = random.Random(f"{self.config.draw} {question.id}").sample(range(size), min(size, self.config.shots + 1))
        shown = [one for one in map(self.pool_read, drawn) if not _twins(one, question)][: self.config.shots]
        if len(shown) < self.config.shots:
            told = f"{self.config.shots} examples are asked for, its pool has {size}"
            raise ValueError(f"{self.config.name}: {told}: name a larger one with `pool`")
        return shown

    def prompt(self, question: Question) -> Parts:
        """A question as it is put to the model: the paper's words around its own (A.3.1).

        Pictures with which it begins stand before all words, as in training; the others where it has them.
        """
        pictures, body = _opened(question.parts)
        template = LETTER if question.reference.choices else BRIEF
        return join((*pictures, *fill(template, {"question": body, "choices": question.listed()})))

    def document_prompt(self, question: Question) -> Parts:
        """A question as it stands in a document, up to where its answer begins."""
        pictures, body = _opened(question.parts)
        template = self.choice_item if question.reference.choices else self.open_item
        led = (LEAD, *pictures) if pictures else ()
        return fill(template, {"pictures": led, "question": body, "choices": question.listed()})

    def shown_answer(self, question: Question) -> str:
        """The answer that an example shows: the one that most people gave, the first of several."""
        return collections.Counter(question.reference.answers).most_common(1)[0][0]

    def ask(self, question: Question) -> Sample:
        """The whole of what the model is given: the examples, then the question."""
        examples = self.examples(question)
        if self.config.form == "document":
            parts: list[str | Picture] = [self.opening]
            for one in examples:
                parts += [*self.document_prompt(one), f" {self.shown_answer(one)}\n"]
            return Sample((Message("text", join((*parts, *self.document_prompt(question)))),))
        messages = []
        for one in examples:
            messages += [Message("user", self.prompt(one)), Message("assistant", (self.shown_answer(one),))]
        return Sample((*messages, Message("user", self.prompt(question))))

    def score(self, said: Sequence[str], questions: Sequence[Question], variant: str = "") -> list[Score]:
        """A score for each answer, by the benchmark's metric; an empty `variant` is its own.

        Raises ValueError where the answers of the split are not public, saying where it is scored.
        """
        hidden = sum(not question.reference.answers for question in questions)
        if hidden:
            where = self.servers.get(self.split, "")
            raise ValueError(
                f"{self.config.name} {self.split}: {hidden} of {len(questions)} questions have no public answers"
                + (f"; they are scored at {where}: write the submission and send it there" if where else "")
            )
        metric = metrics.get(self.metric, variant or self.variant)
        return metric.score(said, [question.reference for question in questions])

    def submission(self, answers: Mapping[str, str]) -> Any:
        """The answers, by question id, as plain data in the form the benchmark's own server takes.

        Raises ValueError for a benchmark that is scored here only.
        """
        raise ValueError(f"{self.config.name} has no server that scores answers: it is scored here")

    def submission_text(self, answers: Mapping[str, str]) -> str:
        """The file that the server takes; its name ends in `submission_ending`."""
        return json.dumps(self.submission(answers), ensure_ascii=False) + "\n"

    def whole(self, answers: Mapping[str, str]) -> Mapping[str, str]:
        """The answers again, if there is one to each question of the split: servers take no fewer.

        Raises ValueError saying how many are missing.
        """
        if len(answers) != self.count():
            raise ValueError(
                f"{self.config.name} {self.split}: a submission needs an answer to each of the split's {self.count()} "
                f"questions, there are {len(answers)}: answer all of them, without a limit"
            )
        return answers


def _twins(one: Question, other: Question) -> bool:
    """Whether two questions are one, or rotations of one."""
    return one.id == other.id or "" != one.reference.group == other.reference.group


def _opened(parts: Parts) -> tuple[Parts, Parts]:
    """The pictures with which a question begins, and the rest of it, without space around."""
    pictures = tuple(itertools.takewhile(lambda part: not isinstance(part, str) or not part.strip(), parts))
    body = list(parts[len(pictures) :])
    if body and isinstance(body[0], str):
        body[0] = body[0].lstrip()
    if body and isinstance(body[-1], str):
        body[-1] = body[-1].rstrip()
    return tuple(part for part in pictures if isinstance(part, Picture)), tuple(body)


def spread_over_kinds(values: Sequence[float], kinds: Sequence[str]) -> float:
    """How far apart the kinds' mean scores lie: their standard deviation, each kind counted once.

    As the reference code has it (`np.std`, over the kinds that there are). Raises ValueError where there is none.
    """
    if not values:
        raise ValueError("a spread needs at least one score")
    groups: dict[str, list[float]] = {}
    for value, kind in zip(values, kinds, strict=True):
        groups.setdefault(kind, []).append(value)
    means = [sum(group) / len(group) for group in groups.values()]
    middle = sum(means) / len(means)
    return float((sum((mean - middle) ** 2 for mean in means) / len(means)) ** 0.5)
