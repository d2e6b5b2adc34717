"""The Cauldron: 50 sets of questions about pictures in one layout, the instruction data of the paper's section 4.2.

Its parquet files have a list `images` of `{"bytes": ..., "path": ...}` and a list `texts` of `{"user": ...,
"assistant": ..., "source": ...}`: all the questions that were asked about those pictures.
"""

import dataclasses
from pathlib import Path

from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.files import Row
from vlmlab.data.rows import RowSource, open_rows
from vlmlab.data.sft_mixture import of_subset
from vlmlab.data.sources import SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is the folder of the published dataset, which has a folder for each `subset`."""

    path: str = dataclasses.field(kw_only=True)
    subset: str = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        of_subset(self.subset)


class Cauldron(RowSource):
    """One subset. A sample is one conversation: the pictures stand before the first question, as in the paper."""

    def __init__(self, config: Config) -> None:
        files = Path(config.path) / config.subset / (config.split + "-*.parquet")
        super().__init__(open_rows(str(files), config.split, ("images", "texts")))

    def sample(self, row: Row) -> Sample:
        """Every question of a row in turn, each with its answer."""
        pictures = tuple(row.picture(value, number=number) for number, value in enumerate(row.items("images")))
        messages = []
        for number, turn in enumerate(row.items("texts")):
            question, answer = (_said(turn, key, number) for key in ("user", "assistant"))
            parts: tuple[str | Picture, ...] = (*pictures, question) if number == 0 else (question,)
            messages += [Message("user", parts), Message("assistant", (answer,))]
        if not messages:
            raise ValueError("there are no questions in `texts`")
        return Sample(tuple(messages))


def _said(turn: object, key: str, number: int) -> str:
    text = turn.get(key) if isinstance(turn, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"turn {number} of `texts` should have text as its {key!r}, not {text!r:.80}")
    return text.strip()


PLUGIN = Cauldron
