"""Our own checkpoint folder: `vlmlab.toml`, `model.safetensors`, `tokenizer.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlab import component, writing
from vlmlab.hub import files, packed
from vlmlab.hub.load import RECIPE
from vlmlab.model.adapters import plain_state
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Processor


def save(
    model: VLM,
    processor: Processor | None,
    folder: Path | str,
    extra: Mapping[str, Any] | None = None,
    shard: int = files.SHARD,
    quantized: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model of any architecture, with its processor where there is one, into a folder that `load` reads.

    What acts of its adapters is in the weights. `extra` are further tables of `vlmlab.toml`, such as where the model
    came from. `quantized` says how weights came to be held in few bits: they are then written as they are held, else
    as the numbers they stand for. Each file is written whole or not at all, `vlmlab.toml` last; other files of the
    folder are left alone.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"model": component.plain(model.config)}
    if processor is not None:
        data["processor"] = component.plain(processor.config)
        text = processor.tokenizer.to_str(pretty=True)
        writing.write_text(folder / "tokenizer.json", text)
    if quantized is not None:
        data["quantized"] = component.plain(packed.describe(model, quantized))
    clash = data.keys() & (extra or {}).keys()
    if clash:
        raise ValueError(f"extra may not hold {sorted(clash)[0]!r}, which is the model's own table")
    state = plain_state(model) if quantized is None else packed.state(model)
    files.write_checkpoint(folder, state, shard)
    writing.write_text(folder / RECIPE, component.write_toml({**data, **(extra or {})}))
    return folder
