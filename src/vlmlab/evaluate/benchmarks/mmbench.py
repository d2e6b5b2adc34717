"""MMBench (Liu et al., 2023): multiple choice over 20 abilities, each question with its choices in every rotation.

Read as the tables that OpenCompass publishes (`MMBench_TEST_EN_V11.tsv`, `mmbench_test_en_20231003.tsv`, ...; pictures
in base64, or the index of the row that has it), one of them or a folder with one; or as lmms-lab/MMBench or
HuggingFaceM4/MMBench on the hub. The answers of test are not public.
"""

import base64
import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlab.batch import Picture
from vlmlab.data.files import File, Row, naming
from vlmlab.data.files.table import Table
from vlmlab.evaluate.benchmarks import Question
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.published import Published, PublishedConfig

ROTATION = 1_000_000
"""The rotations of question 241 are the rows 241, 1000241, 2000241, ..."""

LONGEST_INDEX = 64
"""A picture in base64 is longer; a shorter text is the index of the row that holds the picture."""

LETTERS = ("A", "B", "C", "D", "E")


SPLITS = {"dev": ("dev", "validation"), "test": ("test",)}
"""The splits, and what each is called in the names of the hub's files."""

SERVERS = {"test": "OpenCompass (https://mmbench.opencompass.org.cn)"}
"""Where the splits are scored whose answers are not public."""


@dataclasses.dataclass(frozen=True)
class Config(PublishedConfig):
    """`circular` asks every rotation of a question, which is right where all are; else each is asked once.

    `language` is the one of the table. `limit` counts questions, each with all of its rotations.
    """

    circular: bool = True
    language: str = "en"


