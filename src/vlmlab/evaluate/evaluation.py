"""An evaluation: every question of a benchmark asked, scored, and logged; read back from its folder.

questions.jsonl   a line for each question: what was asked, what came, what was read in it, its score, what it cost
card.json         what was measured, how, and by what; the same to read in card.md
report.html       the questions with their pictures, to look through
submission.*      the answers as the benchmark's own server takes them, where it has one
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlab import component
from vlmlab.evaluate import metrics
from vlmlab.evaluate.answering import (
    Answerer,
    Job,
    Reply,
    Writing,
    fingerprint,
    key,
    picture_digest,
    prompt_text,
    sample_plain,
)
from vlmlab.evaluate.benchmarks import Benchmark, BenchmarkConfig
from vlmlab.evaluate.known import Known
from vlmlab.evaluate.metrics import Reference
from vlmlab.writing import write_text

QUESTIONS, CARD = "questions.jsonl", "card.json"

Advance = Callable[[int], None]
"""Told how many questions more are done."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One question as it was asked, answered and scored.

    `question` is the digest of the published question alone: equal in every evaluation of it, however it was asked.
    `cluster` is what it shares with others: its first picture, the group of its rotations, or itself. `text` are
    its words as published, `prompt` all that was asked. `score` is None where the right answer is not
    published.
    """

    id: str
    kind: str
    question: str
    cluster: str
    text: str
    prompt: str
    pictures: tuple[str, ...]
    reference: Reference
    answer: str
    reason: str
    error: str
    parsed: str
    found: bool
    score: float | None
    prompt_tokens: int | None
    visual_tokens: int | None
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The records of one benchmark, by one answerer, and its card: plain data, see `vlmlab.evaluate.card`."""

    records: tuple[Record, ...]
    card: Mapping[str, Any]

    @property
    def metric(self) -> tuple[str, str]:
        """The metric's name and its variant."""
        return self.card["metric"]["name"], self.card["metric"]["variant"]

    @property
    def name(self) -> str:
        """What pages call it: who answered what."""
        return f"{self.card['model']['name']} on {self.card['label']}"


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question on its way: what is known of it before it is answered, and the key of its answer."""

    id: str
    kind: str
    question: str
    text: str
    prompt: str
    pictures: tuple[str, ...]
    reference: Reference
    key: str


class Asking:
    """The questions of a benchmark, read once: what each answer hangs on, so that it is asked for once only.

    Raises ValueError naming the question that cannot be read, and for two questions with one id.
    """

    def __init__(
        self, benchmark: Benchmark, answerer: Answerer, writing: Writing, advance: Advance = lambda count: None
    ) -> None:
        self.benchmark, self.answerer, self.writing = benchmark, answerer, writing
        self.asked: list[Asked] = []
        seen: set[str] = set()
        for index in range(len(benchmark)):
            one = _asked(benchmark, index, answerer, writing)
            if one.id in seen:
                raise ValueError(f"{benchmark.config.name}: two questions have the id {one.id!r}")
            seen.add(one.id)
            self.asked.append(one)
            advance(1)
        if not self.asked:
            raise ValueError(f"{benchmark.config.name} has no questions")

    def missing(self, known: Known) -> list[int]:
        """The numbers of the questions whose answer is not known, each answer once."""
        first = {one.key: number for number, one in reversed(list(enumerate(self.asked)))}
        return sorted(number for key, number in first.items() if key not in known.replies)

    def answer(self, known: Known, advance: Advance = lambda count: None) -> None:
        """Ask what is missing; each answer is known as it comes. Raises ValueError naming the question at fault."""

        def jobs() -> Iterator[Job]:
            for number in self.missing(known):
                yield Job(number, self.asked[number].id, self.benchmark.ask(self.benchmark.question(number)))

        for number, reply in self.answerer.answers(jobs(), self.writing):
            known.add(self.asked[number].key, reply)
            advance(1)

    def records(self, known: Known, variant: str = metrics.OFFICIAL) -> list[Record]:
        """Every question with its answer, scored by a variant of the benchmark's metric."""
        return _records(self.benchmark.metric, variant, self.asked, [known.replies[one.key] for one in self.asked])


def _asked(benchmark: Benchmark, index: int, answerer: Answerer, writing: Writing) -> Asked:
    question = benchmark.question(index)
    try:
        sample = benchmark.ask(question)
        pictures = tuple(picture_digest(picture) for picture in question.pictures)
        asked = sample_plain(sample)
    except ValueError as error:
        raise ValueError(f"question {question.id}: {error}") from error
    texts = [part for part in question.parts if isinstance(part, str)]
    digest = fingerprint([question.id, texts, pictures, dataclasses.asdict(question.reference)])
    found = key(answerer.identity(), writing, asked)
    return Asked(
        id=question.id,
        kind=question.kind,
        question=digest,
        text=question.text,
        prompt=prompt_text(sample),
        pictures=pictures,
        reference=question.reference,
        key=found,
    )


