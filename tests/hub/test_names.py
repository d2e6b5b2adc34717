"""Names on the hub and ours: a two-way street, for every layout and age."""

import pytest
import torch
import transformers
from torch import nn

from hub import tiny
from vlmlab.hub import names

TOWER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28, "patch_size": 14}
DECODER = {"vocab_size": 16, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}


def layouts() -> dict[str, tuple[nn.Module, names.Table]]:
    t = transformers
    return {
        "idefics2": (tiny.build(), names.IDEFICS2),
        "siglip": (t.SiglipVisionModel(t.SiglipVisionConfig(**TOWER)), names.SIGLIP),
        "clip": (t.CLIPVisionModel(t.CLIPVisionConfig(**TOWER)), names.CLIP),
        "blip2": (t.Blip2VisionModel(t.Blip2VisionConfig(**TOWER)), names.BLIP2),
        "mistral": (t.MistralForCausalLM(t.MistralConfig(**DECODER)), names.MISTRAL),
        "llama": (t.LlamaForCausalLM(t.LlamaConfig(**DECODER)), names.MISTRAL),
    }


UNUSED = ("head.", "post_layernorm.")


@pytest.mark.parametrize("layout", ["idefics2", "siglip", "clip", "blip2", "mistral", "llama"])
def test_every_name_goes_there_and_back(layout: str) -> None:
    model, table = layouts()[layout]
    found = {}
    for name in model.state_dict():
        ours = names.to_ours(name, table)
        if ours is None:
            assert layout in ("siglip", "clip") and name.startswith(UNUSED), name
            continue
        assert names.to_theirs(ours[0], table) == (name, ours[1])
        found[ours[0]] = name
    assert len(found) > 10


def test_released_names() -> None:
    for ours, theirs in {
        "vision.patch.weight": "model.vision_model.embeddings.patch_embedding.weight",
        "vision.layers.26.attention.o.bias": "model.vision_model.encoder.layers.26.self_attn.out_proj.bias",
        "vision.layers.3.mlp.down.weight": "model.vision_model.encoder.layers.3.mlp.fc2.weight",
        "vision.norm.bias": "model.vision_model.post_layernorm.bias",
        "connector.projection.gate.weight": "model.connector.modality_projection.gate_proj.weight",
        "connector.latents": "model.connector.perceiver_resampler.latents",
        "connector.layers.2.context_norm.weight": (
            "model.connector.perceiver_resampler.layers.2.input_context_norm.weight"
        ),
        "connector.norm.weight": "model.connector.perceiver_resampler.norm.weight",
        "language.embedding.weight": "model.text_model.embed_tokens.weight",
        "language.layers.31.mlp_norm.weight": "model.text_model.layers.31.post_attention_layernorm.weight",
        "language.output.weight": "lm_head.weight",
    }.items():
        assert names.to_theirs(ours, names.IDEFICS2)[0] == theirs
        assert names.to_ours(theirs, names.IDEFICS2)[0] == ours


def test_the_training_codes_names() -> None:
    """No `connector.`, no `text_model.`, added rows apart, rotary tables inside."""
    held = {
        "model.perceiver_resampler.latents": torch.zeros(2, 4),
        "model.modality_projection.up_proj.weight": torch.zeros(4, 4),
        "model.embed_tokens.additional_embedding.weight": torch.full((3, 4), 2.0),  # listed before what it follows
        "model.embed_tokens.weight": torch.ones(5, 4),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2),
        "model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4),
        "model.norm.weight": torch.zeros(4),
        "additional_fc.weight": torch.full((3, 4), 4.0),
        "lm_head.weight": torch.full((5, 4), 3.0),
        "model.vision_model.post_layernorm.bias": torch.zeros(4),
    }
    steps, unknown = names.plan_idefics2(list(held))
    made = {step.ours: step.make(*(held[name] for name in step.theirs)) for step in steps}
    assert unknown == []
    assert set(made) == {
        "connector.latents",
        "connector.projection.up.weight",
        "language.embedding.weight",
        "language.layers.0.attention.q.weight",
        "language.norm.weight",
        "language.output.weight",
        "vision.norm.bias",
    }
    assert made["language.embedding.weight"][:, 0].tolist() == [1] * 5 + [2] * 3
    assert made["language.output.weight"][:, 0].tolist() == [3] * 5 + [4] * 3


def test_a_name_no_rule_fits_is_told_as_it_was() -> None:
    odd = ["model.perceiver_resampler.layers.0.self_attn.q_layer_norm.weight", "extra"]
    assert names.plan_idefics2([*odd, "model.norm.weight"])[1] == odd


def test_patches_are_channel_row_column() -> None:
    convolution = nn.Conv2d(3, 5, 4, stride=4)
    pixels = torch.randn(1, 3, 4, 4)
    weight = names.MAKE["patch"](convolution.weight)
    found = nn.functional.linear(pixels.flatten(1), weight, convolution.bias)
    assert torch.allclose(found, convolution(pixels).flatten(1), atol=1e-6)
    assert torch.equal(names.to_convolution(weight, 4), convolution.weight)


def test_stars_stand_for_one_piece() -> None:
    assert names.fits("layers.3.norm1.weight", "layers.*.norm1.*")
    assert not names.fits("layers.3.x.norm1.weight", "layers.*.norm1.*")
    assert not names.fits("layersX3.norm1.weight", "layers.*.norm1.*")
    assert names.fits("head.a.b", "head.**")
