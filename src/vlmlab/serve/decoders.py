"""Decoding pictures in a bounded number of processes, so that none of them can take the server down.

A picture that crashes its process, hangs it or asks it for too much memory is refused, and a new process takes the
place. What comes back is what `vlmlab.processor.formats.decoded` gives here, bit for bit. Every process starts anew
rather than by forking the server: it holds no model, no key and no request but the one it works on.
"""

import collections
import contextlib
import dataclasses
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import PIL.Image

from vlmlab.serve.decoder import ANSWER, MEMORY, NAME, PICTURE, QUESTION, READY, REFUSED

_START_SECONDS = 60.0
"""How long a process may take to start, on a machine that is busy with other things."""

# What a process needs of the environment, and no more: the rest may hold secrets.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


class Refused(ValueError):
    """A picture that is not taken. The message may be shown to whoever sent it."""


class Busy(RuntimeError):
    """More is asked than can be queued. The same may be taken a little later."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How many processes decode, how many pictures may wait for one, and what one picture may cost.

    `seconds` bounds both time and computing. `memory`, in bytes, is what a process may take beyond what it needs to
    start; 16-bit greys are the dearest, at about 30 bytes a pixel.
    """

    processes: int = 2
    waiting: int = 32
    seconds: float = 10.0
    memory: int = 3 << 29

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        if self.processes < 1 or self.waiting < 0 or self.seconds <= 0 or self.memory < 1 << 24:
            raise ValueError("decoding needs a process or more, a time, and 16 MiB of memory or more")


class Gate:
    """So many at once, so many waiting; the next is turned away with Busy."""

    def __init__(self, at_once: int, waiting: int, what: str) -> None:
        self.what = what
        self._inside = threading.BoundedSemaphore(at_once)
        self._places = threading.BoundedSemaphore(at_once + waiting)

    @contextlib.contextmanager
    def passing(self, end: float) -> Iterator[None]:
        """Wait for a turn, until `end` on the monotonic clock at most. Raises Busy."""
        if not self._places.acquire(blocking=False):
            raise Busy(f"too many {self.what} at once; try again")
        try:
            left = min(max(0.0, end - time.monotonic()), threading.TIMEOUT_MAX)
            if not self._inside.acquire(timeout=left):
                raise Busy(f"too many {self.what} before this one; try again")
            try:
                yield
            finally:
                self._inside.release()
        finally:
            self._places.release()


class Decoders:
    """The processes. Any thread may ask; `replaced` counts those that had to be ended."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.replaced = 0
        self._gate = Gate(self.bounds.processes, self.bounds.waiting, "pictures to decode")
        self._closed = False
        self._lock = threading.Lock()
        self._all = {_Process(self.bounds.memory) for _ in range(self.bounds.processes)}
        self._idle = collections.deque(self._all)

    def decode(self, data: bytes, name: str, max_pixels: int, end: float = math.inf) -> PIL.Image.Image:
        """A picture from its file's bytes, as `formats.decoded` gives it.

        Waits for its turn until `end` on the monotonic clock. Raises Refused that begins with `name` for what is no
        good picture or costs too much, and Busy.
        """
        with self._gate.passing(end):
            process = self._idle.popleft()  # there are as many as the gate lets in
            try:
                if not process.sound or process.gone():
                    process = self._replace(process)
                return process.decode(data, max_pixels, self.bounds.seconds)
            except Refused as error:
                raise Refused(f"{name}: {error}") from None
            finally:
                try:
                    process = process if process.sound else self._replace(process)
                finally:
                    self._idle.append(process)  # where none could be started now, the next to come tries again

    def pids(self) -> list[int]:
        """The processes' numbers."""
        with self._lock:
            return [process.popen.pid for process in self._all]

    def close(self) -> None:
        """End the processes, at once."""
        with self._lock:
            self._closed = True
            for process in self._all:
                process.end()
            self._all.clear()

    def __enter__(self) -> "Decoders":
        """Itself; leaving ends the processes."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _replace(self, old: "_Process") -> "_Process":
        """A new process in the place of one that is no longer good. It is not waited for."""
        old.end()
        with self._lock:
            if self._closed:
                raise Busy("the server is closing")
            self._all.discard(old)
            self.replaced += 1
            try:
                new = _Process(self.bounds.memory)
            except OSError as error:
                raise RuntimeError(f"no process to decode pictures can be started: {error}") from None
            self._all.add(new)
            return new


class _Process:
    """One process and the line to it. `sound` is whether it may be asked again."""

    def __init__(self, memory: int) -> None:
        self.sound, self.ready = True, False
        self.line, theirs = socket.socketpair()
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        path = os.pathsep.join(place for place in sys.path if place)
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "vlmlab.serve.decoder", str(memory)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Libraries under numpy would each start threads, and malloc an arena for each.
                env=kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the server
            )

    def gone(self) -> bool:
        """Whether it ended while nobody asked."""
        return self.popen.poll() is not None

    def decode(self, data: bytes, max_pixels: int, seconds: float) -> PIL.Image.Image:
        """Ask for a picture. Raises Refused; the process may be asked again only where it is still sound."""
        self._wait_until_ready()
        self.sound = False
        end = time.monotonic() + seconds
        try:
            self.line.settimeout(seconds)
            self.line.sendall(QUESTION.pack(max_pixels, math.ceil(seconds), len(data)))
            self.line.sendall(data)
            kind, width, height, length = ANSWER.unpack(self._receive(ANSWER.size, end))
            # The process has read hostile bytes: what it says is no more to be believed than they are.
            if kind == PICTURE and 0 < width * height <= max_pixels and length == 3 * width * height:
                image = PIL.Image.frombytes("RGB", (width, height), bytes(self._receive(length, end)))
                self.sound = True
                return image
            if kind == REFUSED and length <= 1 << 16:
                reason = self._receive(length, end).decode(errors="replace")
                self.sound = True
                raise Refused("".join(c if c.isprintable() else "?" for c in reason.removeprefix(f"{NAME}: "))[:300])
            if kind == MEMORY:
                raise Refused("decoding it takes more memory than is allowed; make it smaller first")
            raise Refused("it could not be decoded")
        except TimeoutError:
            raise Refused(f"decoding it takes longer than {seconds:g} seconds; make it smaller first") from None
        except OSError:
            raise Refused("it could not be decoded") from None

    def end(self) -> None:
        """End the process, whatever it does."""
        self.sound = False
        self.popen.kill()
        self.popen.wait()
        self.line.close()

    def _wait_until_ready(self) -> None:
        if self.ready:
            return
        end = time.monotonic() + _START_SECONDS
        try:
            kind, _, _, length = ANSWER.unpack(self._receive(ANSWER.size, end))
            why = self._receive(length, end).decode(errors="replace")
        except OSError as error:
            kind, why = REFUSED, str(error)
        if kind != READY:
            self.sound = False
            raise RuntimeError(f"the process that decodes pictures did not start: {why}")
        self.ready = True

    def _receive(self, length: int, end: float) -> bytearray:
        """So many bytes. Raises OSError: when the time is up, and when the process has ended."""
        data = bytearray(length)
        view = memoryview(data)
        while len(view):
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.line.settimeout(left)
            some = self.line.recv_into(view)
            if not some:
                raise ConnectionResetError("it ended")
            view = view[some:]
        return data