def _records(metric: str, variant: str, asked: Sequence[Asked], replies: Sequence[Reply]) -> list[Record]:
    references = [one.reference for one in asked]
    scores: list[metrics.Score] | None = None
    if all(reference.answers for reference in references):
        scores = metrics.get(metric, variant).score([reply.text for reply in replies], references)
    records = []
    for number, (one, reply) in enumerate(zip(asked, replies, strict=True)):
        score = scores[number] if scores else None
        cluster = one.pictures[0] if one.pictures else one.reference.group or one.id
        records.append(
            Record(
                id=one.id,
                kind=one.kind,
                question=one.question,
                cluster=cluster,
                text=one.text,
                prompt=one.prompt,
                pictures=one.pictures,
                reference=one.reference,
                answer=reply.text,
                reason=reply.reason,
                error=reply.error,
                parsed=score.parsed if score else "",
                found=score.found if score else True,
                score=score.value if score else None,
                prompt_tokens=reply.prompt_tokens,
                visual_tokens=reply.visual_tokens,
                seconds=reply.seconds,
            )
        )
    return records


def submission(benchmark: Benchmark, records: Sequence[Record]) -> tuple[str, str]:
    """The file that the benchmark's own server takes, or else why there is none."""
    try:
        return benchmark.submission_text({record.id: record.answer for record in records}), ""
    except ValueError as error:
        return "", str(error)


def save(folder: Path, evaluation: Evaluation) -> None:
    """Write an evaluation's log and card into its folder."""
    lines = [json.dumps(record.plain(), ensure_ascii=True) for record in evaluation.records]
    write_text(folder / QUESTIONS, "\n".join(lines) + "\n")
    write_text(folder / CARD, json.dumps(evaluation.card, indent=1, ensure_ascii=True) + "\n")


def read(folder: Path) -> Evaluation:
    """An evaluation from its folder. Raises ValueError naming the file, and the line, that cannot be read."""
    card = _card(folder / CARD)
    path = folder / QUESTIONS
    records = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            records.append(_record(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: cannot be read: {error}; evaluate again") from None
    if len(records) != card["questions"]:
        raise ValueError(f"{path} holds {len(records)} of {card['questions']} questions; evaluate again")
    return Evaluation(tuple(records), card)


def reopened(evaluation: Evaluation) -> Benchmark | None:
    """The benchmark that was asked, opened again to look at its pictures; None where it cannot be."""
    try:
        config: BenchmarkConfig = component.parse(BenchmarkConfig, evaluation.card["benchmark"], trusted=False)
        built: Benchmark = config.build()
    except (ValueError, OSError):
        return None
    return built


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path.parent} is no evaluation: it lacks {path.name}; make one with vlmlab eval")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read: {error}; evaluate again") from None


_CARD: dict[str, type | tuple[type, ...]] = {
    "questions": int,
    "label": str,
    "benchmark": dict,
    "metric.name": str,
    "metric.variant": str,
    "model.name": str,
    "writing.max_new_tokens": int,
    "decoding": str,
    "prompt": str,
    "shares": dict,
    "visual_tokens": (float, int, type(None)),
    "seconds": (float, int),
    "versions": dict,
    "made_by": dict,
}
"""What is read of a card, by its key, and what it should be."""

_LACKING = object()


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: cannot be read: {error}; evaluate again") from None
    for place, kind in _CARD.items():
        if not isinstance(_at(card, place), kind):
            raise ValueError(f"{path} is no card of an evaluation: its {place} is missing, or odd; evaluate again")
    if card["questions"] < 1:
        raise ValueError(f"{path} is of no questions; evaluate again")
    return dict(card)


def _at(plain: Any, place: str) -> Any:
    """What stands at `a.b` of plain data; something that is no data where nothing does."""
    for name in place.split("."):
        plain = plain.get(name, _LACKING) if isinstance(plain, dict) else _LACKING
    return plain


_FIELDS = {field.name for field in dataclasses.fields(Record)}


def _record(plain: Any) -> Record:
    if not isinstance(plain, dict) or set(plain) != _FIELDS:
        raise ValueError("it is no record of a question")
    texts = ("id", "kind", "question", "cluster", "text", "prompt", "answer", "reason", "error", "parsed")
    if not all(isinstance(plain[name], str) for name in texts) or not isinstance(plain["pictures"], list):
        raise ValueError("it is no record of a question")
    if not isinstance(plain["score"], float | None) or not isinstance(plain["reference"], dict):
        raise ValueError("it is no record of a question")
    if not math.isfinite(plain["score"] or 0.0):
        raise ValueError(f"its score is {plain['score']}")
    reference = component.parse(Reference, plain["reference"], "reference")
    return Record(**{**plain, "pictures": tuple(plain["pictures"]), "reference": reference})
