"""What we export, transformers loads: the same weights, logits, settings and text; and back again, bit for bit."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import vlmlab
from hub import tiny
from model import tiny as models
from vlmlab.component import parse
from vlmlab.hub.export import differences, export
from vlmlab.hub.load import load_model
from vlmlab.hub.save import save
from vlmlab.model.vlm import VLM, VLMConfig
from vlmlab.processor.images import native, split, square
from vlmlab.processor.processor import Config, Processor


def ours(shape: dict[str, Any], folder: Path, **settings: Any) -> tuple[VLM, Processor]:
    model = load_model(tiny.save(tiny.build(shape), folder))
    config = Config(patch=model.config.vision.patch, **settings)
    return model, Processor(config, tiny.tokenizer(), model.placeholders, 64)


@pytest.mark.parametrize("shard", [10**9, 20_000])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_transformers_gives_the_same_logits(shape: dict[str, Any], shard: int, tmp_path: Path) -> None:
    model, processor = ours(shape, tmp_path / "a")
    out = export((model, processor), tmp_path / "out", shard)
    theirs, told = transformers.Idefics2ForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    patch, latents = model.config.vision.patch, model.config.connector.latents
    for tokens, pixels in tiny.documents(patch, latents):
        with torch.no_grad():
            found = model(tiny.for_us(tokens, pixels, patch))
        assert tiny.far(found, tiny.logits(theirs.eval(), tokens, pixels)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"images": split.Config(longest=700, shortest=200)},
        {"images": square.Config(side=84), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
        {"bos": None, "pad": "</s>", "ends": ("<end_of_utterance>", "w8")},
    ],
)
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_what_comes_back_is_what_went_out(
    shape: dict[str, Any], settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    model, processor = ours(shape, tmp_path / "a", **settings)
    if processor.config.bos is None:
        processor.tokenizer.post_processor = None
    model, back = model.to(dtype), None
    out = export((model, processor), tmp_path / "out")
    again, back = vlmlab.load(out)
    assert again.config == model.config
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) and first[n].dtype == second[n].dtype for n in first)
    assert back.config == processor.config and back.vocabulary == processor.vocabulary
    assert (back.ends, back.never_written, back.pad_id) == (processor.ends, processor.never_written, processor.pad_id)
    assert back.tokenizer.to_str() == processor.tokenizer.to_str()
    for path in export((again, back), tmp_path / "twice").iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_a_run_folder_is_exported_too(tmp_path: Path) -> None:
    model, processor = ours({}, tmp_path / "a")
    save(model, processor, tmp_path / "run")
    first = export(tmp_path / "run", tmp_path / "one")
    second = export((model, processor), tmp_path / "two")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


@pytest.mark.parametrize("images", [native.Config(), split.Config(longest=90, shortest=30), square.Config(side=56)])
def test_transformers_reads_pictures_text_and_chat_alike(images: Any, tmp_path: Path) -> None:
    import numpy as np
    import PIL.Image

    out = export(ours({}, tmp_path / "a", images=images), tmp_path / "out")
    processor = vlmlab.load(out)[1]
    theirs = transformers.AutoProcessor.from_pretrained(out)
    assert isinstance(theirs, transformers.Idefics2Processor)
    pixels = np.random.default_rng(0).integers(0, 255, (61, 97, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(pixels)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " w5 w6"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "w7"}]},
        {"role": "user", "content": [{"type": "text", "text": "w8 "}, {"type": "image"}]},
    ]
    prompt = theirs.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == "User:<image> w5 w6<end_of_utterance>\nAssistant: w7<end_of_utterance>\nUser: w8 <image>" + (
        "<end_of_utterance>\nAssistant:"
    )
    expected = theirs(text=prompt, images=[picture, picture], return_tensors="pt")
    sample = vlmlab.Sample.from_messages(messages, [picture, picture])
    batch = processor([sample], add_generation_prompt=True)
    assert batch.tokens.tolist() == expected["input_ids"].tolist()
    assert batch.images is not None
    at = 0
    for (rows, columns), pixel in zip(batch.images.sizes(), expected["pixel_values"][0], strict=True):
        made = tiny.for_us([1], [pixel[:, : rows * 14, : columns * 14]], 14).images.patches
        assert torch.allclose(batch.images.patches[at : at + rows * columns], made, atol=1e-6)
        at += rows * columns


def test_generation_settings(tmp_path: Path) -> None:
    out = export(ours({}, tmp_path / "a"), tmp_path / "out")
    config = transformers.GenerationConfig.from_pretrained(out)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, [2, 61], 0)
    assert config.bad_words_ids == [[59], [60]]


TABLES: dict[str, dict[str, Any]] = {
    "vision": {"name": "siglip", "width": 8, "layers": 1, "heads": 2, "inner": 8, "patch": 2, "side": 2},
    "connector": {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "kv_heads": 1, "projection_inner": 12},
    "language": {"name": "mistral", "vocabulary": 64, "width": 8, "layers": 1, "heads": 2, "kv_heads": 1, "inner": 12},
    "fusion": {"name": "interleave", "image_token": 60},
}


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"vision": {"name": "dinov2"}}, {}, "model.vision 'dinov2' is not siglip"),
        ({"connector": {"name": "linear"}}, {}, "model.connector 'linear' is not perceiver"),
        ({"connector": {"projection": "linear"}}, {}, "model.connector.projection 'linear' is not mlp"),
        ({"connector": {"projection_inner": 16}}, {}, "projection_inner 16 is not 12, as model.language.inner"),
        ({"connector": {"ratio": 2}}, {}, "model.connector.ratio 2 is not 4"),
        ({"fusion": {"name": "cross_attention"}}, {}, "model.fusion 'cross_attention' is not interleave"),
        ({}, {"images": split.Config(resize="maximum")}, "processor.images.resize 'maximum' is not published"),
        ({}, {"frame": None}, "processor.frame None is not <fake_token_around_image>"),
    ],
)
def test_other_models_are_refused_by_part(
    changes: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tables = {part: dict(table) for part, table in TABLES.items()}
    for part, values in changes.items():
        if "name" in values:
            tables[part] = {k: v for k, v in tables[part].items() if part != "connector"}
        tables[part] |= values
    config = parse(VLMConfig, tables)
    assert differences(config, Config(**settings)) == [message] or message in differences(config, Config(**settings))[0]
    model = models.build(fusion="cross_attention", connector="linear")
    processor = Processor(Config(**settings), tiny.tokenizer(), model.placeholders)
    with pytest.raises(ValueError, match=r"not an Idefics2, so transformers has no class for it: .*linear.*; .*cross"):
        export((model, processor), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_default_model_is_idefics2() -> None:
    released = {"vision": "siglip", "connector": "perceiver", "language": "mistral", "fusion": "interleave"}
    assert differences(parse(VLMConfig, {k: {"name": v} for k, v in released.items()}), Config()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    pair = ours({}, tmp_path / "a")
    with pytest.raises(ValueError, match="is there already; give a new folder"):
        export(pair, tmp_path / "a")
    (tmp_path / "empty").mkdir()
    export(pair, tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "empty"]


def test_every_number_is_written_out(tmp_path: Path) -> None:
    """Loading with another version's defaults must not matter: each value that our config has is in the file."""
    import json

    model, processor = ours(tiny.SHAPES[1], tmp_path / "a")
    out = export((model, processor), tmp_path / "out")
    data = json.loads((out / "config.json").read_text())
    held = {key: set(data[f"{key}_config"]) for key in ("vision", "perceiver", "text")}
    assert {"rms_norm_eps", "hidden_size"} <= held["perceiver"]
    assert data["text_config"]["sliding_window"] is None and data["text_config"]["head_dim"] == 16
    count = sum(len(dataclasses.fields(part)) for part in (model.config.vision, model.config.language))
    assert sum(map(len, held.values())) >= count
