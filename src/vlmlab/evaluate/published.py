"""Published benchmarks: a folder of the hub's parquet files, or of the official ones, or a hub id that is fetched.

FOLDER/data/validation-00000-of-00003.parquet    as `huggingface_hub` puts a dataset on disk, or
FOLDER/default/validation/0000.parquet           as the hub converts one (revision refs/convert/parquet), or
FOLDER/...json, .tsv, .csv and a folder of pictures, as the authors publish it
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlmlab.data.files import File, Row, naming
from vlmlab.data.files.parquet import Parquet
from vlmlab.data.rows import Rows
from vlmlab.evaluate.benchmarks import BenchmarkConfig
from vlmlab.evaluate.of_rows import OfRows
from vlmlab.hub import repository

INSTEAD = "or give a local folder that holds its files"
OFFICIAL = ("*.json", "*.csv", "*.tsv")
"""What is fetched of a hub repository beside the parquet files of the splits."""


@dataclasses.dataclass(frozen=True)
class PublishedConfig(BenchmarkConfig):
    """`path` is a folder or a hub id, of which only the files of the split are fetched.

    `revision` is a branch, tag or commit of that hub id. `pool` is where the examples' split lies, if not in `path`.
    """

    revision: str = ""
    pool: str = ""


class Published(OfRows):
    """A benchmark whose questions are rows. A subclass says which splits there are, and what a row means."""

    splits: ClassVar[Mapping[str, tuple[str, ...]]]
    """The splits, and what each is called in the names of the hub's files."""
    default_split: ClassVar[str]
    """The split that the paper scores."""
    pool_split: ClassVar[str] = "train"

    def __init__(self, config: PublishedConfig) -> None:
        """Raises ValueError when the split is unknown, or its files are not there or cannot be read."""
        super().__init__(config)
        self.split = config.split or self.default_split
        if self.split not in self.splits:
            raise ValueError(f"{config.name} has no split {self.split!r}; it has {', '.join(self.splits)}")
        if config.shots and not self.pool_split:
            raise ValueError(f"{config.name} has no split to draw examples from: ask with shots = 0")
        if config.shots and not config.pool and Path(config.path).is_file():
            raise ValueError(f"{config.name}: examples come from {self.pool_split}, say where it lies with `pool`")
        self.rows = self.open(self.locate(config.path, self.split, config.revision), self.split)
        if config.shots:
            path, revision = (config.pool, "") if config.pool else (config.path, config.revision)
            self.pool = self.open(self.locate(path, self.pool_split, revision), self.pool_split)

    def folder(self) -> str:
        """The folder inside a hub dataset in which the parquet files lie; nothing where they may lie anywhere."""
        return ""

    def official(self, place: Path, split: str) -> Sequence[File] | None:
        """The split as the authors publish it, if its files are there."""
        return None

    def locate(self, path: str, split: str, revision: str) -> Path:
        """The local file or folder at `path`, or where the hub's files of the split were put."""
        place = Path(path).expanduser()
        if place.exists():
            return place
        if not repository.is_name(path):
            raise ValueError(f"{self.config.name}: {path} is no folder, no file, and no hub id such as lmms-lab/DocVQA")
        wanted = [pattern for name in self.splits[split] for pattern in _patterns(name, self.folder())]
        return repository.fetch(path, (*wanted, *OFFICIAL), INSTEAD, revision or None, "dataset")

    def open(self, place: Path, split: str) -> Rows:
        """The rows of a split. Raises ValueError when its files are not at `place`, or cannot be read."""
        files: Sequence[File] | None = [Parquet(file) for file in self.parquet(place, split)]
        if not files:
            files = self.official(place, split)
        if not files:
            raise ValueError(
                f"{self.config.name}: {place} has no files of the split {split!r} in a layout that is read "
                f"(docs/benchmarks.md says which){_parquet_splits(place)}"
            )
        return Rows(files)

    def parquet(self, place: Path, split: str) -> list[Path]:
        """The parquet files of a split, in order of their names."""
        if place.is_file():
            return [place] if place.suffix == ".parquet" else []
        inside = place / self.folder() if (place / self.folder()).is_dir() else place
        found = [file.relative_to(inside) for file in inside.rglob("*.parquet")]
        return [inside / file for file in sorted(found) if any(_is_of(file, name) for name in self.splits[split])]

    def only(self, rows: Rows, columns: Sequence[str]) -> Iterator[Row]:
        """Every row, with those columns; of parquet files no other is read."""
        for file in rows.files:
            lean = Parquet(file.path, columns) if isinstance(file, Parquet) else file
            yield from (lean.row(number) for number in range(len(lean)))


def _patterns(name: str, folder: str) -> list[str]:
    """Where the hub's files of a split may lie, in a folder or in any."""
    ends = (f"{name}-*.parquet", f"{name}.parquet", f"{name}/*.parquet")
    if not folder:
        return [*ends, *(f"*/{end}" for end in ends)]
    return [f"{inside}{end}" for inside in (f"{folder}/", "data/", "default/", "") for end in ends]


