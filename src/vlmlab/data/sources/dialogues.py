"""Dialogues about pictures in LLaVA's layout: LLaVA-Conv, ShareGPT4V, and the many sets that follow them.

    [{"id": "7", "image": "coco/7.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A kite."}]}]

`image` is a path, a list of paths, or missing; each `<image>` in what is said stands for the next one.
"""

import dataclasses
from collections.abc import Iterator

from vlmlab.batch import IMAGE_MARK, Message, Picture, Sample
from vlmlab.data.files import Row
from vlmlab.data.rows import RowSource, open_rows
from vlmlab.data.sources import SourceConfig
from vlmlab.data.turns import read_turns


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is the JSON (or JSON lines) file; a `{split}` in it is replaced by the split.

    `pictures` is the folder that the paths of pictures are relative to, instead of the file's own.
    """

    path: str = dataclasses.field(kw_only=True)
    pictures: str = ""


class Dialogues(RowSource):
    """A dialogue a row."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(open_rows(config.path, config.split))

    def sample(self, row: Row) -> Sample:
        """The dialogue with its pictures where it marks them; the line breaks around a mark are left out."""
        given = row.values.get("image")
        images = given if isinstance(given, list) else [] if given is None else [given]
        pictures = [row.picture(value, self.config.pictures, number) for number, value in enumerate(images)]
        turns = read_turns(row.items("conversations"))
        marks = sum(text.count(IMAGE_MARK) for _, text in turns)
        if marks != len(pictures):
            raise ValueError(f"it has {len(pictures)} pictures, and {marks} {IMAGE_MARK} marks in what is said")
        left = iter(pictures)
        return Sample(tuple(Message(role, tuple(_parts(text, left))) for role, text in turns))


def _parts(text: str, pictures: Iterator[Picture]) -> Iterator[str | Picture]:
    """What is said, with the next pictures in the place of their marks."""
    for number, piece in enumerate(text.split(IMAGE_MARK)):
        if number:
            yield next(pictures)
        if piece.strip():
            yield piece.strip()


PLUGIN = Dialogues
