"""OK-VQA (Marino et al., 2019): questions about COCO's photographs that need knowledge from elsewhere, ten answers.

Read as lmms-lab/OK-VQA on the hub (val2014, our `validation`; it has no train), or as okvqa.allenai.org publishes it:
in a folder, `OpenEnded_mscoco_val2014_questions.json`, `mscoco_val2014_annotations.json` and the pictures in
`val2014/`, or one folder deeper; likewise train2014. All answers are public.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, Row
from vlmlab.evaluate.benchmarks import Question
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.published import Published, PublishedConfig, identity, texts, vqa_files

SPLITS = {"train": ("train", "train2014"), "validation": ("val2014", "validation", "val")}
"""The splits, and what each is called in the names of the hub's files."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """`stemmed` compares with the answers that the authors stemmed (version 1.1), as they do, instead of the raw ones.

    The raw ones are what the reference code of the paper compares with. Files that hold one form only take no
    `stemmed`.
    """

    stemmed: bool = False


class OKVQA(Published):
    """The questions of OK-VQA."""

    metric = "vqa"
    splits = SPLITS
    default_split = "validation"

    def __init__(self, config: Config) -> None:
        """Raises ValueError when the split is unknown, or its files are not there or cannot be read."""
        super().__init__(config)
        self.stemmed = config.stemmed

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """The JSON files of okvqa.allenai.org."""
        name = {"train": "train2014", "validation": "val2014"}[split]
        files = vqa_files(
            place,
            [f"OpenEnded_mscoco_{name}_questions.json"],
            [f"mscoco_{name}_annotations.json"],
            name,
            hidden=False,
        )
        return [files] if files else None

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A question; its kind is the type of knowledge, as the file has it."""
        reference = Reference(self._answers(row["answers"]))
        parts = (row.picture(row["image"]), row.text("question"))
        return Question(identity(row, "question_id"), parts, reference, row.values.get("question_type") or "")

    def _answers(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            wanted = "answer" if self.stemmed or "raw_answer" not in value[0] else "raw_answer"
            if self.stemmed and "raw_answer" not in value[0]:
                raise ValueError("its answers are in one form only: ask without `stemmed`")
            return texts([one.get(wanted) for one in value], "answers")
        if self.stemmed:
            raise ValueError("its answers are in one form only: ask without `stemmed`")
        return texts(value, "answers")


PLUGIN = OKVQA