def _is_of(file: Path, name: str) -> bool:
    """Whether a parquet file is one of a split's, by its own name or that of its folder inside the dataset."""
    return file.stem == name or file.stem.startswith(f"{name}-") or file.parent.name == name


def _parquet_splits(place: Path) -> str:
    found = (
        sorted({re.sub(r"-\d+-of-.*", "", file.stem) for file in place.rglob("*.parquet")}) if place.is_dir() else []
    )
    return f"; its parquet files are of {', '.join(found[:8])}" if found else ""


class Entries(File):
    """What a JSON file of the authors' lists, as rows: each entry is an object.

    `numbers` are the entries that are kept (none: all); messages call them by where they stand in the file.
    """

    def __init__(self, path: Path, entries: Iterable[Any], numbers: Sequence[int] | None = None) -> None:
        self.path = path
        self.entries = list(entries)
        self.numbers = range(len(self.entries)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, index: int) -> str:
        """The file, and where the entry stands in it."""
        return super().place(self.numbers[index])

    def values(self, index: int) -> Mapping[str, Any]:
        """Entry number `index`. Raises ValueError where it is no object."""
        entry = self.entries[self.numbers[index]]
        if not isinstance(entry, dict):
            raise ValueError(f"an entry should be a JSON object, not {entry!r:.80}")
        return entry


def read_json(path: Path, key: str = "", kind: type = list) -> Any:
    """What a JSON file holds, or what stands under a key of it, which is of that kind. Errors name the file."""
    with naming(str(path)):
        try:
            told = json.loads(path.read_bytes())
        except RecursionError:
            raise ValueError("the JSON is nested too deep") from None
        if key:
            if not isinstance(told, dict) or key not in told:
                raise ValueError(f"it should be a JSON object with the key {key!r}")
            told = told[key]
        if not isinstance(told, kind):
            wanted = "list" if kind is list else "object"
            raise ValueError(f"{repr(key) if key else 'the file'} should hold a JSON {wanted}, not {told!r:.80}")
        return told


def find(place: Path, *names: str) -> Path | None:
    """The first of some files or folders that lies in a folder, or in a folder of it."""
    if not place.is_dir():
        return place if place.name in names else None
    for name in names:
        if (place / name).exists():
            return place / name
        deeper = sorted(place.glob(f"*/{name}"))
        if deeper:
            return deeper[0]
    return None


def texts(value: Any, column: str) -> tuple[str, ...]:
    """A list of texts, or none at all where a split's answers are not public: a list of empty ones is that too."""
    given = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"column {column!r} should be a text or a list of texts, not {value!r:.80}")
    return tuple(given) if any(text.strip() for text in given) else ()


def label(value: Any, names: Sequence[str], column: str) -> str:
    """The name of a class that is stored as its number, or as its name. Raises ValueError for what is neither."""
    if isinstance(value, str) and value in names:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    raise ValueError(f"column {column!r} should be a number below {len(names)} or one of {', '.join(names)}: {value!r}")


def identity(row: Row, column: str) -> str:
    """The id of a question as text. Raises ValueError where there is none."""
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"column {column!r} should be a number or a text, not {value!r:.80}")
    return str(value)


def vqa_files(
    place: Path, questions: Sequence[str], annotations: Sequence[str], images: str, hidden: bool
) -> Entries | None:
    """A split of VQA as its authors publish it: questions and annotations in JSON, pictures of COCO in a folder.

    `images` is the folder of COCO's pictures (`val2014`). `hidden` splits have no annotations. None where there is no
    file of questions.
    """
    asked = find(place, *questions)
    if asked is None:
        return None
    entries = read_json(asked, "questions")
    root = asked.parent if place.is_file() else place
    pictures = find(root, images) or root / images
    given: dict[Any, dict[str, Any]] = {}
    if not hidden:
        told = find(root, *annotations)
        if told is None:
            raise ValueError(f"{asked} needs its annotations beside it: {' or '.join(annotations)}")
        for number, one in enumerate(read_json(told, "annotations")):
            if not isinstance(one, dict) or "question_id" not in one:
                raise ValueError(f"{told}, row {number}: an annotation should be an object with `question_id`")
            given[one["question_id"]] = one
    return _Joined(asked, entries, given, pictures, hidden)


class _Joined(Entries):
    """VQA's questions, each with its annotation and the path of its picture."""

    def __init__(
        self, path: Path, entries: list[Any], given: Mapping[Any, dict[str, Any]], pictures: Path, hidden: bool
    ) -> None:
        super().__init__(path, entries)
        self.given, self.pictures, self.hidden = given, pictures.resolve(), hidden

    def values(self, index: int) -> Mapping[str, Any]:
        entry = super().values(index)
        number, asked = entry.get("image_id"), entry.get("question_id")
        if not isinstance(number, int):
            raise ValueError(f"image_id should be a whole number, not {number!r:.80}")
        if asked not in self.given and not self.hidden:
            raise ValueError(f"question {asked} has no annotation")
        image = self.pictures / f"COCO_{self.pictures.name}_{number:012}.jpg"
        return {**self.given.get(asked, {}), **entry, "image": str(image)}
