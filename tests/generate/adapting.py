"""Adapters for tiny models, as folders of PEFT's files: of every part, of the text alone, with weights in full."""

from pathlib import Path

import torch

from vlmlab.hub import adapters as files
from vlmlab.hub import named
from vlmlab.model import adapters
from vlmlab.model.adapters import Config
from vlmlab.model.vlm import VLM

TEXT = ("q_proj", "v_proj", "down_proj", "lm_head")
KINDS = ("eyes", "text", "rows", "full")
"""LoRA of every part; LoRA and DoRA of the text model alone; DoRA with the connector and the norms in full."""


def shake(model: VLM, paths: list[str], seed: int) -> None:
    """Move numbers away from where they begin, far enough to change what is written."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path in paths:
            value = model.get_parameter(path)
            value.add_(0.3 * torch.randn(value.shape, generator=generator))


def write(model: VLM, kind: str, folder: Path, seed: int = 0) -> Path:
    """An adapter of one of the kinds for a model, which is left as it was."""
    parts = ["vision", "connector", "language", "fusion"] if kind == "eyes" else ["language"]
    config = Config(kind="dora" if kind in ("rows", "full") else "lora", rank=2, alpha=4.0)
    known = [part for part in parts if named.linear_layers(model, part)]
    paths = [p for part in known for p in named.resolve(model, part, TEXT if part == "language" else ())]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adapters.add(model, paths, config, "made")
    shake(model, list(adapters.learned(model, "made")), 100 * KINDS.index(kind) + seed)
    whole = []
    if kind == "full":
        whole = ["connector", *named.modules(model, "language", ("input_layernorm", "norm"))]
        inside = [key for key, _ in model.named_parameters() if key.startswith(tuple(f"{path}." for path in whole))]
        shake(model, inside, 7 + seed)
    files.save(model, folder, whole=whole, name="made")
    adapters.remove(model, "made")
    model.load_state_dict(before)
    return folder
