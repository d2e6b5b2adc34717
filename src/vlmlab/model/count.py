"""What a model costs before it exists: parameters, visual tokens, operations and memory, for any configuration.

Nothing is written down for any part: the model is built without memory (torch's meta device), a batch runs through it,
and what its matrix products and attention would do is counted. So a new plug-in is counted the day it is added.
"""

import dataclasses
import os
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from vlmlab.batch import Batch, Images
from vlmlab.model.cache import Cache
from vlmlab.model.meta import without_memory
from vlmlab.model.vlm import PARTS, VLM, VLMConfig

NEW = ("connector", "fusion")
"""The parts that join two pretrained models, and begin untrained."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a model. FLOPs are for the whole batch; a multiplication and an addition are two."""

    name: str
    parameters: int
    tensors: int
    prefill: int
    """FLOPs of reading the batch, with logits for each document's last token."""
    step: int
    """FLOPs of one more token in each document."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What running the batch took here."""

    device: str
    prefill: int
    step: int
    """FLOPs counted while it ran (the attention of a CUDA varlen kernel is not among them)."""
    prefill_seconds: float
    step_seconds: float
    activations: int
    """Bytes that reading the batch took at its peak, over what was held before."""


@dataclasses.dataclass(frozen=True)
class Report:
    """A model, and what a batch of `batch` equal documents costs it. Memory is in bytes, for inference."""

    parts: tuple[Part, ...]
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of patches of each image in a document."""
    visual: tuple[int, ...]
    """Visual tokens of each image."""
    text: int
    tokens: int
    """Length of a document in the language model: its text, and the tokens that stand for its images."""
    batch: int
    dtype: str
    weights: int
    cache: int
    """Keys and values of the documents, those of images included where the fusion keeps them."""
    activations: int
    """The most that reading the batch holds at once besides weights and cache; attention's scores are never held."""
    measured: Measured | None = None

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def tensors(self) -> int:
        """How many tensors hold them."""
        return sum(part.tensors for part in self.parts)

    @property
    def new(self) -> int:
        """Parameters that begin untrained: the connector's and the fusion's (trained alone in section 3.2)."""
        return sum(part.parameters for part in self.parts if part.name in NEW)

    @property
    def prefill(self) -> int:
        """FLOPs of reading the batch."""
        return sum(part.prefill for part in self.parts)

    @property
    def step(self) -> int:
        """FLOPs of one more token in each document."""
        return sum(part.step for part in self.parts)


def describe(
    config: VLMConfig,
    grids: Sequence[tuple[int, int]] = (),
    text: int = 1,
    batch: int = 1,
    dtype: torch.dtype = torch.bfloat16,
) -> Report:
    """Count a model that is not built, for `batch` documents of `text` tokens with images of these grids each.

    A grid is the rows and columns of whole patches of an image as the processor leaves it. `text` counts every token
    but those that stand for images. Raises ValueError for grids that the connector cannot read.
    """
    with without_memory():
        model = VLM(config)
    return count(model.to(dtype), grids, text, batch)


@torch.no_grad()
def count(model: VLM, grids: Sequence[tuple[int, int]], text: int, batch: int) -> Report:
    """`describe` for a model that is on the meta device already."""
    assert all(parameter.is_meta for parameter in model.parameters())
    if text < 1 or batch < 1:
        raise ValueError(f"a batch needs at least one document with one token of text, not {batch} with {text}")
    documents = example(model, grids, text, batch)
    with Meter(model, real=False) as reading:
        cache = read(model, documents)
    with Meter(model, real=False) as step:
        follow(model, cache)
    parts = tuple(
        Part(name, sum(p.numel() for p in part), len(part), reading.flops[name], step.flops[name])
        for name, part in model.parts().items()
    )
    tokens = documents.tokens.shape[1]
    weight = model.language.embedding.weight
    held = [cache.keys[:, :, :, :tokens], cache.values[:, :, :, :tokens], *tree_leaves(cache.memory)]
    return Report(
        parts=parts,
        grids=tuple((int(rows), int(columns)) for rows, columns in grids),
        visual=tuple(model.count(torch.tensor(grids))) if grids else (),
        text=text,
        tokens=tokens,
        batch=batch,
        dtype=str(weight.dtype).removeprefix("torch."),
        weights=sum(part.parameters for part in parts) * weight.element_size(),
        cache=sum(x.numel() * x.element_size() for x in held if isinstance(x, Tensor)),
        activations=reading.peak,
    )


@torch.no_grad()
def measure(model: VLM, report: Report) -> Report:
    """The report with what the same batch took on a real model: run once to warm up, then once and timed."""
    documents = example(model, report.grids, report.text, report.batch)
    follow(model, read(model, documents))
    with torch.enable_grad(), Meter(model, real=True) as reading:  # with gradients products are torch's plain ones
        cache = read(model, documents)
    with torch.enable_grad(), Meter(model, real=True) as step:
        follow(model, cache)
    del cache
    with peak(model.device) as activations, timed(model.device) as prefill_seconds:
        cache = read(model, documents)
    with timed(model.device) as step_seconds:
        follow(model, cache)
    measured = Measured(
        device=str(model.device),
        prefill=reading.flops.total(),
        step=step.flops.total(),
        prefill_seconds=prefill_seconds[0],
        step_seconds=step_seconds[0],
        activations=activations[0],
    )
    return dataclasses.replace(report, measured=measured)


