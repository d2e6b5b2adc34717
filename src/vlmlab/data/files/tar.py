"""Webdataset tars: files that stand together and share a name up to its first dot are one row.

    000012.jpg  000012.txt  000012.json  000013.jpg  ...

The file is walked once, from header to header; where each row begins is held in memory, 8 bytes a row.
"""

import array
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmlab.data.files import File, ending, gather, naming


class Tar(File):
    """The rows of one uncompressed tar."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file is no tar, is cut short, or a name in it cannot be a row's."""
        self.path = path
        self.starts = array.array("Q")
        size = path.stat().st_size
        with naming(str(path)), path.open("rb") as file:
            for members in _groups(file):
                self.starts.append(next(iter(members.values())).offset)
                for member in members.values():
                    if member.offset_data + member.size > size:
                        raise ValueError(f"the file is cut short inside {member.name}, row {len(self.starts) - 1}")

    def __len__(self) -> int:
        return len(self.starts)

    def values(self, index: int) -> Mapping[str, Any]:
        """Row number `index`, its picture still encoded."""
        with self.path.open("rb") as file:
            file.seek(self.starts[index])
            return gather({kind: _read(file, member) for kind, member in next(_groups(file)).items()})


def _groups(file: Any) -> Iterator[dict[str, tarfile.TarInfo]]:
    """The members of each row by ending, from where `file` stands."""
    members: dict[str, tarfile.TarInfo] = {}
    name = ""
    try:
        with tarfile.TarFile(fileobj=file) as archive:
            while (member := archive.next()) is not None:
                if not member.isreg():
                    continue
                stem, kind = ending(member.name)
                if members and (stem != name or kind in members):
                    yield members
                    members = {}
                name = stem
                members[kind] = member
            # The library takes a damaged header for the end of the archive: the rows behind it would be lost unseen.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise ValueError(f"the file is cut short or damaged at byte {archive.offset}: no end mark is there")
    except tarfile.TarError as error:
        raise ValueError(f"not a tar that can be read, unpack it first if it is compressed: {error}") from None
    if members:
        yield members


def _read(file: Any, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    data: bytes = file.read(member.size)
    if len(data) != member.size:
        raise ValueError(f"the file is cut short inside {member.name}")
    return data
