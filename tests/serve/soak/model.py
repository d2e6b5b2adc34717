"""A tiny random model whose answers tell pictures apart, in a folder that can be served."""

from pathlib import Path

import torch
from tokenizers import decoders

from generate import tiny
from vlmlab.batch import Images, Sample
from vlmlab.hub import save
from vlmlab.model.vlm import VLM
from vlmlab.processor.images import native
from vlmlab.processor.patches import normalise
from vlmlab.processor.processor import Config, Processor

NAME = "tiny"


def build() -> tuple[VLM, Processor]:
    """The model and its processor.

    Random weights see nearly the same in all pictures, and so write the same. Here what all pictures have in common is
    taken from what the eye sees, and each latent looks at few patches rather than at the mean of all.
    """
    changes = {"connector.projection": "linear", "connector.latents": 6, "language.window": None}
    model = tiny.build(dtype=torch.float32, changes=changes)
    tokenizer = tiny.tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    config = Config(images=native.Config(longest=40, shortest=8), patch=2, pad="<unk>")
    processor = Processor(config, tokenizer, model.placeholders, 103)
    with torch.no_grad():
        model.vision.norm.bias -= _features(model, processor).mean(0)
        model.connector.latents *= 0.1
        for layer in model.connector.layers:
            layer.attention.q.weight *= 4
            layer.mlp.down.weight *= 0.3
    return model, processor


def folder(path: Path) -> Path:
    """The model's folder, written to `path`."""
    return save.save(*build(), path)


def _features(model: VLM, processor: Processor) -> torch.Tensor:
    samples = [Sample.from_text("<image>", [tiny.picture(8 + at % 32, 40 - at % 28, at)]) for at in range(50)]
    encoded = processor.encode_all(samples, True)
    patches = [some for one in encoded for some in one.patches]
    grid = torch.tensor([size for one in encoded for size in one.grid])
    return model.vision(Images(normalise(patches, processor.config.mean, processor.config.std), grid))
