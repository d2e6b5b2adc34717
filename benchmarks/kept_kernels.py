"""What the kernels that oneDNN keeps cost in memory, by how many it may keep: pictures of all sizes, fresh processes.

python benchmarks/kept_kernels.py
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence

import _bench
import _models
import torch

from vlmlab.batch import Images

DEFAULT = 1024  # oneDNN's, and torch's beside it
VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def main() -> None:
    parser = _bench.arguments(__doc__)
    parser.add_argument("--child", action="store_true", help="the process that is measured")
    args = parser.parse_args()
    sides = range(6, 10) if args.tiny else range(6, 30)
    if args.child:
        print(grown(sides, args.threads))
        return
    shapes = len({wide * tall for wide in sides for tall in sides})
    rows: list[dict[str, object]] = []
    for capacity in (16, DEFAULT) if args.tiny else (16, 64, 256, DEFAULT):
        environment = {**os.environ, **dict.fromkeys(VARIABLES, str(capacity))}
        command = [sys.executable, __file__, "--child", "--threads", str(args.threads), *["--tiny"] * args.tiny]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        rows.append({"kept": capacity, "numbers_of_patches": shapes, "grown_mib": round(int(done.stdout) / 2**20, 1)})
    _bench.report("kept_kernels", rows, args)


def grown(sides: Sequence[int], threads: int) -> int:
    """Bytes by which this process grows by pictures of all these widths and heights, in patches, in a tiny model."""
    torch.set_num_threads(threads)
    ours, _ = _models.pair(tiny=True)

    def see(wide: int, tall: int) -> None:
        ours.see(Images(torch.zeros(wide * tall, 3 * 14 * 14), torch.tensor([[tall, wide]])))

    with torch.inference_mode():
        see(sides[-1], sides[-1])
        before = held()
        for wide in sides:
            for tall in sides:
                see(wide, tall)
        return held() - before


def held() -> int:
    """Bytes that this process holds, without what the allocator could give back."""
    ctypes.CDLL(None).malloc_trim(0)
    return _bench._kilobytes("VmRSS") * 1024


if __name__ == "__main__":
    main()
