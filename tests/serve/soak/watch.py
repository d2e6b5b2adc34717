"""Watching the server from outside: its memory, descriptors and threads, its own figures, and whether they are flat."""

import asyncio
import contextlib
import dataclasses
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from serve.hostile import memory
from serve.soak.asked import Request
from serve.soak.clients import Call

TOLERANCE = 0.05
"""By how much the last third of a run may be above the second."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What is seen at one moment: seconds since the beginning; bytes, descriptors and threads of all its processes.

    `own` are the bytes of the server's own process, without those that decode.
    """

    at: float
    memory: int
    descriptors: int
    threads: int
    own: int


def look(pid: int, began: float) -> Look:
    """The server and the processes that it started."""
    found = [0, 0, 0, 0]
    for each in (pid, *_children(pid)):
        with contextlib.suppress(OSError, StopIteration):  # it ended meanwhile
            folder = Path(f"/proc/{each}")
            seen = memory(each, "VmRSS"), len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))
            found = [a + b for a, b in zip(found, (*seen, seen[0] * (each == pid)), strict=True)]
    return Look(time.monotonic() - began, *found)


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything; the parent is the second field after it.
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


async def watch(pid: int, looks: list[Look], every: float = 1.0) -> None:
    """Look at it every second, until cancelled."""
    began = time.monotonic()
    while True:
        looks.append(look(pid, began))
        await asyncio.sleep(every)


def growth(values: Sequence[float]) -> float:
    """The last third's median over that of the second third, less one."""
    third = len(values) // 3
    if not third:
        return 0.0
    return statistics.median(values[-third:]) / statistics.median(values[third : len(values) - third]) - 1


async def figures(port: int) -> dict[str, float]:
    """The server's own figures, from its /metrics; those of HTTP answers by their status alone."""
    async with Call(port) as call:
        await call.send(Request("/metrics", b"", "GET"))
        await call.begin()
        page = (await call.rest()).decode()
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^vlmlab_(\w+)(\{.*\})? (\S+)$", page, re.MULTILINE):
        status = re.search(r'status="(\d+)"', labels)
        key = f"{name} {status[1]}" if status else name + labels
        found[key] = found.get(key, 0.0) + float(value)
    return found


IDLE = ("requests_waiting", "requests_reading", "requests_writing", "kv_tokens_held")
"""Figures that are nought when nothing is under way."""


async def settled(port: int, seconds: float = 20.0) -> dict[str, float]:
    """The server's figures, once nothing is under way or the time is up."""
    end = time.monotonic() + seconds
    while True:
        now = await figures(port)
        if time.monotonic() > end or not any(now[name] for name in IDLE):
            return now
        await asyncio.sleep(0.1)
