"""Raw files that corpora are built from: which there are; and tars whose bytes depend on their content alone."""

import hashlib
import io
import tarfile
from collections.abc import Collection, Iterable
from pathlib import Path


def found(place: Path, endings: Collection[str]) -> list[Path]:
    """The file at `place`, or the files of a folder and those below it, by the endings of their names, in order.

    Raises ValueError when there are none.
    """
    if not place.exists():
        raise ValueError(f"no such file or folder: {place}")
    files = [place] if place.is_file() else place.rglob("*")
    kept = [path for path in files if path.suffix.lower() in endings and path.is_file()]
    if not kept:
        raise ValueError(f"{place} holds no file that ends in {', '.join(sorted(endings))}")
    return sorted(kept, key=lambda path: path.relative_to(place).parts)


def named(path: Path, place: Path) -> str:
    """A file's path below `place`, with forward slashes everywhere; of a single file, its name."""
    return path.name if path == place else path.relative_to(place).as_posix()


def fingerprint(lines: Iterable[str]) -> str:
    """A hash of some lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def listing(files: Iterable[Path], place: Path) -> str:
    """A hash of the names and sizes of files."""
    return fingerprint(f"{named(path, place)} {path.stat().st_size}" for path in files)


class Shard:
    """A tar that is being written."""

    def __init__(self, path: Path) -> None:
        self.archive = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> "Shard":
        return self

    def __exit__(self, *error: object) -> None:
        self.archive.close()

    def add(self, key: str, parts: dict[str, bytes]) -> None:
        """One sample: its parts by ending, under one name. They carry no date and no owner."""
        for ending, data in parts.items():
            member = tarfile.TarInfo(f"{key}.{ending}")
            member.size = len(data)
            self.archive.addfile(member, io.BytesIO(data))
