"""Conversations without pictures: the nine text-only sets of the paper's instruction mixture, and others like them.

Every set has columns of its own; which they are is data, in `data/text_sets.toml`, or in the recipe.
"""

import dataclasses
import difflib
import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import Any

from vlmlab.batch import Message, Sample
from vlmlab.component import parse
from vlmlab.data.files import Row
from vlmlab.data.rows import RowSource, open_rows
from vlmlab.data.sources import SourceConfig
from vlmlab.data.turns import read_turns


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where a set has what is said: either `user` and `assistant`, or `turns`.

    The texts of the columns `user` are parted by a blank line, and empty ones are left out. `turns` is a column with a
    list of objects, where the key `speaker` says who speaks and `said` what; with `speaker` empty, a list of texts by
    turns. `system` is a column that may be missing or empty. `entry` is the set's name in the paper's mixture.
    """

    user: tuple[str, ...] = ()
    assistant: str = ""
    turns: str = ""
    speaker: str = "from"
    said: str = "value"
    system: str = ""
    entry: str = ""

    def __post_init__(self) -> None:
        asked = bool(self.user) and bool(self.assistant)
        if asked == bool(self.turns) or bool(self.user) != bool(self.assistant):
            raise ValueError("columns are either `user` and `assistant`, or `turns`")

    def needed(self) -> list[str]:
        """The columns that must be there."""
        return [self.turns] if self.turns else [*self.user, self.assistant]


@functools.cache
def sets() -> Mapping[str, Columns]:
    """The nine sets by name."""
    text = importlib.resources.files("vlmlab.data").joinpath("text_sets.toml").read_text(encoding="utf-8")
    return {name: parse(Columns, columns, f"text_sets.toml: {name}") for name, columns in tomllib.loads(text).items()}


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is a file or a pattern like `camel/*.json`; a `{split}` in it is replaced by the split.

    `set` is one of the nine sets; for another one, `columns` says which they are.
    """

    path: str = dataclasses.field(kw_only=True)
    set: str | None = None
    columns: Columns | None = None

    def __post_init__(self) -> None:
        if (self.set is None) == (self.columns is None):
            raise ValueError("say either which `set` it is, or which `columns` it has")
        if self.set is not None and self.set not in sets():
            near = difflib.get_close_matches(self.set, sets(), n=1, cutoff=0.5)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sets())}; for others, give `columns`"
            )
            raise ValueError(f"there is no text-only set {self.set!r}; {hint}")

    def mapping(self) -> Columns:
        """The columns, wherever they were given."""
        if self.columns is not None:
            return self.columns
        assert self.set is not None
        return sets()[self.set]


class Text(RowSource):
    """A conversation a row."""

    def __init__(self, config: Config) -> None:
        self.columns = config.mapping()
        # A system prompt may be missing: where there might be one, every column is read.
        wanted = () if self.columns.system else self.columns.needed()
        super().__init__(open_rows(config.path, config.split, wanted))

    def sample(self, row: Row) -> Sample:
        """The conversation; a system prompt stands first."""
        columns = self.columns
        turns = read_turns(row.items(columns.turns), columns.speaker, columns.said) if columns.turns else self._two(row)
        prompt: Any = row.values.get(columns.system)
        if isinstance(prompt, str) and prompt.strip() and turns[0][0] != "system":
            turns = [("system", prompt.strip()), *turns]
        return Sample(tuple(Message(role, (text,)) for role, text in turns))

    def _two(self, row: Row) -> list[tuple[str, str]]:
        first, *rest = self.columns.user
        asked = [row.text(first)]
        asked += [row.text(column) for column in rest if row[column]]
        return [("user", "\n\n".join(asked)), ("assistant", row.text(self.columns.assistant))]


PLUGIN = Text
