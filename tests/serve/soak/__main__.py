"""A soak: a server under twice the load that it can carry, from clients of every kind. Nothing may be lost or crossed.

Run: make soak
Expect: every accepted request answered with the answer that is its own, every other told why not, and memory, threads
and descriptors flat. Exits with 1 where a verdict is bad. docs/serve.md, "Under load", says what is asked and judged.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from serve.soak import model as tiny
from serve.soak import watch
from serve.soak.asked import NANO, TINY
from serve.soak.load import SHARES, Load, Tally
from serve.soak.truth import Findings, Truth
from vlmlab.hub.load import load
from vlmlab.writing import write_text

BENCHMARKS = Path(__file__).parents[3] / "benchmarks" / "_bench.py"

ROWS, QUEUE = 16, 64

DESCRIPTORS, THREADS = 8, 160
"""How many more there may be after the load than before: lines that are kept for a while; the pools of threads."""


@dataclasses.dataclass
class Run:
    """All that was seen."""

    capacity: float
    offered: float
    handled: float
    seconds: float
    tally: Tally
    looks: list[watch.Look]
    before: watch.Look
    after: watch.Look
    figures: dict[str, float]
    code: int
    log: str


@contextlib.contextmanager
def serving(model: str, log: Path, threads: int, context: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`vlmlab serve` in a process of its own, and its port."""
    words = ["--port", "0", "--device", "cpu", "--rows", str(ROWS), "--queue", str(QUEUE), "--context", str(context)]
    # What is kept of pictures is little, so that its memory is full early and things are dropped from it too.
    command = [sys.executable, "-m", "vlmlab.cli", "serve", model, *words, "--memory", "1"]
    with log.open("wb") as told:
        told_to = os.environ | {"OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, stderr=told, stdout=told, env=told_to)
    try:
        while not (found := re.search(r"listening at http://\S+:(\d+)", log.read_text(errors="replace"))):
            if process.poll() is not None:
                raise SystemExit(log.read_text(errors="replace"))
            time.sleep(0.1)
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()


async def soak(asked: argparse.Namespace, process: subprocess.Popen[bytes], loads: Load, log: Path) -> Run:
    """The whole course: what it can do, twice that, rest, and the end."""
    before = watch.look(process.pid, time.monotonic())
    await loads.closed(ROWS, asked.measure / 2, 10**9)  # the processes that decode are still starting
    capacity = await loads.closed(ROWS, asked.measure, 2 * 10**9)
    tally, looks = Tally(), list[watch.Look]()
    watching = asyncio.create_task(watch.watch(process.pid, looks))
    began = time.monotonic()
    await loads.open(2 * capacity, 60 * asked.minutes, tally)
    seconds = time.monotonic() - began
    watching.cancel()
    offered, handled = tally.requests / (60 * asked.minutes), (tally.requests - tally.away) / seconds
    figures = await watch.settled(loads.port)
    await asyncio.sleep(11.0)  # longer than a line without a request is kept
    after = watch.look(process.pid, time.monotonic())
    # And the end, with requests under way and others still to come.
    under_way = [asyncio.create_task(loads.one(2 * 10**9 + at, tally)) for at in range(ROWS)]
    await asyncio.sleep(0.1)
    loads.stopping = True
    process.send_signal(signal.SIGTERM)
    await asyncio.gather(*under_way, *(loads.one(3 * 10**9 + ROWS + at, tally) for at in range(ROWS)))
    code = await asyncio.to_thread(process.wait, 60)
    return Run(
        capacity, offered, handled, seconds, tally, looks, before, after, figures, code, log.read_text(errors="replace")
    )


def verdicts(run: Run, found: Findings) -> dict[str, tuple[bool, str]]:
    """What is judged: whether it is good, and what was seen."""
    tally, figures = run.tally, run.figures
    memory = watch.growth([look.memory for look in run.looks])
    most = watch.TOLERANCE
    errors = [key for key in figures if re.fullmatch(r"http_responses_total 5\d\d", key)]
    left = {name: figures[name] for name in watch.IDLE if figures[name]}
    descriptors = run.after.descriptors - run.before.descriptors
    threads = run.after.threads - run.before.threads
    failed = figures["requests_failed_total"]
    return {
        "it was overloaded": (tally.refused > 0, f"{tally.refused} good requests turned away, with Retry-After"),
        "no request was lost": (not tally.broken, _some(tally.broken)),
        "no answer was crossed": (not found.crossed, _some(found.crossed)),
        "no answer was wrong": (not found.wrong, _some(found.wrong)),
        "secrets can be told apart": (found.alike < 0.01, f"{found.distinct} answers of {found.secrets} secrets"),
        "no error of the server": (not errors and not failed, f"5xx: {errors or 'none'}, failed: {failed:.0f}"),
        "its log holds no error": ("Traceback" not in run.log and " ERROR " not in run.log, ""),
        "its log holds nothing that was asked": ("What is it" not in run.log and "Say " not in run.log, ""),
        "its memory is flat": (
            memory <= most,
            f"{memory:+.1%} from the second third to the last (at most {most:.0%})",
        ),
        "no descriptor is left": (descriptors <= DESCRIPTORS, f"{run.before.descriptors} before, {descriptors:+d}"),
        "no thread is left": (threads <= THREADS, f"{run.before.threads} before, {threads:+d}"),
        "nothing is left in the engine": (not left, str(left or "")),
        "it stopped as it should": (run.code == 0, f"exit code {run.code}"),
    }


def _some(found: list[str]) -> str:
    return f"{len(found)}" + "".join(f"\n      {one}" for one in found[:5])


def shown(run: Run, found: Findings) -> dict[str, object]:
    """The figures."""
    tally = run.tally
    first = statistics.quantiles(tally.first, n=100) if len(tally.first) > 1 else [0.0] * 99
    third = len(run.looks) // 3
    parts = [run.looks[:third], run.looks[third : len(run.looks) - third], run.looks[len(run.looks) - third :]]
    return {
        "capacity_requests_per_s": round(run.capacity, 2),
        "offered_requests_per_s": round(run.offered, 2),
        "handled_requests_per_s": round(run.handled, 2),
        "seconds": round(run.seconds, 1),
        "latest_arrival_s": round(tally.lag, 3),
        "requests": tally.requests,
        "answered": tally.ended("answered"),
        "turned_away": tally.refused,
        "ends": {kind: dict(tally.ends[kind]) for kind in SHARES if kind in tally.ends},
        "answers_right": found.right,
        "answers_right_but_for_equal_tokens": found.ties,
        "parts_right": found.parts,
        "secrets": found.secrets,
        "distinct_answers": found.distinct,
        "chance_that_a_swap_is_not_seen": found.alike,
        "first_token_p50_s": round(first[49], 3),
        "first_token_p99_s": round(first[98], 3),
        "memory_mib_by_thirds": [
            round(statistics.median(look.memory for look in part) / 2**20, 1) for part in parts if part
        ],
        "memory_mib_by_thirds_of_the_server_alone": [
            round(statistics.median(look.own for look in part) / 2**20, 1) for part in parts if part
        ],
        "threads_most": max((look.threads for look in run.looks), default=0),
        "descriptors_most": max((look.descriptors for look in run.looks), default=0),
    }


def told(figures: dict[str, object], judged: dict[str, tuple[bool, str]]) -> str:
    """The report to be read."""
    lines: list[str] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            for kind, ends in value.items():
                lines.append(f"  {kind:14}{', '.join(f'{count} {end}' for end, count in ends.items())}")
        else:
            lines.append(f"{name.replace('_', ' '):40}{value}")
    lines += [f"{'good' if good else 'BAD '}  {name}: {seen}" for name, (good, seen) in judged.items()]
    return "\n".join(lines)


def machine(threads: int) -> dict[str, Any]:
    """The machine, as benchmarks record it."""
    spec = importlib.util.spec_from_file_location("bench", BENCHMARKS)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    return bench.machine(threads)


def main() -> None:
    """Run, print, and write the report where asked. Exits with 1 where a verdict is bad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="how long the load lasts")
    parser.add_argument("--measure", type=float, default=10.0, help="for how many seconds to measure what it can do")
    parser.add_argument("--model", choices=("tiny", "nano"), default="tiny", help="a tiny random model, or nano")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the server's model")
    parser.add_argument("--out", type=Path, help="where to write the report, as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder, log = "nano", Path(temporary) / "log"
        scale = NANO
        if asked.model == "tiny":
            folder, scale = str(tiny.folder(Path(temporary) / tiny.NAME)), TINY
        with serving(folder, log, asked.threads, scale.context) as (process, port):
            loads = Load(port, asked.model, scale, asked.seed)
            run = asyncio.run(soak(asked, process, loads, log))
        began = time.monotonic()
        found = Truth(*load(folder, device="cpu"), asked.seed, scale).check(run.tally.heard)
    print(f"checked {len(run.tally.heard)} texts in {time.monotonic() - began:.1f} s")
    figures, judged = shown(run, found), verdicts(run, found)
    print(told(figures, judged))
    if asked.out:
        command = "python -m serve.soak " + " ".join(sys.argv[1:])
        about = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine(asked.threads)}
        judgement = {name: {"good": good, "seen": seen} for name, (good, seen) in judged.items()}
        write_text(asked.out, json.dumps(about | figures | {"verdicts": judgement}, indent=1) + "\n")
        print(f"written: {asked.out}")
    if not all(good for good, _ in judged.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
