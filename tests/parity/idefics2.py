"""Idefics2 twice, with the same random weights: transformers' and ours; and one batch written for both."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from model.tiny import IMAGE, Document, lay, scramble
from vlmlab.batch import Batch, Images
from vlmlab.component import parse
from vlmlab.model.vlm import VLM, VLMConfig

NAMES = [
    (r"^model\.vision_model\.embeddings\.(\w+)_embedding", r"vision.\1"),
    (r"^model\.vision_model\.encoder", "vision"),
    (r"^model\.vision_model\.post_layernorm", "vision.norm"),
    (r"^model\.connector\.modality_projection\.(\w+)_proj", r"connector.projection.\1"),
    (r"^model\.connector\.perceiver_resampler", "connector"),
    (r"^model\.text_model\.embed_tokens", "language.embedding"),
    (r"^model\.text_model", "language"),
    ("^lm_head", "language.output"),
    (r"layer_norm(\d)", r"norm\1"),
    (r"mlp\.fc1", "mlp.up"),
    (r"mlp\.fc2", "mlp.down"),
    (r"mlp\.(\w+)_proj", r"mlp.\1"),
    (r"self_attn\.out_proj", "attention.o"),
    (r"self_attn\.(\w)_proj", r"attention.\1"),
    (r"input_(latents|context)_norm", r"\1_norm"),
    (r"^(connector.*)post_attention_layernorm", r"\1mlp_norm"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "mlp_norm"),
]


class Shape(NamedTuple):
    """The numbers of a tiny Idefics2."""

    vision: dict[str, int]
    connector: dict[str, int]
    language: dict[str, Any]

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.vision["patch"]


SHAPES = {
    "grouped, window 7": Shape(
        {"width": 48, "layers": 2, "heads": 4, "inner": 80, "patch": 2, "side": 70},
        {"latents": 5, "depth": 2, "heads": 4, "kv_heads": 2, "head_width": 12},
        {"width": 32, "layers": 3, "heads": 4, "kv_heads": 2, "head_width": 8, "inner": 64, "window": 7},
    ),
    "one key head, no window": Shape(
        {"width": 24, "layers": 3, "heads": 3, "inner": 32, "patch": 3, "side": 27},
        {"latents": 1, "depth": 1, "heads": 3, "kv_heads": 1, "head_width": 6},
        {"width": 40, "layers": 2, "heads": 5, "kv_heads": 1, "head_width": 12, "inner": 30, "theta": 500.0},
    ),
    "tied, equal heads": Shape(
        {"width": 16, "layers": 1, "heads": 2, "inner": 64, "patch": 4, "side": 10},
        {"latents": 9, "depth": 3, "heads": 2, "kv_heads": 2, "head_width": 8},
        {"width": 16, "layers": 4, "heads": 4, "kv_heads": 4, "head_width": 4, "inner": 48, "window": 20, "tied": True},
    ),
}


def oracle(shape: Shape) -> Idefics2ForConditionalGeneration:
    """transformers' model, random, with the perceiver's epsilon that the released weights were trained with."""
    v, c, t = shape.vision, shape.connector, shape.language
    config = Idefics2Config(
        image_token_id=IMAGE,
        tie_word_embeddings=t.get("tied", False),
        vision_config={
            "hidden_size": v["width"],
            "intermediate_size": v["inner"],
            "num_hidden_layers": v["layers"],
            "num_attention_heads": v["heads"],
            "patch_size": v["patch"],
            "image_size": v["patch"] * v["side"],
        },
        perceiver_config={
            "hidden_size": t["width"],
            "resampler_n_latents": c["latents"],
            "resampler_depth": c["depth"],
            "resampler_n_heads": c["heads"],
            "num_key_value_heads": c["kv_heads"],
            "resampler_head_dim": c["head_width"],
            "rms_norm_eps": 1e-5,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": 103,
            "hidden_size": t["width"],
            "intermediate_size": t["inner"],
            "num_hidden_layers": t["layers"],
            "num_attention_heads": t["heads"],
            "num_key_value_heads": t["kv_heads"],
            "head_dim": t["head_width"],
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": t.get("theta", 10000.0)},
            "sliding_window": t.get("window"),
            "pad_token_id": 0,
        },
    )
    return scramble(Idefics2ForConditionalGeneration(config).eval(), std=0.15)


def names(theirs: Sequence[str]) -> dict[str, str]:
    """Our name for each of their parameters."""
    found = {}
    for name in theirs:
        ours = name
        for pattern, replacement in NAMES:
            ours = re.sub(pattern, replacement, ours)
        found[name] = ours
    return found


def ours(shape: Shape, theirs: Idefics2ForConditionalGeneration) -> VLM:
    """Our model with their weights."""
    tables = {
        "vision": {"name": "siglip", **shape.vision},
        "connector": {"name": "perceiver", "projection_inner": shape.language["inner"], **shape.connector},
        "language": {"name": "mistral", "vocabulary": 103, **shape.language},
        "fusion": {"name": "interleave", "image_token": IMAGE},
    }
    if "window" not in shape.language:
        tables["language"]["window"] = None
    model = VLM(parse(VLMConfig, tables)).eval()
    state = theirs.state_dict()
    renamed = {ours: state[name] for name, ours in names(list(state)).items()}
    if shape.language.get("tied"):
        del renamed["language.output.weight"]
    renamed["vision.patch.weight"] = renamed["vision.patch.weight"].flatten(1)
    model.load_state_dict(renamed)
    return model


class Inputs(NamedTuple):
    """A batch for both: ours, and the keyword arguments of theirs (padded to the largest image)."""

    batch: Batch
    theirs: dict[str, Tensor]


def write(model: VLM, shape: Shape, rows: Sequence[Document]) -> Inputs:
    """One document a row, padded on the right."""
    batch, _ = lay(model, [[document] for document in rows])
    found = [[piece for piece in document if isinstance(piece, Images)] for document in rows]
    theirs = {"input_ids": batch.tokens, "attention_mask": batch.segments}
    if batch.images is not None:
        patch, sizes = shape.patch, batch.images.sizes()
        height, width = (patch * max(size[axis] for size in sizes) for axis in (0, 1))
        pixels = torch.zeros(len(rows), max(map(len, found)), 3, height, width)
        mask = torch.zeros(len(rows), max(map(len, found)), height, width, dtype=torch.long)
        for row, images in enumerate(found):
            for at, image in enumerate(images):
                ((down, across),) = image.sizes()
                pixel = rearrange(image.patches, "(h w) (c a b) -> c (h a) (w b)", h=down, a=patch, b=patch)
                pixels[row, at, :, : down * patch, : across * patch] = pixel
                mask[row, at, : down * patch, : across * patch] = 1
        theirs |= {"pixel_values": pixels, "pixel_attention_mask": mask}
    return Inputs(batch, theirs)
