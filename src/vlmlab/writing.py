"""Writing files whole or not at all: a process that is killed leaves nothing under a name that looks finished."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

PARTIAL = ".partial-"
"""How the names of files begin that are still being written. What a killed process left behind may be removed."""


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Make a file by `fill(another path)`, then move it to its place. What goes wrong is an OSError that names it."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{PARTIAL}{path.name}.", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        fill(partial)
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # the disk is full, say
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file of bytes."""
    write(path, lambda partial: partial.write_bytes(data))
