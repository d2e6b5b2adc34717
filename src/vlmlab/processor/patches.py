"""From a picture to patches: resize as published, drop the border that fills no patch, cut."""

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from vlmlab.processor.images import Piece


def published_size(width: int, height: int, longest: int, shortest: int) -> tuple[int, int]:
    """Width and height after the published rule: the longer side at most `longest`, then each side at least `shortest`.

    The shorter side is truncated, not rounded; the two minimums act each on its own side, so that a small or very long
    picture changes its shape.
    """
    ratio = width / height
    if width >= height and width > longest:
        width, height = longest, int(longest / ratio)
    elif height > width and height > longest:
        width, height = int(longest * ratio), longest
    return max(width, shortest), max(height, shortest)


def cut(image: PIL.Image.Image, piece: Piece, patch: int) -> tuple[UInt8[Tensor, "p c"], tuple[int, int]]:
    """The whole patches of one piece of an RGB picture, and how many rows and columns of them there are.

    A patch's numbers are in channel, row, column order. Raises ValueError when the piece holds no whole patch.
    """
    if piece.box != (0, 0, *image.size):
        image = image.crop(piece.box)
    if piece.size != image.size:
        image = image.resize(piece.size, PIL.Image.Resampling.BILINEAR)
    rows, columns = piece.size[1] // patch, piece.size[0] // patch
    if not rows or not columns:
        raise ValueError(f"a picture of {piece.size[0]} x {piece.size[1]} pixels holds no whole patch of {patch}")
    pixels = np.asarray(image)[: rows * patch, : columns * patch]
    return torch.from_numpy(rearrange(pixels, "(h a) (w b) c -> (h w) (c a b)", a=patch, b=patch)), (rows, columns)


def normalise(
    patches: list[UInt8[Tensor, "_ c"]], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "p c"]:
    """(x / 255 - mean) / std of every patch, laid end to end in one new tensor."""
    numbers = patches[0].shape[1]
    scale = torch.tensor([1 / (255 * s) for s in std]).repeat_interleave(numbers // 3)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).repeat_interleave(numbers // 3)
    out = torch.empty(sum(map(len, patches)), numbers)
    at = 0
    for some in patches:
        # In pieces that stay in the processor's cache between the three passes.
        for part in some.split(256):
            out[at : at + len(part)].copy_(part).mul_(scale).add_(shift)
            at += len(part)
    return out
