"""The model that benchmarks measure: the demo's shape with random weights, ours and transformers' from one file."""

import tempfile
from pathlib import Path

import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from vlmlab.hub.load import load_model
from vlmlab.model.vlm import VLM

IMAGE = 49154
FRAME = 49153
END = 49155


def config(tiny: bool = False, latents: int = 16) -> Idefics2Config:
    """DINOv2-S's size of tower, SmolLM2-135M's size of decoder, and a perceiver between them."""
    layers, width, inner, words = (2, 64, 96, 300) if tiny else (30, 576, 1536, END + 1)
    return Idefics2Config(
        vision_config={
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 2 if tiny else 12,
            "num_attention_heads": 6,
            "image_size": 980,
            "patch_size": 14,
        },
        perceiver_config={
            "hidden_size": width,
            "resampler_n_latents": latents,
            "resampler_depth": 3,
            "resampler_n_heads": 16,
            "num_key_value_heads": 4,
            "resampler_head_dim": 96,
            "rms_norm_eps": 1e-5,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": words,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "num_key_value_heads": max(width // 192, 1),
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        },
        image_token_id=words - 2,
        tie_word_embeddings=True,
    )


def pair(tiny: bool = False, latents: int = 16) -> tuple[VLM, Idefics2ForConditionalGeneration]:
    """Our model and transformers', with the same random weights."""
    torch.manual_seed(0)
    peer = Idefics2ForConditionalGeneration(config(tiny, latents)).eval()
    with torch.no_grad():  # transformers starts latents at one, alike: spread them, as a trained model's are
        peer.model.connector.perceiver_resampler.latents.normal_()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        ours = load_model(Path(folder))
        # Weights of a checkpoint are mapped from its file, which is about to go.
        for parameter in ours.parameters():
            parameter.data = parameter.data.clone()
    return ours, peer
