"""A model in this process that answers: ours, a hub folder, or nano. It is loaded when the first answer is needed."""

import functools
import hashlib
import importlib.metadata
import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

import vlmlab
from vlmlab import component, media
from vlmlab.evaluate.answering import Answerer, Job, Reply, Writing
from vlmlab.generate.decoding import sample as sampling
from vlmlab.generate.engine import Engine
from vlmlab.hub.load import find_device, load, locate, read_config, read_processor
from vlmlab.model.meta import without_memory
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Processor

CODE = ("batch.py", "model", "processor", "generate", "hub")
"""What of this package decides an answer."""

_FIRST, _MOST, _SECONDS = 16, 256, 10.0
_SHA256 = re.compile("[0-9a-f]{64}")


class Local(Answerer):
    """A model of a folder, a hub id, or `nano`. Raises ValueError where it, or the device, is not there.

    `rows` are written at a time; `dtype=None` computes as the weights are stored.
    """

    def __init__(
        self,
        name: str,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        adapter: str | None = None,
        rows: int = 16,
    ) -> None:
        self.name, self.device, self.dtype, self.rows = name, find_device(device), dtype, rows
        self.folder = locate(name)
        self.adapter = None if adapter is None else locate(adapter)

    @functools.cached_property
    def processor(self) -> Processor:
        """How it reads pictures; its weights are not needed for that."""
        with without_memory():
            model = VLM(read_config(self.folder))
        return read_processor(self.folder, model)

    @functools.cached_property
    def engine(self) -> Engine:
        """The loaded model, writing."""
        model, processor = load(self.folder, self.device, self.dtype, fetch=media.fetch, adapter=self.adapter)
        return Engine(model, processor, rows=self.rows)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            "weights": digest_of([self.folder]),
            "adapter": None if self.adapter is None else digest_of([self.adapter]),
            "code": digest_of([Path(vlmlab.__file__).parent / name for name in CODE], (".py",)),
            "vlmlab": importlib.metadata.version("vlmlab"),
            "torch": torch.__version__,
            "device": self.device.type,
            "dtype": stored_dtype(self.folder) if self.dtype is None else str(self.dtype).removeprefix("torch."),
        }

    def identity(self) -> Mapping[str, Any]:
        """The weights' and the code's digests, the device and the dtype."""
        return self._identity

    def facts(self) -> Mapping[str, Any]:
        """How it reads pictures, and how many rows it writes at a time."""
        return {"images": component.plain(self.processor.config.images), "rows": self.rows}

    def answers(self, jobs: Iterable[Job], writing: Writing) -> Iterator[tuple[int, Reply]]:
        """Replies, a few questions at a time: as many as took less than ten seconds, doubled."""
        waiting, size, most = iter(jobs), _FIRST, _MOST
        decoding = None if writing.temperature is None else sampling.Config(temperature=writing.temperature)
        if decoding is not None:
            size = most = 1  # what is drawn must not depend on what else is asked
        while chunk := list(itertools.islice(waiting, size)):
            engine = self.engine  # what is wrong with the model is no question's fault
            begun = time.monotonic()
            try:
                answers = engine.answers(
                    [job.sample for job in chunk],
                    writing.max_new_tokens,
                    decoding,
                    writing.stop,
                    writing.seed or 0,
                    writing.options,
                )
            except ValueError as error:
                raise self._blame(chunk, writing, error) from error
            took = time.monotonic() - begun
            for job, answer in zip(chunk, answers, strict=True):
                text, why = answer.text, answer.reason
                yield (
                    job.number,
                    Reply(text, why, answer.cost.prompt_tokens, answer.cost.visual_tokens, took / len(chunk)),
                )
            size = min(size * 2, most) if took < _SECONDS else size

    def _blame(self, jobs: list[Job], writing: Writing, error: ValueError) -> ValueError:
        """The error with the question at fault, which the engine knows by its place among others only."""
        for job in jobs:
            try:
                self.engine.processor.encode(job.sample, add_generation_prompt=True, options=writing.options)
            except ValueError as own:
                return ValueError(f"question {job.name}: {own}")
        asked = f"question {jobs[0].name}" if len(jobs) == 1 else f"questions {jobs[0].name} to {jobs[-1].name}"
        return ValueError(f"{asked}: {error}")


def digest_of(places: list[Path], endings: tuple[str, ...] = (".safetensors", ".json", ".toml")) -> str:
    """32 hex digits of all files with these endings, in these folders and below, and of their names there."""
    digest = hashlib.blake2b(digest_size=16)
    for place in places:
        files = sorted(path for path in place.rglob("*") if path.suffix in endings) if place.is_dir() else [place]
        for path in files:
            blob = path.resolve()
            if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):  # the hub's cache names files by content
                digest.update(path.relative_to(place).as_posix().encode() + blob.name.encode())
                continue
            name = path.relative_to(place).as_posix() if place.is_dir() else path.name
            with path.open("rb") as file:
                digest.update(name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def stored_dtype(folder: Path) -> str:
    """The dtype in which a folder's first weights are stored, as safetensors writes it: F32, BF16.

    Raises ValueError where there are none, or their file is damaged.
    """
    first = min(folder.glob("*.safetensors"), default=None)
    if first is None:
        raise ValueError(f"{folder} holds no weights (*.safetensors)")
    try:
        with safetensors.safe_open(first, framework="pt") as weights:
            name = min(weights.keys())
            return str(weights.get_slice(name).get_dtype())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{first} is not a whole safetensors file ({error}); fetch it again") from None
