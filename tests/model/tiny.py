"""Tiny models and batches: every plug-in at a size that a test can afford, and documents laid out in any way."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vlmlab.batch import Batch, Images
from vlmlab.component import parse
from vlmlab.model.vlm import VLM, VLMConfig

PATCH = 2
GRID = (3, 4)
"""The grid that connectors of one fixed grid are built for."""
IMAGE = 101
VOCABULARY = 103

VISION: dict[str, dict[str, Any]] = {
    "siglip": {"width": 24, "layers": 2, "heads": 3, "inner": 40, "side": 7},
    "clip": {"width": 24, "layers": 2, "heads": 3, "inner": 40, "side": 4},
    "dinov2": {"width": 24, "layers": 2, "heads": 3, "inner": 40, "side": 5},
    "eva_clip": {"width": 24, "layers": 2, "heads": 3, "inner": 40, "side": 4},
    "efficientnet": {
        "width": 24,
        "stem": 6,
        "widths": [8, 8, 12],
        "blocks": [1, 2, 1],
        "kernels": [3, 5, 3],
        "strides": [1, 1, 1],
        "expansions": [1, 2, 3],
    },
}
CONNECTOR: dict[str, dict[str, Any]] = {
    "perceiver": {"latents": 3, "depth": 2, "heads": 4, "kv_heads": 2, "head_width": 6, "projection_inner": 40},
    "linear": {"rows": GRID[0], "columns": GRID[1], "tokens": 5},
    "per_patch": {},
    "mapping": {"queries": 4, "inner": 16, "layers": 2, "heads": 2},
}
LANGUAGE: dict[str, dict[str, Any]] = {
    "mistral": {
        "vocabulary": VOCABULARY,
        "width": 32,
        "layers": 4,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 8,
        "inner": 48,
        "window": 7,
    },
}
FUSION: dict[str, dict[str, Any]] = {
    "interleave": {"image_token": IMAGE},
    "cross_attention": {
        "image_token": IMAGE,
        "every": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 8,
        "inner": 48,
    },
}
SLOTS = {"vision": VISION, "connector": CONNECTOR, "language": LANGUAGE, "fusion": FUSION}


def tables(**names: str) -> dict[str, Any]:
    """The `[model]` table of a tiny model; each slot's plug-in by name (siglip, perceiver, mistral, interleave)."""
    chosen = {"vision": "siglip", "connector": "perceiver", "language": "mistral", "fusion": "interleave"} | names
    data: dict[str, Any] = {slot: {"name": name} | SLOTS[slot][name] for slot, name in chosen.items()}
    data["vision"]["patch"] = PATCH
    return data


def build(
    seed: int = 0, changes: dict[str, Any] | None = None, dtype: torch.dtype = torch.float64, **names: str
) -> VLM:
    """A tiny random model with weights large enough to show every error, its gates opened; `changes` by dotted key.

    In double precision, unless told otherwise, so that a difference is an error and not a rounding.
    """
    data = tables(**names)
    for path, value in (changes or {}).items():
        slot, key = path.split(".")
        data[slot][key] = value
    torch.manual_seed(seed)
    model = VLM(parse(VLMConfig, data)).eval()
    return scramble(model, seed).to(dtype)


def scramble(model: nn.Module, seed: int = 0, std: float = 0.3) -> Any:
    """Draw every parameter anew: matrices and tables from N(0, std²), the rest near what it was; gates are opened."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * std if parameter.ndim > 1 else parameter + 0.2 * noise)
            if name.endswith("_gate"):
                parameter.fill_(0.7 if "mlp" in name else -0.9)
    return model


def picture(rows: int, columns: int, seed: int = 0, patch: int = PATCH) -> Images:
    """One image of random numbers."""
    generator = torch.Generator().manual_seed(1000 * rows + columns + 7919 * seed)
    return Images(torch.randn(rows * columns, 3 * patch * patch, generator=generator), torch.tensor([[rows, columns]]))


def pictures(sizes: Sequence[tuple[int, int]], patch: int = PATCH) -> Images:
    """Images of the given grids, each different."""
    joined = Images.join([picture(rows, columns, at, patch) for at, (rows, columns) in enumerate(sizes)])
    assert joined is not None
    return joined


Document = Sequence[int | Images]
"""Tokens and single images, in reading order."""


class Place(NamedTuple):
    """Where a document stands in a batch."""

    row: int
    start: int
    end: int


def lay(model: VLM, rows: Sequence[Sequence[Document]], width: int | None = None) -> tuple[Batch, list[Place]]:
    """A batch of rows, each a sequence of documents, padded to `width`; and where each document stands.

    A document that is empty stands for one token of padding between two others.
    """
    laid: list[list[tuple[int, int, int]]] = []
    images: list[Images] = []
    places = []
    for row, documents in enumerate(rows):
        line: list[tuple[int, int, int]] = []
        for number, document in enumerate(documents, 1):
            tokens: list[int] = []
            for piece in document:
                if isinstance(piece, Images):
                    images.append(piece)
                    tokens += [IMAGE] * model.placeholders(piece.grid)[0]
                else:
                    tokens.append(piece)
            places.append(Place(row, len(line), len(line) + len(tokens)))
            line += [(token, number, at) for at, token in enumerate(tokens)] or [(0, 0, 0)]
        laid.append(line)
    width = width or max(map(len, laid))
    values = torch.tensor([line + [(0, 0, 0)] * (width - len(line)) for line in laid])
    tokens, segments, positions = values.unbind(-1)
    return Batch(tokens, segments, positions, images=Images.join(images)).to(dtype=model.dtype), places


def alone(model: VLM, document: Document) -> Tensor:
    """Logits [t, w] of a document that is the whole batch."""
    with torch.no_grad():
        return model(lay(model, [[document]])[0])[0]


def text(length: int, seed: int = 0) -> list[int]:
    """Random ordinary tokens."""
    return torch.randint(1, IMAGE, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def far(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest of the numbers themselves."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30))
