"""The files of a checkpoint folder: JSON, and weights in safetensors, which are mapped into memory rather than read."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from vlmlab.writing import write, write_text

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
SHARD = 5_000_000_000
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ValueError naming the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent} has no {path.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} should hold a JSON object, not {data!r:.40}")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all."""
    held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}

    def fill(partial: Path) -> None:
        try:
            safetensors.torch.save_file(held, partial, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:  # the disk is full, say
            raise OSError(f"{path}: cannot be written: {error}") from None

    write(path, fill)


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], shard: int = SHARD) -> None:
    """Write a checkpoint's weights into a folder: one file, or shards of at most `shard` bytes with their index.

    Weights that the folder held before are removed once the new ones are there.
    """
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    groups: list[list[str]] = [[]]
    for name, size in sizes.items():
        if groups[-1] and sum(sizes[n] for n in groups[-1]) + size > shard:
            groups.append([])
        groups[-1].append(name)
    names = [WEIGHTS]
    if len(groups) > 1:
        names = [f"model-{at:05d}-of-{len(groups):05d}.safetensors" for at in range(1, len(groups) + 1)]
    for file, group in zip(names, groups, strict=True):
        write_weights(folder / file, {name: tensors[name] for name in group})
    if len(groups) > 1:
        where = {name: file for file, group in zip(names, groups, strict=True) for name in group}
        write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where})
        names.append(INDEX)
    for old in [*folder.glob("model*.safetensors"), folder / INDEX]:
        if old.name not in names:
            old.unlink(missing_ok=True)


class Weights(Mapping[str, Tensor]):
    """The tensors of a checkpoint folder by name: one file, or shards with an index.

    A tensor is a view into the mapped file: it takes memory only once it is read, and changing it does not change the
    file. One shard is open at a time; walking the items in order visits each once.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ValueError when there are no safetensors, or a shard is missing or damaged."""
        self.folder = folder
        self._open: tuple[Path, Any] | None = None
        sharded = (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
        self._files = self._read_index() if sharded else self._read_single()

    def _read_index(self) -> dict[str, Path]:
        index = read_json(self.folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise ValueError(f"{self.folder / INDEX} has no `weight_map` of tensor names and files")
        shards = sorted(set(index.values()))
        for shard in shards:
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise ValueError(f"{self.folder / INDEX} names {shard!r}, which is no safetensors file of its folder")
        missing = [shard for shard in shards if not (self.folder / shard).is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"{self.folder} lacks the shard {missing[0]}{more} of {len(shards)}: the download is incomplete, "
                "fetch it again"
            )
        found = {}
        for shard in shards:
            path = self.folder / shard
            inside = set(self._handle(path).keys())
            for name in (name for name, file in index.items() if file == shard):
                if name not in inside:
                    raise ValueError(f"{path} lacks the tensor {name}, which {INDEX} says it holds")
                found[name] = path
        return found

    def _read_single(self) -> dict[str, Path]:
        path = self.folder / WEIGHTS
        if not path.is_file() and (self.folder / OPEN_CLIP_WEIGHTS).is_file():
            path = self.folder / OPEN_CLIP_WEIGHTS
        if not path.is_file():
            if any(next(self.folder.glob(pattern), None) for pattern in PICKLES):
                raise ValueError(
                    f"{self.folder} holds its weights as Python pickles only, which can run code when they are read; "
                    "vlmlab reads safetensors alone: take the .safetensors revision, or convert it where you trust it"
                )
            raise ValueError(f"{self.folder} has no {WEIGHTS} and no {INDEX}")
        return dict.fromkeys(self._handle(path).keys(), path)

    def _handle(self, path: Path) -> Any:
        if self._open is None or self._open[0] != path:
            try:
                self._open = path, safetensors.safe_open(path, framework="pt", device="cpu")
            except safetensors.SafetensorError as error:
                raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch it again") from None
        return self._open[1]

    def __getitem__(self, name: str) -> Tensor:
        return self._handle(self._files[name]).get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor, without reading it."""
        return list(self._handle(self._files[name]).get_slice(name).get_shape())
