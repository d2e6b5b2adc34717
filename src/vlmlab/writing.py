"""Writing files whole or not at all: a process that is killed leaves nothing under a name that looks finished."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial-"
"""How the names of files begin that are still being written. What a killed process left behind may be removed."""

_HELD: set[int] = set()
"""The folders that this process holds, open. A copy of it lets go, or it would hold them when this one is gone."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, making it where it is not there: raises ValueError where another process, or a thread, holds it.

    The system lets go of it when the process ends, however that comes about, and nothing is left in the folder. Where
    there are no locks (Windows, some network drives) nobody is kept out.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    held = _locked(folder)
    try:
        yield
    except BaseException:
        if made:  # nothing came of it: where the folder is empty it goes again
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finally:
        if held in _HELD:  # in a copy of this process it is not
            _HELD.discard(held)
            os.close(held)


def _locked(folder: Path) -> int:
    """The folder, open and locked; -1 where nothing can be."""
    if fcntl is None:
        return -1
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        told = "another process is at work there: wait for it, or choose another folder"
        raise ValueError(f"{folder}: {told}") from None
    except OSError:  # this drive has no locks
        pass
    _HELD.add(held)
    return held


def _let_go() -> None:
    while _HELD:
        os.close(_HELD.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)


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
