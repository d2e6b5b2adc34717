"""Reading ahead: the same in any number of processes, which leave signals alone and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from train import tiny
from vlmlab.data.reading import Reader, shelves
from vlmlab.data.stream import Draw, Order
from vlmlab.data.workers import Ahead, WorkerDied

TESTS = Path(__file__).resolve().parents[1]


def reader(source=None) -> Reader:
    return Reader(shelves(source or tiny.Colours(), "colours", "answers", 64), tiny.encode, tiny.IMAGE, 0)


def alike(one, other) -> bool:
    return (one.overlong, one.why, len(one.pieces)) == (other.overlong, other.why, len(other.pieces)) and all(
        np.array_equal(a.tokens, b.tokens)
        and np.array_equal(a.targets, b.targets)
        and a.grid == b.grid
        and all(np.array_equal(x, y) for x, y in zip(a.patches, b.patches, strict=True))
        for a, b in zip(one.pieces, other.pieces, strict=True)
    )


class Broken(tiny.Colours):
    def __getitem__(self, index):
        if index == 5:
            raise ValueError("row 5: not a picture")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_reads_the_same(workers):
    order = Order(0, {"colours": 24})
    draws = [order[place] for place in range(40)]
    plain, ahead = reader(Broken()), Ahead(reader(Broken()), workers)
    try:
        ahead.expect(draws[:30])
        ahead.expect(draws[10:35])  # some are expected twice, some never
        assert set(ahead.waiting) == set(draws[:35])
        assert all(alike(ahead.take(draw), plain(draw)) for draw in draws)
        assert not ahead.waiting
    finally:
        ahead.close()


class Deadly(tiny.Colours):
    def __getitem__(self, index):
        os._exit(9)


def test_a_worker_that_dies_is_said():
    ahead = Ahead(reader(Deadly()), 1)
    try:
        ahead.expect([Draw("colours", 3, 0)])
        with pytest.raises(WorkerDied, match=r"colours sample 3.*fewer stage\.workers"):
            ahead.take(Draw("colours", 3, 0))
    finally:
        ahead.close()


SCRIPT = """
import os, sys, time
from data import test_workers
from vlmlab.data.workers import Ahead
from vlmlab.data.stream import Draw
import signal
ahead = Ahead(test_workers.reader(), 2)
ahead.expect([Draw("colours", n, 0) for n in range(8)])
for n in range(8):
    ahead.take(Draw("colours", n, 0))
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(*ahead.pool._processes, flush=True)
sys.stdin.readline()
ahead.expect([Draw("colours", n, 1) for n in range(8)])
print(sum(len(ahead.take(Draw("colours", n, 1)).pieces) for n in range(8)), flush=True)
time.sleep(60)
"""


def alive(process: int) -> bool:
    """Whether a process runs; one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_workers_outlive_signals_but_not_their_parent():
    told = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    told["VLMLAB_NO_TYPECHECK"] = "1"
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        workers = [int(number) for number in parent.stdout.readline().split()]
        assert len(workers) == 2
        for number in (signal.SIGINT, signal.SIGTERM):
            for worker in workers:
                os.kill(worker, number)
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "8\n" and all(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))
