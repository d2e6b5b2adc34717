"""TextVQA (Singh et al., 2019): questions about texts in photographs, ten people's answers to each.

Read as facebook/textvqa or lmms-lab/textvqa on the hub (train, validation, test), or as textvqa.org publishes it: in a
folder, `TextVQA_0.5.1_val.json` and the pictures in `train_images/` (which validation shares) and `test_images/`. The
answers of test are not public.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, Row
from vlmlab.evaluate.benchmarks import Question
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.published import Entries, Published, PublishedConfig, find, identity, read_json, texts

OFFICIAL = {"train": ("train", "train_images"), "validation": ("val", "train_images"), "test": ("test", "test_images")}
"""What the official file of a split is called after, and the folder of its pictures."""


SPLITS = {name: (name,) for name in OFFICIAL}
"""The splits, and what each is called in the names of the hub's files."""

SERVERS = {"test": "EvalAI (https://eval.ai, TextVQA Challenge)"}
"""Where the splits are scored whose answers are not public."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """Nothing to choose but what every published benchmark has."""


class TextVQA(Published):
    """The questions of TextVQA."""

    metric = "vqa"
    splits = SPLITS
    default_split = "validation"
    servers = SERVERS

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """The JSON file of textvqa.org."""
        name, images = OFFICIAL[split]
        asked = find(place, *(f"TextVQA_{version}_{name}.json" for version in ("0.5.1", "0.5")))
        if asked is None:
            return None
        root = asked.parent if place.is_file() else place
        return [_Asked(asked, read_json(asked, "data"), (find(root, images) or root / images).resolve())]

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A question."""
        reference = Reference(texts(row.values.get("answers"), "answers"))
        return Question(identity(row, "question_id"), (row.picture(row["image"]), row.text("question")), reference)

    def submission(self, answers: Mapping[str, str]) -> list[dict[str, Any]]:
        """EvalAI's form: a list of question ids and answers."""
        return [{"question_id": int(one), "answer": said} for one, said in self.whole(answers).items()]


class _Asked(Entries):
    """The official entries, each with the path of its picture."""

    def __init__(self, path: Path, entries: list[Any], pictures: Path) -> None:
        super().__init__(path, entries)
        self.pictures = pictures

    def values(self, index: int) -> Mapping[str, Any]:
        entry = super().values(index)
        name = entry.get("image_id")
        if not isinstance(name, str) or not name:
            raise ValueError(f"image_id should be a text, not {name!r:.80}")
        return {**entry, "image": str(self.pictures / f"{name}.jpg")}


PLUGIN = TextVQA
