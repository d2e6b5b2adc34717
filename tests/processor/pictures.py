"""Pictures to read, and the processor of the released model."""

import io

import numpy as np
import PIL.Image
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from vlmlab.processor.images import StrategyConfig, native
from vlmlab.processor.processor import Config, Processor


def noise(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    """Smooth colours with noise on them."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))
    return PIL.Image.fromarray(np.asarray(coarse) ^ rng.integers(0, 32, (height, width, 3), dtype=np.uint8))


def encoded(image: PIL.Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def resampled(grid: Int[Tensor, "n 2"]) -> list[int]:
    """64 visual tokens for each image, whatever its size: the released model's."""
    return [64] * len(grid)


def per_patch(grid: Int[Tensor, "n 2"]) -> list[int]:
    """One visual token for each patch."""
    return grid.prod(-1).tolist()


def released(
    tokenizer: Tokenizer,
    images: StrategyConfig | None = None,
    placeholders=resampled,
    vocabulary: int = 32003,
    **changes,
) -> Processor:
    config = Config(images=images or native.Config(), **changes)
    return Processor(config, tokenizer, placeholders, vocabulary)
