"""Tiny random Idefics2 models of transformers, and the same pictures and tokens for them and for us."""

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from vlmlab.batch import Batch, Images

IMAGE = 60

# Several shapes: grouped and single key heads, a head wider than its share, windows, a tied head, other activations.
SHAPES: list[dict[str, Any]] = [
    {},
    {
        "vision": {"num_hidden_layers": 1, "patch_size": 7, "hidden_act": "gelu", "num_attention_heads": 2},
        "perceiver": {"resampler_depth": 1, "resampler_n_latents": 5, "num_key_value_heads": 4, "rms_norm_eps": 1e-5},
        "text": {"num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": None},
    },
    {
        "vision": {"hidden_size": 20, "image_size": 42, "layer_norm_eps": 1e-5},
        "perceiver": {"resampler_head_dim": 6, "resampler_n_heads": 6, "hidden_size": 32},
        "text": {"hidden_size": 32, "num_attention_heads": 8, "head_dim": 4, "sliding_window": 6},
        "tie_word_embeddings": True,
    },
]


def config(changes: dict[str, Any] | None = None) -> Idefics2Config:
    changes = dict(changes or {})
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
    } | changes.pop("vision", {})
    perceiver = {
        "hidden_size": 24,
        "resampler_n_latents": 3,
        "resampler_depth": 2,
        "resampler_n_heads": 4,
        "num_key_value_heads": 2,
        "resampler_head_dim": 8,
        "rms_norm_eps": 1e-4,
    } | changes.pop("perceiver", {})
    text = {
        "model_type": "mistral",
        "vocab_size": 64,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        "pad_token_id": 0,
    } | changes.pop("text", {})
    return Idefics2Config(
        vision_config=vision, perceiver_config=perceiver, text_config=text, image_token_id=IMAGE, **changes
    )


def build(changes: dict[str, Any] | None = None, seed: int = 0) -> Idefics2ForConditionalGeneration:
    """A model whose every weight is drawn large enough to show."""
    model = Idefics2ForConditionalGeneration(config(changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise if parameter.ndim > 1 else 1 + 0.2 * noise)
    return model


def save(model: Idefics2ForConditionalGeneration, folder: Path, shard: str = "5GB") -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


GRIDS = [(4, 4), (2, 3), (1, 4)]


def documents(patch: int, latents: int) -> list[tuple[list[int], list[Tensor]]]:
    """Token ids with their placeholders, and pixels [3, height, width] of each image."""
    generator = torch.Generator().manual_seed(7)

    def picture(at: int) -> Tensor:
        rows, columns = GRIDS[at]
        return torch.randn(3, rows * patch, columns * patch, generator=generator)

    seat = [IMAGE] * latents
    return [
        ([1, *seat, 5, 9, *seat, 11, 12, 13], [picture(0), picture(1)]),
        ([1, 4, *seat, 8, 3, 2, 7], [picture(2)]),
        ([1, 22, 23, 24, 25, 26, 27, 28, 29], []),
    ]


def for_us(tokens: list[int], pixels: list[Tensor], patch: int) -> Batch:
    ids = torch.tensor([tokens])
    images = [
        Images(
            rearrange(p, "c (h y) (w x) -> (h w) (c y x)", y=patch, x=patch),
            torch.tensor([[p.shape[1] // patch, p.shape[2] // patch]]),
        )
        for p in pixels
    ]
    return Batch(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], images=Images.join(images))


def for_them(tokens: list[int], pixels: list[Tensor]) -> dict[str, Tensor]:
    inputs = {"input_ids": torch.tensor([tokens]), "attention_mask": torch.ones(1, len(tokens), dtype=torch.long)}
    if pixels:
        height, width = (max(p.shape[axis] for p in pixels) for axis in (1, 2))
        values = torch.zeros(1, len(pixels), 3, height, width)
        mask = torch.zeros(1, len(pixels), height, width, dtype=torch.long)
        for at, p in enumerate(pixels):
            values[0, at, :, : p.shape[1], : p.shape[2]] = p
            mask[0, at, : p.shape[1], : p.shape[2]] = 1
        inputs |= {"pixel_values": values, "pixel_attention_mask": mask}
    return inputs


def logits(model: Idefics2ForConditionalGeneration, tokens: list[int], pixels: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**for_them(tokens, pixels)).logits


def far(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest of the numbers themselves."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def tokenizer() -> Tokenizer:
    """Words of one letter and a number, and the control tokens at the ids of the models above."""
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, 59))]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<unk>", "<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made
