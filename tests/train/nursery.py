"""Processes that run `vlmlab` and may die: forked from one that has imported everything, so that each starts at once.

Run as a program, it reads orders as lines of JSON, and answers each with the processes' ids, then with how they ended.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

TESTS = Path(__file__).resolve().parents[1]
LONGEST = 90.0
"""Seconds after which whatever still runs is ended."""


class Nursery:
    """The other end: starts the program, and gives it orders."""

    def __init__(self) -> None:
        places = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
        told = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "train.nursery"], env=told, stdin=-1, stdout=-1, text=True, bufsize=1
        )

    def start(self, words, out, size=1, death=None, limit=0) -> list[int]:
        """Begin `vlmlab` with these words in `size` processes; what they say goes to out.0, out.1, ...

        `death` is (where, after how many calls of functions there), `limit` how many bytes a file may have.
        """
        order = {
            "words": [*map(str, words), "--device", "cpu"],
            "out": str(out),
            "size": size,
            "death": death,
            "limit": limit,
        }
        self.process.stdin.write(json.dumps(order) + "\n")
        return json.loads(self.process.stdout.readline())

    def end(self) -> list[int]:
        """How they ended: exit statuses, or minus a signal's number."""
        return json.loads(self.process.stdout.readline())

    def run(self, words, out, size=1, death=None, limit=0) -> list[int]:
        self.start(words, out, size, death, limit)
        return self.end()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Death:
    """Counts calls of functions inside a certain one, and kills the process at one of them (0: never)."""

    def __init__(self, code, calls: int) -> None:
        self.code, self.calls, self.count = code, calls, 0
        self.inside: FrameType | None = None

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if self.inside is None:
            if event == "call" and frame.f_code is self.code:
                self.inside = frame
            return
        if event == "return" and frame is self.inside:
            self.inside = None
        self.count += 1
        if self.count == self.calls:
            os.kill(os.getpid(), signal.SIGKILL)


def child(order, rank: int, port: int) -> None:
    from vlmlab import cli
    from vlmlab.train import checkpoint, loop

    place = f"{order['out']}.{rank}"
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(handle, number)
    if order["size"] > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(order["size"]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    if order["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], order["limit"]))
    death = None
    if order["death"]:
        where, calls = order["death"]
        death = Death({"training": loop.fit, "writing": checkpoint.save}[where].__code__, calls)
        sys.setprofile(death)
    status = cli.main(order["words"])
    sys.setprofile(None)
    if death is not None:
        Path(f"{place}.calls").write_text(str(death.count))
    sys.stdout.flush()
    os._exit(status)


def watch(pids: list[int]) -> list[int]:
    """Wait for all; when one has failed, or it takes too long, the others are ended soon, as torchrun does."""
    ended: dict[int, int] = {}
    deadline = time.monotonic() + LONGEST
    while len(ended) < len(pids):
        for pid in set(pids) - ended.keys():
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
                if ended[pid]:
                    deadline = min(deadline, time.monotonic() + 10)
        if time.monotonic() > deadline:
            for pid in set(pids) - ended.keys():
                os.kill(pid, signal.SIGKILL)
            deadline += LONGEST
        time.sleep(0.01)
    return [ended[pid] for pid in pids]


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def main() -> None:
    import torch

    import vlmlab.cli
    import vlmlab.demo
    import vlmlab.train.run  # noqa: F401

    # What the first step of a process would import: it would drown what a step itself does.
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    torch.optim.AdamW([parameter]).step()
    for line in sys.stdin:
        order, port, pids = json.loads(line), free_port(), []
        for rank in range(order["size"]):
            pid = os.fork()
            if not pid:
                try:
                    child(order, rank, port)
                except BaseException:
                    traceback.print_exc()
                os._exit(70)
            pids.append(pid)
        print(json.dumps(pids), flush=True)
        print(json.dumps(watch(pids)), flush=True)


if __name__ == "__main__":
    main()
