"""DocVQA (Mathew et al., 2021; task 1, single pages): questions about scanned pages, every spelling that counts.

Read as lmms-lab/DocVQA (its folder `DocVQA`) or HuggingFaceM4/DocumentVQA on the hub (train, validation, test), or as
rrc.cvc.uab.es publishes it: `val_v1.0_withQT.json` or `val_v1.0.json` (likewise train and test) in a folder, and the
pages in `spdocvqa_images/`, or in `documents/` beside the file. The answers of test are not public.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, Row
from vlmlab.evaluate.benchmarks import Question
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.published import Entries, Published, PublishedConfig, find, identity, read_json, texts

OFFICIAL = {"train": "train", "validation": "val", "test": "test"}
"""What the official file of a split is called after."""


SPLITS = {name: (name,) for name in OFFICIAL}
"""The splits, and what each is called in the names of the hub's files."""

SERVERS = {"test": "the Robust Reading Competition (https://rrc.cvc.uab.es/?ch=17, task 1)"}
"""Where the splits are scored whose answers are not public."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """Nothing to choose but what every published benchmark has."""


class DocVQA(Published):
    """The questions of DocVQA; a question's kinds (table/list, form, ...) are told together."""

    metric = "anls"
    splits = SPLITS
    default_split = "test"
    servers = SERVERS

    def folder(self) -> str:
        """The hub's lmms-lab/DocVQA holds InfographicVQA too."""
        return "DocVQA"

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """The JSON file of the competition."""
        name = OFFICIAL[split]
        asked = find(place, f"{name}_v1.0_withQT.json", f"{name}_v1.0.json")
        if asked is None:
            return None
        return [_Asked(asked, read_json(asked, "data"), asked.parent if place.is_file() else place)]

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A question about a page."""
        kind = ", ".join(sorted(texts(row.values.get("question_types"), "question_types")))
        reference = Reference(texts(row.values.get("answers"), "answers"))
        parts = (row.picture(row["image"]), row.text("question"))
        return Question(identity(row, "questionId"), parts, reference, kind)

    def submission(self, answers: Mapping[str, str]) -> list[dict[str, Any]]:
        """The competition's form: a list of question ids and answers."""
        return [{"questionId": int(one), "answer": said} for one, said in self.whole(answers).items()]


class _Asked(Entries):
    """The official entries, each with the path of its page."""

    def __init__(self, path: Path, entries: list[Any], place: Path) -> None:
        super().__init__(path, entries)
        self.pages = find(place, "spdocvqa_images")

    def values(self, index: int) -> Mapping[str, Any]:
        entry = super().values(index)
        image = entry.get("image")  # documents/xnbl0037_1.png, wherever the pages were unpacked
        if not isinstance(image, str) or not image:
            raise ValueError(f"image should be a path, not {image!r:.80}")
        page = self.pages / Path(image).name if self.pages else self.path.parent / image
        return {**entry, "image": str(page.resolve())}


PLUGIN = DocVQA
