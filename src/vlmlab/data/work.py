"""Work in numbered pieces that goes on where it was after a crash, done by as many processes as one likes.

    OUT/.work/header.json    what is made, of what, with which settings
    OUT/.work/00000.json     the record of a piece that is done, written after all else of it

It does not matter who does which piece, nor when: what is under way when a process dies is done again, to the same
bytes. When all is done, what was made stands in OUT, and OUT/.work is removed.
"""

import concurrent.futures
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any, TypeVar

from vlmlab.writing import write_text

WORK = ".work"
_HEADER = "header.json"

Record = dict[str, Any]
"""What is known of a piece that is done."""

T = TypeVar("T")


class Work:
    """The folder of work that is under way."""

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out / WORK

    def begin(self, header: Mapping[str, Any]) -> None:
        """Make the folder ready; records of no known work go."""
        if self.header() is None:
            self.end()
        write_text(self.folder / _HEADER, json.dumps(header, indent=1, ensure_ascii=False) + "\n")

    def header(self) -> Record | None:
        """What the work that is under way was begun with; None where there is none."""
        return _object(self.folder / _HEADER)

    def write(self, number: int, record: Mapping[str, Any]) -> None:
        """Write down that a piece is done."""
        write_text(self._path(number), json.dumps(record, ensure_ascii=False) + "\n")

    def read(self, number: int) -> Record | None:
        """The record of a piece; None where it is not done."""
        return _object(self._path(number))

    def end(self) -> None:
        """All is done, and stands elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.json"


def on_processes(make: Callable[[T], int], tasks: Sequence[T], workers: int) -> Iterator[int]:
    """The numbers of pieces as they are done. `make` and its tasks are sent to the processes.

    They end when whoever started them is gone, even killed. An error in one of them is raised here, and ends the work:
    a RuntimeError where a process died.
    """
    # Fresh processes: what this one has open (threads, pdfium, parquet) is not safe to copy.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(tasks)), context, _follow) as pool:
        waiting = [pool.submit(make, task) for task in tasks]
        try:
            for future in concurrent.futures.as_completed(waiting):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died; was memory short? What is done is kept: say the same again, with fewer workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _follow() -> None:
    """Let a worker end when whoever started it is gone, even killed: nobody would take its results."""

    def wait() -> None:
        above = parent_process()
        if above is not None:
            above.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _object(path: Path) -> Record | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return told if isinstance(told, dict) else None
