"""The worker: one thread that runs a scheduler for requests that come from any other."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from vlmlab.generate.answers import Overloaded
from vlmlab.generate.job import Job
from vlmlab.generate.scheduler import Scheduler

LOG = logging.getLogger(__name__)

ASIDES = 4
"""How many other pieces of work may wait for the worker."""


class Worker:
    """Runs a scheduler in a thread of its own from the start until it is closed."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._news = threading.Condition()
        self._closing, self._drain = False, False
        self._asides: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._thread = threading.Thread(target=self._run, name="vlmlab-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job, patient: bool = False) -> None:
        """Hand a request to the scheduler.

        Raises Overloaded when too many wait, unless the caller is `patient` and waits for room; RuntimeError when the
        worker is closed.
        """
        job.handle.on_cancel(self._wake)
        with self._news:
            while True:
                if self._closing:
                    raise RuntimeError("the engine is closed")
                try:
                    self.scheduler.add(job)
                    break
                except Overloaded:
                    if not patient:
                        raise
                    self._news.wait()
            self._news.notify_all()

    def aside(self, work: Callable[[], Any], most: int | None = ASIDES) -> Future[Any]:
        """Do something else with the model, alone, between two rounds of the requests; they wait for it.

        Raises Overloaded when `most` pieces of such work wait already (None: never); RuntimeError when the worker is
        closed.
        """
        future: Future[Any] = Future()
        with self._news:
            if self._closing:
                raise RuntimeError("the engine is closed")
            if most is not None and len(self._asides) >= most:
                raise Overloaded(len(self._asides), 1)
            self._asides.append((future, work))
            self._news.notify_all()
        return future

    def close(self, drain: bool = False) -> None:
        """Take no more requests and end the thread; what is under way is cancelled, or with `drain` written first."""
        with self._news:
            self._closing, self._drain = True, drain
            self._news.notify_all()
        self._thread.join()

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self.scheduler.busy or self._closing or self._asides)
                if self._closing and not self._drain:
                    self.scheduler.give_up()
                if self._closing and not self.scheduler.busy:
                    break
            self._do_aside()
            waiting = len(self.scheduler.waiting)
            try:
                self.scheduler.tick()
            except Exception as error:  # of the scheduler itself: nobody may wait for an answer that never comes
                LOG.exception("the engine failed; its requests fail with it")
                self.scheduler.give_up(error)
            if len(self.scheduler.waiting) < waiting:
                self._wake()  # there is room for the patient
        for future, _ in self._asides:
            if future.set_running_or_notify_cancel():
                future.set_exception(RuntimeError("the engine is closed"))

    def _do_aside(self) -> None:
        """One piece of other work, if any waits."""
        with self._news:
            if not self._asides:
                return
            future, work = self._asides.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
