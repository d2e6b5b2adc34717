"""How fast training goes and what it takes: what a step's record says of the machine."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE = {"cuda": 8192, "cpu": 2048}
"""The side of the square matrices whose product is the measured peak."""


def memory(device: torch.device) -> int:
    """The most bytes held so far: by CUDA's allocator on its device, or by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of the fastest of some products of large matrices: what training could at most reach."""
    side = SIDE.get(device.type, SIDE["cpu"])
    one, other = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        product = one @ other
        float(product[0, 0])  # the device has done it
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


class Work:
    """Counts FLOPs, matrix products and attention, of all that runs inside `counted`, where `counts`."""

    def __init__(self, counts: bool) -> None:
        self.counts, self.flops = counts, 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what runs inside; layers that are computed twice count twice."""
        if not self.counts:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops += counter.get_total_flops()
