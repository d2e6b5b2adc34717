"""A checkpoint that transformers wrote, loaded by us: the same logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from hub import tiny
from vlmlab import component
from vlmlab.hub import configs
from vlmlab.hub.load import load_model
from vlmlab.model.vlm import VLM, VLMConfig


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_logits_are_equal(shape: dict[str, Any], shard: str, tmp_path: Path) -> None:
    theirs = tiny.build(shape)
    ours = load_model(tiny.save(theirs, tmp_path, shard))
    assert (shard == "5GB") == (tmp_path / "model.safetensors").exists()
    patch, latents = theirs.config.vision_config.patch_size, theirs.config.perceiver_config.resampler_n_latents
    for tokens, pixels in tiny.documents(patch, latents):
        with torch.no_grad():
            found = ours(tiny.for_us(tokens, pixels, patch))
        assert tiny.far(found, tiny.logits(theirs, tokens, pixels)) < 1e-5


def test_the_resamplers_eps_is_the_files_or_as_trained(tmp_path: Path) -> None:
    """transformers writes its own eps into what it saves; the released files hold none, and were trained with 1e-5."""
    tiny.save(tiny.build({"perceiver": {"rms_norm_eps": 1e-6}, "text": {"rms_norm_eps": 1e-5}}), tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    assert data["perceiver_config"]["rms_norm_eps"] == 1e-6
    assert load_model(tmp_path).config.connector.eps == 1e-6
    del data["perceiver_config"]["rms_norm_eps"]
    path.write_text(json.dumps(data))
    assert load_model(tmp_path).config.connector.eps == 1e-5


def test_a_resampler_of_another_width_takes_the_texts_eps(tmp_path: Path) -> None:
    """transformers overrules the file's width and eps when the width is not the text model's; so do we."""
    theirs = tiny.build({"text": {"rms_norm_eps": 1e-3}})
    assert theirs.config.perceiver_config.rms_norm_eps == 1e-4
    tiny.save(theirs, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data["perceiver_config"]["hidden_size"] = 4096
    (tmp_path / "config.json").write_text(json.dumps(data))
    again = Idefics2ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.perceiver_config.rms_norm_eps == 1e-3
    ours = load_model(tmp_path)
    tokens, pixels = tiny.documents(14, 3)[0]
    with torch.no_grad():
        assert tiny.far(ours(tiny.for_us(tokens, pixels, 14)), tiny.logits(again, tokens, pixels)) < 1e-5


def test_the_released_config_is_the_released_model() -> None:
    """The hub's `config.json` names few of its numbers: those it leaves out are transformers' defaults."""
    data = {
        "architectures": ["Idefics2ForConditionalGeneration"],
        "model_type": "idefics2",
        "image_token_id": 32001,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "perceiver_config": {"model_type": "idefics2"},
        "text_config": {
            "model_type": "mistral",
            "vocab_size": 32003,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-05,
            "pad_token_id": 0,
        },
        "vision_config": {
            "model_type": "idefics2",
            "hidden_size": 1152,
            "image_size": 980,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
        },
    }
    config = component.parse(VLMConfig, configs.idefics2(data))
    with torch.device("meta"):
        model = VLM(config)
    assert sum(p.numel() for p in model.parameters()) == 8_402_768_112
    assert len(dict(model.named_parameters())) == 763
    # All that transformers makes of the same file, but for the drift in eps, gives the same config.
    full = Idefics2Config.from_dict(json.loads(json.dumps(data))).to_dict()
    full["perceiver_config"]["rms_norm_eps"] = 1e-5
    assert component.parse(VLMConfig, configs.idefics2(full)) == config
    base = data | {"text_config": data["text_config"] | {"vocab_size": 32002}}
    assert component.parse(VLMConfig, configs.idefics2(base)).language.vocabulary == 32002
