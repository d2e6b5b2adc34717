"""VQAv2 (Goyal et al., 2017): short questions about COCO's photographs, ten people's answers to each.

Read as lmms-lab/VQAv2 on the hub (validation, testdev, test), or as visualqa.org publishes it: in a folder,
`v2_OpenEnded_mscoco_val2014_questions.json`, `v2_mscoco_val2014_annotations.json` and the pictures in `val2014/`, or
one folder deeper; likewise train2014, test-dev2015 and test2015. The answers of testdev and test are not public.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, Row
from vlmlab.evaluate.benchmarks import Question
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.published import Published, PublishedConfig, identity, texts, vqa_files

OFFICIAL = {
    "train": ("train2014", "train2014"),
    "validation": ("val2014", "val2014"),
    "testdev": ("test-dev2015", "test2015"),
    "test": ("test2015", "test2015"),
}
"""What the official files of a split are called, and the folder of its pictures."""

SERVER = "EvalAI (https://eval.ai, VQA Challenge)"


SPLITS = {name: (name,) for name in OFFICIAL}
"""The splits, and what each is called in the names of the hub's files."""

SERVERS = {"testdev": SERVER, "test": SERVER}
"""Where the splits are scored whose answers are not public."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """Nothing to choose but what every published benchmark has."""


class VQAv2(Published):
    """The questions of VQAv2, of the kinds yes/no, number and other."""

    metric = "vqa"
    splits = SPLITS
    default_split = "testdev"
    servers = SERVERS

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """The JSON files of visualqa.org."""
        name, images = OFFICIAL[split]
        files = vqa_files(
            place,
            [f"v2_OpenEnded_mscoco_{name}_questions.json"],
            [f"v2_mscoco_{name}_annotations.json"],
            images,
            split in self.servers,
        )
        return [files] if files else None

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A question; its kind is the type of its answer, where that is known."""
        reference = Reference(_answers(row.values.get("answers")))
        parts = (row.picture(row["image"]), row.text("question"))
        return Question(identity(row, "question_id"), parts, reference, row.values.get("answer_type") or "")

    def submission(self, answers: Mapping[str, str]) -> list[dict[str, Any]]:
        """EvalAI's form: a list of question ids and answers."""
        return [{"question_id": int(one), "answer": said} for one, said in self.whole(answers).items()]


def _answers(value: Any) -> tuple[str, ...]:
    given = value or []
    said = (
        [one.get("answer") if isinstance(one, dict) else None for one in given] if isinstance(given, list) else [None]
    )
    if not all(isinstance(one, str) for one in said):
        raise ValueError(f"column 'answers' should be a list of objects with `answer`, not {value!r:.80}")
    return texts(said, "answers")


PLUGIN = VQAv2
