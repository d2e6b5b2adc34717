"""Pictures with captions: PMD, LAION-COCO, or a folder of your own.

They are read from webdataset tars (`.jpg` beside `.txt` and `.json`), from parquet, CSV or JSON lines with a column for
the picture, and from a folder of pictures: with a `.txt` beside each, or with one `metadata.csv` or `metadata.jsonl`,
in which the picture's column is called `file_name`, as the `datasets` library has it.
"""

import dataclasses
from typing import Literal

from vlmlab.batch import Message, Sample
from vlmlab.data.files import Row
from vlmlab.data.rows import RowSource, open_rows
from vlmlab.data.sources import Pair, PairSource, SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is a file, a folder, or a pattern like `shards/*.tar`; a `{split}` in it is replaced by the split.

    `caption` says which text is the caption: the one that stood with the picture, in the column `alt`, or the one that
    a model wrote, in the column `synthetic` (the paper's Table 6 compares them: 49.8 and 52.9 points). The picture is
    in the column `image`; `pictures` is the folder that its paths are relative to, and where what a URL names lies
    under the URL's SHA-256. In tars and folders, the picture is the column `image`, what the `.txt` holds is `text`,
    and the keys of the `.json` are columns too.

    With a `question`, a sample is a conversation: the question about the picture, its caption as the answer. Without,
    it is a plain document, all of it to be learned from, as in the paper's first stage.
    """

    path: str = dataclasses.field(kw_only=True)
    caption: Literal["alt", "synthetic"] = "alt"
    alt: str = "text"
    synthetic: str = "top_caption"
    image: str = "image"
    pictures: str = ""
    question: str = ""


class Pairs(PairSource, RowSource):
    """A picture with its caption a row."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.column = config.alt if config.caption == "alt" else config.synthetic
        super().__init__(open_rows(config.path, config.split, (config.image, self.column)))

    def pair(self, index: int) -> Pair:
        """The picture and the caption of row number `index`. Raises IndexError past the end."""
        return self.read(index, self._pair)

    def sample(self, row: Row) -> Sample:
        """The picture with its caption behind it, or as the answer to the question."""
        pair = self._pair(row)
        if not self.config.question:
            return Sample((Message("text", (pair.picture, pair.title)),))
        return Sample(
            (Message("user", (pair.picture, self.config.question)), Message("assistant", (pair.title,))),
        )

    def _pair(self, row: Row) -> Pair:
        return Pair(row.picture(row[self.config.image], self.config.pictures), row.text(self.column))


PLUGIN = Pairs