class MMBench(Published):
    """The questions of MMBench; their kind is the ability."""

    metric = "mmbench"
    splits = SPLITS
    default_split = "test"
    pool_split = "dev"
    servers = SERVERS
    submission_ending = ".tsv"

    def __init__(self, config: Config) -> None:
        """Raises ValueError when the split is unknown, or its files are not there or cannot be read."""
        self.language = config.language
        super().__init__(config)
        self.indices = [_index(row) for row in self.only(self.rows, ("index",))]
        asked = [number for number, index in enumerate(self.indices) if config.circular or index < ROTATION]
        groups = list(dict.fromkeys(self.indices[number] % ROTATION for number in asked))
        if config.limit:
            kept = min(config.limit, len(groups))
            groups = [groups[at * len(groups) // kept] for at in range(kept)]
        chosen = set(groups)
        self.numbers = [number for number in asked if self.indices[number] % ROTATION in chosen]
        shown = [] if self.pool is None else [_index(row) for row in self.only(self.pool, ("index",))]
        # Of the pool's rotations one is enough, so that a question has no more than one twin there.
        self.pool_numbers = [number for number, index in enumerate(shown) if index < ROTATION]
        self.where = {self.split: _places(self.indices), **({self.pool_split: _places(shown)} if shown else {})}

    def folder(self) -> str:
        """The hub's lmms-lab/MMBench has a folder a language."""
        return self.language

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """The table of OpenCompass: the file itself, or the one of its name in a folder."""
        if place.is_file():
            return [Table(place)] if place.suffix.lower() == ".tsv" else None
        name = re.compile(rf"mmbench_{split}(?:_([a-z]{{2}}))?(?:_.*)?", re.IGNORECASE)
        found = []
        for path in sorted(place.rglob("*.tsv")):
            said = name.fullmatch(path.stem)
            if said and (said.group(1) or self.language).lower() == self.language:
                found.append(path)
        if len(found) > 1:
            raise ValueError(
                f"{place} holds several tables of the split {split!r}: give one of "
                + ", ".join(str(path.relative_to(place)) for path in found)
            )
        return [Table(path) for path in found]

    def __len__(self) -> int:
        return len(self.numbers)

    def count(self) -> int:
        """How many there are."""
        return len(self.numbers)

    def read(self, number: int) -> Question:
        """Question number `number`. Raises ValueError naming the file and the row."""
        return super().read(self.numbers[number])

    def pool_count(self) -> int:
        """How many questions there are to draw examples from."""
        return len(self.pool_numbers)

    def pool_read(self, number: int) -> Question:
        """Question number `number` of those that examples are drawn from."""
        return super().pool_read(self.pool_numbers[number])

    def parse(self, row: Row, split: str, number: int) -> Question:
        """One rotation of a question; a hint, where there is one, stands before it."""
        index = _index(row)
        choices = _choices(row)
        answer = _told(row, "answer")
        if answer and answer not in LETTERS[: len(choices)]:
            raise ValueError(f"its answer {answer!r} is none of {', '.join(LETTERS[: len(choices)])}")
        hint = _told(row, "hint")
        asked = f"{hint}\n{row.text('question')}" if hint else row.text("question")
        reference = Reference((answer,) if answer else (), choices, group=str(index % ROTATION))
        return Question(str(index), (self._picture(row, split), asked), reference, _told(row, "category"))

    def _picture(self, row: Row, split: str) -> Picture:
        value = row["image"]
        if isinstance(value, str) and 0 < len(value) <= LONGEST_INDEX:
            if not value.strip().isdecimal():
                raise ValueError(f"column 'image' should be a picture in base64 or a row's index, not {value!r}")
            rows, number = self.rows if split == self.split else self.pool, self.where[split].get(int(value))
            if rows is None or number is None:
                raise ValueError(f"its picture should stand in the row of index {value}, which is not there")
            other = rows[number]
            with naming(other.place):
                if len(str(other["image"])) <= LONGEST_INDEX:
                    raise ValueError("column 'image' should be the picture that another row names")
                return _decoded(other)
        return _decoded(row)

    def submission(self, answers: Mapping[str, str]) -> list[dict[str, Any]]:
        """The server's rows: each rotation's index, question, choices and what was said."""
        if len(answers) != len(self.rows):
            raise ValueError(
                f"{self.config.name} {self.split}: a submission needs an answer to each of the {len(self.rows)} "
                f"rotations, there are {len(answers)}: ask with circular = true, without a limit"
            )
        told = []
        for number, index in enumerate(self.indices):
            row = self.rows[number]
            if str(index) not in answers:
                raise ValueError(f"{row.place}: there is no answer to question {index}")
            columns = {letter: row.values[letter] or "" for letter in LETTERS if letter in row.values}
            told.append(
                {"index": index, "question": row["question"], **columns, "prediction": answers[str(index)].strip()}
            )
        return told

    def submission_text(self, answers: Mapping[str, str]) -> str:
        """The rows as a table, values parted by tabs. The server takes it saved as a sheet, `.xlsx`."""
        rows = self.submission(answers)
        held = io.StringIO()
        table = csv.DictWriter(held, list(rows[0]), dialect="excel-tab", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        return held.getvalue()


def _index(row: Row) -> int:
    with naming(row.place):
        value = row["index"]
        if isinstance(value, bool) or not re.fullmatch(r"\d+(?:\.0)?", str(value)):
            raise ValueError(f"column 'index' should be a whole number, not {value!r:.80}")
        return int(float(value))


def _places(indices: Sequence[int]) -> dict[int, int]:
    """The row of each index."""
    return {index: number for number, index in enumerate(indices)}


def _told(row: Row, column: str) -> str:
    """A text of the table; `nan` is how a table that went through pandas writes that there is none."""
    value = row.values.get(column)
    return "" if value is None or str(value).strip() in ("", "nan") else str(value).strip()


def _choices(row: Row) -> tuple[str, ...]:
    """The choices up to the first that is empty. Raises ValueError where there are fewer than two, or a gap."""
    given = [_told(row, letter) for letter in LETTERS]
    count = next((at for at, text in enumerate(given) if not text), len(given))
    if count < 2 or any(given[count:]):
        raise ValueError(f"columns A, B, ... should hold two choices or more, without a gap, not {given}")
    return tuple(given[:count])


def _decoded(row: Row) -> Picture:
    value = row["image"]
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except ValueError as error:
            raise ValueError(f"column 'image' should be a picture in base64: {error}") from None
    return row.picture(value)


PLUGIN = MMBench
