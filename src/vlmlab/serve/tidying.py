"""Gives memory back to the system, now and then.

Requests are read, prepared and answered in many threads. glibc keeps what each of them freed for its like, and what is
in use lies between: a server under load holds more and more, though it uses no more (`make soak` shows both).
"""

import ctypes
import sys
import threading

EVERY = 20.0
"""Seconds between two times. Each takes some milliseconds, in a thread of its own."""


def give_back() -> bool:
    """Give back the pages that nothing lies on. Returns whether this system's allocator can be asked to."""
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # another allocator's system
        return False
    return True


class Tidying:
    """Does so until it is told to stop."""

    def __init__(self, every: float = EVERY) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(every,), name="vlmlab-tidying", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more of it."""
        self._over.set()
        self._thread.join()

    def _run(self, every: float) -> None:
        while not self._over.wait(every) and give_back():
            pass
