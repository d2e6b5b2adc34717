"""ChartQA (Masry et al., 2022): questions about charts, written by people or made from summaries of the charts.

Read as HuggingFaceM4/ChartQA (train, val, test) or lmms-lab/ChartQA (test) on the hub, or as vis-nlp/ChartQA publishes
it: `test/test_human.json` and `test/test_augmented.json` in a folder, the charts in `test/png/`; likewise train and
val. All answers are public. Not one of the paper's benchmarks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, Row
from vlmlab.evaluate.benchmarks import Question
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.published import Entries, Published, PublishedConfig, find, label, read_json, texts

OFFICIAL = {"train": "train", "validation": "val", "test": "test"}
"""What the official files of a split are called after."""

KINDS = ("human", "augmented")
"""Who asks; the hub's `machine` is the authors' `augmented`."""


SPLITS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
"""The splits, and what each is called in the names of the hub's files."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """Nothing to choose but what every published benchmark has."""


class ChartQA(Published):
    """The questions of ChartQA, of the kinds human and augmented."""

    metric = "relaxed"
    splits = SPLITS
    default_split = "test"

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """Both JSON files of the authors."""
        name = OFFICIAL[split]
        found = {kind: find(place, f"{name}_{kind}.json") for kind in KINDS}
        files = [_Asked(path, read_json(path), kind) for kind, path in found.items() if path]
        if len(files) == 1 and not place.is_file():
            missing = next(kind for kind, path in found.items() if not path)
            raise ValueError(f"{files[0].path} needs {name}_{missing}.json beside it: both are the split")
        return files

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A question; rows have no ids, their numbers are."""
        values = row.values
        if "human_or_machine" in values:
            kind = {"human": "human", "machine": "augmented"}[
                label(values["human_or_machine"], ("human", "machine"), "human_or_machine")
            ]
        else:
            kind = row.text("type").removesuffix("_test")  # human_test, augmented_test
        asked, answer = ("query", "label") if "query" in values else ("question", "answer")
        reference = Reference(texts(row[answer], answer))
        return Question(f"{split}-{number}", (row.picture(row["image"]), row.text(asked)), reference, kind)


class _Asked(Entries):
    """The authors' entries, each with its kind and the path of its chart."""

    def __init__(self, path: Path, entries: list[Any], kind: str) -> None:
        super().__init__(path, entries)
        self.kind = kind

    def values(self, index: int) -> Mapping[str, Any]:
        entry = super().values(index)
        name = entry.get("imgname")
        if not isinstance(name, str) or not name:
            raise ValueError(f"imgname should be the name of a picture, not {name!r:.80}")
        return {**entry, "type": self.kind, "image": f"png/{name}"}


PLUGIN = ChartQA
