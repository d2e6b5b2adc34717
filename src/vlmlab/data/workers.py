"""Samples read ahead of need, in other processes or on a thread; what comes out does not depend on how many there are.

Processes are forked: they start at once and share what the sources hold. They leave Ctrl-C and SIGTERM to the process
that started them, and end within a second or so when it is gone, however it went.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from vlmlab.data.reading import Outcome
from vlmlab.data.stream import Draw

Read = Callable[[Draw], Outcome]

_READ: list[Read] = []
"""What a worker process reads with: set once, when it starts."""


class WorkerDied(RuntimeError):
    """A worker process ended before its work was done."""


class Ahead:
    """Reads draws in the order they are asked for, those that were expected ahead of need.

    With `workers` 0, on a thread. Raises ValueError where processes cannot be forked.
    """

    def __init__(self, read: Read, workers: int = 0) -> None:
        if workers and "fork" not in multiprocessing.get_all_start_methods():
            raise ValueError("this system cannot fork worker processes: use stage.workers = 0")
        self.read, self.workers = read, workers
        self.pool: Executor | None = None
        self.waiting: dict[Draw, Future[Outcome]] = {}

    def expect(self, draws: Iterable[Draw]) -> None:
        """Start reading draws that will be asked for."""
        for draw in draws:
            if draw not in self.waiting:
                self.pool = self.pool or self._start()
                # What is sent to another process has to be found there by name.
                self.waiting[draw] = self.pool.submit(_read if self.workers else self.read, draw)

    def take(self, draw: Draw) -> Outcome:
        """A draw, read; it is forgotten here. Raises WorkerDied when a process did."""
        waiting = self.waiting.pop(draw, None)
        if waiting is None:
            return self.read(draw)
        try:
            return waiting.result()
        except BrokenProcessPool as error:
            raise WorkerDied(
                f"a worker process died while {draw} or one after it was read; was memory short? "
                "Try fewer stage.workers"
            ) from error

    def close(self) -> None:
        """Drop what was expected, and end the workers."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None
        self.waiting.clear()

    def _start(self) -> Executor:
        if not self.workers:
            return ThreadPoolExecutor(1, thread_name_prefix="prepare")
        context = multiprocessing.get_context("fork")
        return ProcessPoolExecutor(self.workers, context, _begin, (self.read, os.getpid()))


def _begin(read: Read, parent: int) -> None:
    """What a worker does first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Each worker is one of many: the cores are shared by processes, not by threads.
    torch.set_num_threads(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    _READ[:] = [read]


def _watch(parent: int) -> None:
    """End this process when its parent is gone: it would wait for work forever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _read(draw: Draw) -> Outcome:
    return _READ[0](draw)
