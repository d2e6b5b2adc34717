"""What every benchmark shares: fair rounds, peaks of memory, and results that say what made them."""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def arguments(description: str) -> argparse.ArgumentParser:
    """The flags every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each runs every side once, in turn")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--tiny", action="store_true", help="a tiny size: shows that it runs, says nothing about speed")
    parser.add_argument("--no-write", action="store_true", help="print only; leave the committed results alone")
    return parser


def rounds(sides: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Seconds of every side in every round, after one round that is not counted; sides take turns going first."""
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(count):
        names = list(sides)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            sides[name]()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], ours: str, peer: str) -> float:
    """The median over rounds of the peer's time over ours, both from the same round."""
    return statistics.median(p / o for o, p in zip(times[ours], times[peer], strict=True))


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes by which `run` raises this process's peak, from what it holds now. Linux only.

    What the allocator holds but does not use goes back to the system first, and the kernel's peak is reset. (A forked
    copy would be cleaner, but one that was forked after threads were started waits for them forever.)
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    run()
    return max(_kilobytes("VmHWM") - before, 0) * 1024


def _kilobytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def machine(threads: int) -> dict[str, object]:
    """The machine and the versions a figure belongs to."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers", "pillow", "numpy")}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.system(),
        **packages,
    }


def report(name: str, rows: list[dict[str, object]], args: argparse.Namespace) -> None:
    """Print the rows as a table and, unless told not to, write them to `benchmarks/results/NAME.json`."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = [keys, *[[_shown(row.get(key, "")) for key in keys] for row in rows]]
    widths = [max(len(line[at]) for line in table) for at in range(len(keys))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    if args.no_write or args.tiny:
        return
    command = "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    result = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine(args.threads), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)
    print(f"written: {path}")


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def summary(times: list[float]) -> dict[str, float]:
    """Median and extremes of some seconds."""
    return {
        "median_s": round(statistics.median(times), 4),
        "min_s": round(min(times), 4),
        "max_s": round(max(times), 4),
    }
