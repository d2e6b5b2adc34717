"""Rendered text: pictures of handwriting-like text on paper, as RenderedText is published; the answer is the text.

Each row is a picture beside a JSON file, in webdataset tars or in a folder. What is written is a list of lines under
`ocr_annotation`, `text`, with their corners under `bounding_boxes`, in pixels. For text of your own, see `typeset`.
"""

import dataclasses
from typing import Any

from vlmlab.batch import Message, Sample
from vlmlab.data.files import Row
from vlmlab.data.rows import RowSource, open_rows
from vlmlab.data.sources import SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is a tar, a pattern like `shards/*.tar`, or a folder; a `{split}` in it is replaced by the split.

    With a `question`, a sample is a conversation; without, a plain document: the picture, then the text.
    """

    path: str = dataclasses.field(kw_only=True)
    question: str = "What does it say?"


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of text and its four corners, in pixels, from the top left one on."""

    text: str
    corners: tuple[tuple[float, float], ...]


class RenderedText(RowSource):
    """A picture of text a row."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(open_rows(config.path, config.split))

    def sample(self, row: Row) -> Sample:
        """The picture, and what is written in it, a line for each line."""
        picture = row.picture(row["image"])
        text = "\n".join(line.text for line in _lines(row))
        if not self.config.question:
            return Sample((Message("text", (picture, text)),))
        return Sample((Message("user", (picture, self.config.question)), Message("assistant", (text,))))

    def truth(self, index: int) -> list[Line]:
        """The lines of row number `index` with their places. Raises IndexError past the end."""
        return self.read(index, _lines)


def _lines(row: Row) -> list[Line]:
    told = row["ocr_annotation"]
    texts = told.get("text") if isinstance(told, dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("`ocr_annotation` should have a list of lines under `text`")
    boxes: Any = told.get("bounding_boxes")
    if not isinstance(boxes, list) or len(boxes) != len(texts):
        raise ValueError(f"`ocr_annotation` has {len(texts)} lines; it should have as many `bounding_boxes`")
    try:
        places = [tuple((float(x), float(y)) for x, y in box) for box in boxes]
    except (TypeError, ValueError):
        raise ValueError("each of `bounding_boxes` should be a list of corners, each of two numbers") from None
    return [Line(text.strip(), place) for text, place in zip(texts, places, strict=True)]


PLUGIN = RenderedText
