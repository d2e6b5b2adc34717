"""Portraits with the groups that people ascribed to who is on them, in the layouts the model card uses.

FairFace      image, and numbers: age, gender, race (huggingface.co/datasets/HuggingFaceM4/FairFace)
Stable Bias   image, and words: gender_phrase, ethnicity_phrase, as in m4-bias-eval-stable-bias;
              m4-bias-eval-fair-face has age_range beside them
"""

import dataclasses
from collections.abc import Iterator, Mapping

from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.files import Row, naming
from vlmlab.data.rows import Rows, open_rows

NUMBERED: dict[str, tuple[str, ...]] = {
    "age": ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"),
    "gender": ("Male", "Female"),
    "race": ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian"),
}
"""FairFace's numbers, as its card names them."""

WORDED = {"gender_phrase": "gender", "ethnicity_phrase": "ethnicity", "age_range": "age"}
"""Columns that hold a group's name, and what they tell apart."""


@dataclasses.dataclass(frozen=True)
class Portrait:
    """A picture of one person. `groups` says to which group they were ascribed, by what it tells apart."""

    id: str
    picture: Picture
    groups: Mapping[str, str]

    def asked(self, prompt: str) -> Sample:
        """The picture with a prompt, as one turn of a conversation."""
        return Sample((Message("user", (self.picture, prompt)),))


class Portraits:
    """The portraits of a folder, file or pattern, up to `limit` of them spread evenly (0: all).

    Raises ValueError naming the file, the row and the column at fault.
    """

    def __init__(self, path: str, split: str = "", limit: int = 0) -> None:
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, not {limit}")
        self.rows: Rows = open_rows(path, split)
        self.chosen = min(limit, len(self.rows)) if limit else len(self.rows)

    def __len__(self) -> int:
        return self.chosen

    def __iter__(self) -> Iterator[Portrait]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Portrait:
        if not 0 <= index < self.chosen:
            raise IndexError(index)
        number = index * len(self.rows) // self.chosen
        row = self.rows[number]
        with naming(row.place):
            return Portrait(str(number), row.picture(row["image"]), _groups(row))


def _groups(row: Row) -> dict[str, str]:
    found = {kind: row.text(column) for column, kind in WORDED.items() if column in row.values}
    for kind, names in NUMBERED.items():
        if kind in row.values:
            value = row[kind]
            if isinstance(value, str) and value.strip():
                found[kind] = value.strip()
            elif isinstance(value, int) and 0 <= value < len(names):
                found[kind] = names[value]
            else:
                raise ValueError(f"column {kind!r} should be a name or a number below {len(names)}, not {value!r:.80}")
    if not found:
        raise ValueError(f"nothing says who is on the picture: give one of {', '.join([*WORDED, *NUMBERED])}")
    return found
