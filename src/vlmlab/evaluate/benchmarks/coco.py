"""COCO captions in Karpathy's split (Karpathy and Fei-Fei, 2015): a sentence for a photograph, held against five.

Read as its author publishes it: `dataset_coco.json` in a folder, or one folder deeper, and the pictures in `val2014/`
and `train2014/`; as HuggingFaceM4/COCO's captions (columns `image` and `sentences_raw`); or as yerevann/coco-karpathy
on the hub, which has no pictures: `images` says where they are. All captions are public.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmlab.batch import Picture
from vlmlab.data.files import File, Row
from vlmlab.evaluate.benchmarks import Parts, Question
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.published import Entries, Published, PublishedConfig, find, read_json, texts

# The reference code (huggingface/smollm at a0417598, vision/m4): what a model that follows instructions is asked, and
# caption template 7 of the base model's evaluation.
ASKED = "Describe the image briefly."
ITEM = "{pictures}Caption:"


SPLITS = {"train": ("train",), "restval": ("restval",), "validation": ("validation", "val"), "test": ("test",)}
"""The splits, and what each is called in the names of the hub's files."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """`images` is the folder with COCO's `val2014/` and `train2014/`, where it is not `path`."""

    images: str = ""


class COCO(Published):
    """The photographs of COCO, captions as references."""

    metric = "cider"
    splits = SPLITS
    default_split = "test"
    opening = ""
    open_item = ITEM
    document_stop = ("\n", "Caption", "Description", "User", "Image")

    def __init__(self, config: Config) -> None:
        """Raises ValueError when the split is unknown, or its files are not there or cannot be read."""
        self.images = Path(config.images).expanduser().resolve() if config.images else None
        super().__init__(config)

    def folder(self) -> str:
        """HuggingFaceM4/COCO, as the hub converts it, has other tasks too."""
        return "2014_captions"

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """Karpathy's JSON file."""
        listed = find(place, "dataset_coco.json")
        if listed is None:
            return None
        name = {"validation": "val"}.get(split, split)
        entries = read_json(listed, "images")
        kept = [at for at, one in enumerate(entries) if not isinstance(one, dict) or one.get("split") == name]
        return [Entries(listed, entries, kept)] if kept else None

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A photograph to describe."""
        values = row.values
        if "sentences_raw" in values:
            captions = values["sentences_raw"]
        else:
            given = row.items("sentences")
            captions = [one.get("raw") if isinstance(one, dict) else one for one in given]
        reference = Reference(tuple(text.strip() for text in texts(captions, "sentences")))
        if not reference.answers:
            raise ValueError("it has no captions")
        one = values.get("cocoid", values.get("imgid"))
        if not isinstance(one, int):
            raise ValueError(f"column 'cocoid' should be a whole number, not {one!r}")
        return Question(str(one), (self._picture(row),), reference)

    def prompt(self, question: Question) -> Parts:
        """The picture, and that it should be described."""
        return (*question.pictures, ASKED)

    def _picture(self, row: Row) -> Picture:
        if isinstance(row.values.get("image"), Mapping):
            return row.picture(row["image"])
        folder, name = row.text("filepath"), row.text("filename")
        place = self.images or row.folder
        if row.values.get("url") and self.images is None:
            raise ValueError(f"it has no picture, only a URL: give the folder that holds COCO's {folder}/ as `images`")
        beside = place / folder / name
        return row.picture(str((beside if beside.exists() else place.parent / folder / name).resolve()))


PLUGIN = COCO
