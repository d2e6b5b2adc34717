"""Small benchmarks and those who answer them: a tiny model in a folder, and one who knows the answers in advance."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from generate import tiny
from vlmlab import component
from vlmlab.evaluate.answering import Answerer, Job, Reply, Writing
from vlmlab.evaluate.benchmarks import BenchmarkConfig
from vlmlab.evaluate.evaluation import Record
from vlmlab.evaluate.metrics import Reference
from vlmlab.hub.save import save


def file(folder: Path, count: int = 24, name: str = "questions.jsonl", **changes: Any) -> Path:
    """A file of questions, two about each picture, of two kinds; the right answer to number n is n."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n in range(count):
        place = folder / f"{n // 2}.png"
        if not place.exists():
            tiny.picture(16 + n % 7, 20, n // 2).save(place)
        kind = "even" if n % 4 < 2 else "odd"
        rows.append({"question": f"What is {n}?", "answers": [str(n)], "image": place.name, "kind": kind, **changes})
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(path: Path, **keys: Any) -> BenchmarkConfig:
    """One's own benchmark from such a file."""
    return component.parse(BenchmarkConfig, {"name": "own", "path": str(path), "max_new_tokens": 4, **keys})


def model(folder: Path) -> Path:
    """A tiny model with its tokenizer, as a folder."""
    made = tiny.build(dtype=torch.float32, changes={"language.window": None})
    return save(made, tiny.processor(made), folder)


class Sure(Answerer):
    """Answers by a rule from the question's number; counts what it was asked."""

    def __init__(self, rule: Callable[[int], str] = str, name: str = "sure", at_most: int | None = None) -> None:
        self.rule, self.name, self.at_most = rule, name, at_most
        self.asked: list[str] = []

    def identity(self) -> Mapping[str, Any]:
        return {"rule": self.name}

    def answers(self, jobs: Iterable[Job], writing: Writing) -> Iterator[tuple[int, Reply]]:
        for job in jobs:
            if len(self.asked) == self.at_most:
                raise KeyboardInterrupt
            self.asked.append(job.name)
            yield job.number, Reply(self.rule(int(job.name)), "end", 10, 3, 0.5)


def record(number: int, score: float | None = 1.0, **changes: Any) -> Record:
    """One question's record, with a picture of its own."""
    told: dict[str, Any] = {
        "id": str(number),
        "kind": "",
        "question": f"q{number}",
        "cluster": f"c{number}",
        "text": f"What is {number}?",
        "prompt": f"User: What is {number}?",
        "pictures": (),
        "reference": Reference((str(number),)),
        "answer": str(number),
        "reason": "end",
        "error": "",
        "parsed": str(number),
        "found": True,
        "score": score,
        "prompt_tokens": 10,
        "visual_tokens": 3,
        "seconds": 0.5,
    }
    return Record(**{**told, **changes})
