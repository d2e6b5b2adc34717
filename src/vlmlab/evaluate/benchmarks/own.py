"""Your own benchmark: a file of questions about pictures, each with the answers that count as right.

A line of JSON (or a row of a table or parquet file) has `question`, `answers` (a text or a list), and may have `image`
or `images` (paths beside the file, URLs, or bytes), `choices` (a list; the answer is then a letter), `id` and `kind`.
"""

import dataclasses
from typing import Any

from vlmlab.data.files import Row
from vlmlab.data.rows import open_rows
from vlmlab.evaluate.benchmarks import BenchmarkConfig, Parts, Question
from vlmlab.evaluate.metrics import MetricConfig, Reference, exact
from vlmlab.evaluate.of_rows import OfRows


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """`metric` scores the answers; `pool` is a second such file, from which examples are drawn."""

    pool: str = ""
    metric: MetricConfig = dataclasses.field(default_factory=exact.Config)
    max_new_tokens: int = 64


class Own(OfRows):
    """Questions from a file of one's own."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rows = open_rows(config.path, config.split)
        self.pool = open_rows(config.pool, config.split) if config.pool else None
        self.metric, self.variant = config.metric.name, config.metric.variant
        self.max_new_tokens = config.max_new_tokens

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A question, which may have pictures and choices."""
        values = row.values
        answers = _texts(row["answers"], "answers")
        if not answers:
            raise ValueError("column 'answers' is empty: name what counts as right")
        reference = Reference(answers, _texts(values.get("choices") or [], "choices"))
        if reference.choices and not {*answers} & {*reference.letters, *reference.choices}:
            raise ValueError(f"its answer {answers[0]!r} is none of {', '.join(reference.letters)}")
        parts: Parts = (*row.pictures(), row.text("question"))
        return Question(str(values.get("id", number)), parts, reference, str(values.get("kind") or ""))


def _texts(value: Any, column: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"column {column!r} should be a text or a list of texts, not {value!r:.80}")
    return tuple(texts)


PLUGIN = Own