def example(model: VLM, grids: Sequence[tuple[int, int]], text: int, batch: int) -> Batch:
    """`batch` documents: the images of these grids, then `text` tokens. Only the patches are where the model is."""
    images = None
    spelled = [0] * text
    if grids:
        grid = torch.tensor(grids)
        spelled = [model.fusion.image_token] * sum(model.placeholders(grid)) + spelled
        patches = int(grid.prod(-1).sum()) * batch
        width = 3 * model.config.vision.patch**2
        images = Images(torch.zeros(patches, width, device=model.device, dtype=model.dtype), grid.repeat(batch, 1))
    tokens = torch.tensor(spelled).expand(batch, -1)
    made = Batch(tokens, torch.ones_like(tokens), torch.arange(len(spelled)).expand(batch, -1), images=images)
    return made if model.device.type == "meta" else made.to(model.device)


def read(model: VLM, documents: Batch) -> Cache:
    """Read documents into a new cache with room for one more token; logits for the last token of each."""
    batch, length = documents.tokens.shape
    cache = model.language.cache(batch, length + 1)
    visual = None if documents.images is None else model.see(documents.images)
    last = torch.arange(1, batch + 1, device=documents.tokens.device) * length - 1
    model.read(documents, visual, rows=last, cache=cache)
    return cache


def follow(model: VLM, cache: Cache) -> None:
    """One more token in every document of a cache."""
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    tokens = torch.zeros(cache.slots, 1, dtype=torch.long, device=device)
    positions = torch.tensor(cache.lengths, device=device)[:, None]
    model.read(Batch(tokens, torch.ones_like(tokens), positions), cache=cache)


class Meter(TorchDispatchMode):
    """Counts FLOPs by part of a model, and the bytes of tensors made while it is on that are alive at once.

    With `real=False` attention returns an empty result of the right shape: on the meta device torch would spell it out
    as matrices that no kernel holds.
    """

    def __init__(self, model: VLM, real: bool) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.peak = 0
        self._model, self._held, self._alive = model, 0, weakref.WeakSet[Any]()
        self._parts, self._counting, self._attention = ["language"], True, _Attention(self, real)
        self._handles: list[Any] = []

    def __enter__(self) -> "Meter":
        """Begin to count."""
        owners: list[tuple[str, nn.Module]] = [(name, self._model.get_submodule(name)) for name in PARTS]
        for name, module in [*owners, *(("language", layer) for layer in self._model.language.layers)]:
            self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._parts.append(name)))
            self._handles.append(module.register_forward_hook(lambda *_: self._parts.pop() and None))
        self._attention.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting."""
        super().__exit__(kind, error, trace)
        self._attention.__exit__(kind, error, trace)
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it; what the host holds follows the model to the meta device."""
        kwargs = kwargs or {}
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves((args, kwargs))):
            args, kwargs = tree_map_only(Tensor, lambda x: x.to("meta"), (args, kwargs))
        self._alive.update(leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None and self._counting:
            self.add(formula(*args, **kwargs, out_val=out))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return out

    @property
    def part(self) -> str:
        """The part that is running."""
        return self._parts[-1]

    def add(self, flops: int) -> None:
        """Count operations for the part that is running."""
        self.flops[self._parts[-1]] += flops

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let operations pass uncounted."""
        self._counting = False
        yield
        self._counting = True

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._alive:
            self._alive.add(storage)
            self._held += storage.nbytes()
            self.peak = max(self.peak, self._held)
            weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self._held -= size


class _Unspelled(torch.autograd.Function):
    """Attention that computes nothing: its result has the right shape, and it keeps what a kernel would keep."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out


class _Attention(TorchFunctionMode):
    """Counts attention whole, as every query with every key, whatever kernel does it."""

    def __init__(self, meter: Meter, real: bool) -> None:
        super().__init__()
        self.meter, self.real = meter, real

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args
        self.meter.add(2 * q.numel() * k.shape[-2] + 2 * q.numel() // q.shape[-1] * v.shape[-1] * v.shape[-2])
        if not self.real:
            return _Unspelled.apply(q, k, v)
        with self.meter.paused():
            return func(*args, **(kwargs or {}))


@contextmanager
def timed(device: torch.device) -> Iterator[list[float]]:
    """The seconds its block took, once it is done."""
    seconds = [0.0]
    start = time.perf_counter()
    yield seconds
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[0] = time.perf_counter() - start


@contextmanager
def peak(device: torch.device) -> Iterator[list[int]]:
    """The bytes its block took at most over what was held before: CUDA's own count, or the process's (on Linux)."""
    taken = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield taken
        taken[0] = torch.cuda.max_memory_allocated(device) - before
        return
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):  # not Linux: nothing is measured, 0 is said
        yield taken
        return
    reset.write_text("5")  # forget the highest mark
    before = _kibibytes(status, "VmRSS")
    yield taken
    taken[0] = 1024 * (_kibibytes(status, "VmHWM") - before)


def _kibibytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name + ":"))
