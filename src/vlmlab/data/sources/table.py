"""Your own questions and answers: a table with a column for the picture, one for the question, one for the answer.

    picture,question,answer
    kite.jpg,What is this?,A kite.
    kite.jpg,What colour is it?,Red.

CSV, TSV, JSON lines, JSON and parquet are read alike.
"""

import dataclasses

from vlmlab.batch import Message, Sample
from vlmlab.data.files import Row
from vlmlab.data.rows import RowSource, open_rows
from vlmlab.data.sources import SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is a file or a pattern; a `{split}` in it is replaced by the split. The rest names the columns.

    `picture` may be empty: then there are none. A row whose picture is empty is a question without one. `pictures` is
    the folder that paths are relative to, instead of the file's own.
    """

    path: str = dataclasses.field(kw_only=True)
    picture: str = "picture"
    question: str = "question"
    answer: str = "answer"
    pictures: str = ""


class Questions(RowSource):
    """A question with its answer a row."""

    def __init__(self, config: Config) -> None:
        self.config = config
        columns = [column for column in (config.picture, config.question, config.answer) if column]
        super().__init__(open_rows(config.path, config.split, columns))

    def sample(self, row: Row) -> Sample:
        """A conversation of two messages, the picture before the question."""
        config = self.config
        value = row[config.picture] if config.picture else None
        pictures = () if value in (None, "") else (row.picture(value, config.pictures),)
        question, answer = row.text(config.question), row.text(config.answer)
        return Sample((Message("user", (*pictures, question)), Message("assistant", (answer,))))


PLUGIN = Questions
