"""Screenshots with the HTML they are of, as WebSight is published: parquet with the columns `image` and `text`.

Its second version has the idea of each page beside them, in the column `llm_generated_idea`, which is not read.
"""

import dataclasses

from vlmlab.batch import Message, Sample
from vlmlab.data.files import Row
from vlmlab.data.rows import RowSource, open_rows
from vlmlab.data.sources import SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is a file, or a pattern like `websight/*.parquet`; a `{split}` in it is replaced by the split.

    With a `question`, a sample is a conversation; without, a plain document: the screenshot, then the code.
    """

    path: str = dataclasses.field(kw_only=True)
    question: str = "Write the HTML of this page."


class WebSight(RowSource):
    """A screenshot and its code a row."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(open_rows(config.path, config.split, ("image", "text")))

    def sample(self, row: Row) -> Sample:
        """The screenshot, and the HTML that it shows."""
        picture, code = row.picture(row["image"]), row.text("text")
        if not self.config.question:
            return Sample((Message("text", (picture, code)),))
        return Sample((Message("user", (picture, self.config.question)), Message("assistant", (code,))))


PLUGIN = WebSight
