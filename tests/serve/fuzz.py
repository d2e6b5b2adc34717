"""Broken pictures, thousands of them, through the processes that decode: none may fall, nothing may leak.

Run: make fuzz
Expect: every picture decoded or refused, no process replaced, and memory that stays within 5 % from a fifth of the way
to the end, in the server and in the processes that decode.
"""

import argparse
import dataclasses
import json
import platform
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import PIL

from serve.hostile import MANY, memory
from serve.kinds import good
from vlmlab.serve.decoders import Bounds, Decoders, Refused
from vlmlab.writing import write_text

TELLING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Numbers at which sizes, counts and signs turn over."""


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    """A number that tells, more often near the beginning, where the sizes are."""
    kind = rng.choice(("B", ">H", "<H", ">I", "<I"))
    width = struct.calcsize(kind)
    at = rng.randrange(max(1, min(len(data) - width, rng.choice((40, 400, len(data))))))
    data[at : at + width] = struct.pack(kind, rng.choice(TELLING) & (256**width - 1))


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def drop(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 16, 200))]


def repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((1, 4, 64, 500))] * rng.choice((1, 2, 50))


def stuff(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.choice((bytes(64), b"\xff" * 64, rng.randbytes(64)))


def wipe(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    size = rng.choice((4, 32, 300))
    data[at : at + size] = rng.choice((b"\0", b"\xff")) * len(data[at : at + size])


BREAKS = (flip, overwrite, overwrite, cut, drop, repeat, stuff, wipe)


def signed(data: bytes) -> bytes:
    """A PNG with its check sums made right again, as far as it has chunks: what is wrong gets past them."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


def broken(count: int, seed: int = 0) -> Iterator[bytes]:
    """So many broken pictures, the same for the same seed."""
    rng = random.Random(seed)
    files = [data for data in good().values() if len(data) < 20_000]
    for _ in range(count):
        data = bytearray(rng.choice(files))
        if rng.random() < 0.1:  # one picture's beginning and another's end
            other = rng.choice(files)
            data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]
        for _ in range(rng.choice((1, 1, 2, 4))):
            if len(data) > 8:
                rng.choice(BREAKS)(data, rng)
        whole = bytes(data)
        yield signed(whole) if whole.startswith(b"\x89PNG") and rng.random() < 0.7 else whole


@dataclasses.dataclass
class Figures:
    """What a run came to. Memory in bytes, after a fifth of the pictures and at the end; the server's is the first."""

    pictures: int
    decoded: int
    refused: dict[str, int]
    replaced: int
    seconds: float
    early: list[int]
    late: list[int]

    @property
    def growth(self) -> float:
        """The largest growth of a process, as a share of what it had."""
        return max(late / early - 1 for early, late in zip(self.early, self.late, strict=True))


def run(count: int, seed: int = 0, processes: int = 2) -> Figures:
    """Break so many pictures and have them decoded."""
    began = time.monotonic()
    refused: Counter[str] = Counter()
    early: list[int] = []
    with Decoders(Bounds(processes=processes)) as decoders:

        def resident() -> list[int]:
            return [memory(pid, "VmRSS") for pid in ["self", *sorted(decoders.pids())]]

        for at, data in enumerate(broken(count, seed)):
            if at == count // 5:
                early = resident()
            try:
                decoders.decode(data, "it", MANY)
            except Refused as error:
                # One reason, whatever the numbers in it.
                refused["".join("N" if c.isdigit() else c for c in str(error)).replace("NN", "N")] += 1
        late = resident()
        seconds = time.monotonic() - began
        told = dict(refused.most_common())
        return Figures(count, count - sum(told.values()), told, decoders.replaced, seconds, early, late)


def main() -> None:
    """Run, print, and write the figures where asked. Fails where a process fell or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    figures = run(asked.pictures, asked.seed)
    print(f"{figures.pictures} broken pictures in {figures.seconds:.1f} s: {figures.decoded} decoded all the same,")
    print(f"{sum(figures.refused.values())} refused, {figures.replaced} processes replaced")
    for reason, times in figures.refused.items():
        print(f"  {times:6d}  {reason}")
    for name, early, late in zip(["server", "process", "process"], figures.early, figures.late, strict=True):
        print(f"{name}: {early / 2**20:.1f} MiB after a fifth, {late / 2**20:.1f} MiB at the end")
    print(f"largest growth: {figures.growth:+.1%} (aim: within 5 %)")
    if asked.out:
        about = {"python": platform.python_version(), "pillow": PIL.__version__, "seed": asked.seed}
        told = {**dataclasses.asdict(figures), "growth": figures.growth, **about}
        write_text(asked.out, json.dumps(told, indent=1) + "\n")
        print(f"written: {asked.out}")
    if figures.replaced or figures.growth > 0.05:
        raise SystemExit("a process fell, or memory grew")


if __name__ == "__main__":
    main()
