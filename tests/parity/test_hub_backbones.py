"""Two backbones that transformers wrote, joined by us: each part does what it did before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from hub import tiny
from model.tiny import far, picture, scramble
from vlmlab.batch import Batch, Images
from vlmlab.component import parse
from vlmlab.hub import configs, files
from vlmlab.hub.assemble import assemble, config_of, special_tokenizer
from vlmlab.model.vision import VisionConfig
from vlmlab.model.vlm import VLM, VLMConfig

TOWER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28, "patch_size": 7}
DECODER = {
    "vocab_size": 59,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 128,
}
CONNECTOR = {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "kv_heads": 1, "projection_inner": 12}


def vision(kind: str) -> transformers.PreTrainedModel:
    t = transformers
    text = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "vocab_size": 16}
    wide = TOWER | {"intermediate_size": 40}
    made = {
        "siglip": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**wide)),
        "whole siglip": lambda: t.SiglipModel(t.SiglipConfig(vision_config=wide, text_config=text)),
        "clip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**wide)),
        "whole clip": lambda: t.CLIPModel(t.CLIPConfig(vision_config=wide, text_config=text)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(mlp_ratio=2, **TOWER)),
        "dinov2 classifier": lambda: t.Dinov2ForImageClassification(t.Dinov2Config(mlp_ratio=2, **TOWER)),
        "blip2": lambda: t.Blip2VisionModel(t.Blip2VisionConfig(**wide)),
    }[kind]()
    scramble(made.eval(), std=0.2)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("qkv.bias"):  # published weights have no bias on the keys
                parameter[24:48] = 0
    return made


def language(kind: str, **changes: Any) -> transformers.PreTrainedModel:
    t = transformers
    classes = {"mistral": (t.MistralConfig, t.MistralForCausalLM), "llama": (t.LlamaConfig, t.LlamaForCausalLM)}
    config, model = classes[kind]
    return scramble(model(config(**{**DECODER, **changes})).eval())


def words() -> Any:
    """The tokenizer of a language model that knows no pictures: 59 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(59)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def save(folder: Path, eye: transformers.PreTrainedModel, reader: transformers.PreTrainedModel) -> tuple[Path, Path]:
    eye.save_pretrained(folder / "eye")
    reader.save_pretrained(folder / "reader")
    words().save(str(folder / "reader" / "tokenizer.json"))
    return folder / "eye", folder / "reader"


def join(folders: tuple[Path, Path], **changes: dict[str, Any]) -> VLM:
    tables = config_of(*folders) | {"connector": CONNECTOR}
    for part, values in changes.items():
        tables[part] = tables[part] | values
    torch.manual_seed(1)
    return assemble(parse(VLMConfig, tables), *folders)[0].eval()


def square(images: Images, side: int, patch: int) -> Tensor:
    """The pixels of one square image."""
    parts = images.patches.view(side, side, 3, patch, patch)
    return parts.permute(2, 0, 3, 1, 4).reshape(1, 3, side * patch, side * patch)


def theirs(kind: str, model: transformers.PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The features of patches, of the layer that we read."""
    tower = {"whole siglip": "vision_model", "whole clip": "vision_model", "dinov2 classifier": "dinov2"}.get(kind)
    model = getattr(model, tower) if tower else model
    skip = 0 if "siglip" in kind else 1

    def run(pixels: Tensor) -> Tensor:
        out = model(pixels, output_hidden_states=True)
        return (out.hidden_states[-1] if "clip" in kind else out.last_hidden_state)[0, skip:]

    return run


TOWERS = {
    "siglip": "siglip",
    "whole siglip": "siglip",
    "clip": "clip",
    "whole clip": "clip",
    "dinov2": "dinov2",
    "dinov2 classifier": "dinov2",
    "blip2": "eva_clip",
}


@pytest.mark.parametrize("kind", TOWERS)
def test_every_towers_features(kind: str, tmp_path: Path) -> None:
    eye = vision(kind)
    folders = save(tmp_path, eye, language("llama"))
    model = join(folders, vision={"name": TOWERS[kind]})
    if "dinov2" not in kind:
        assert config_of(*folders)["vision"]["name"] == TOWERS[kind]
    images = picture(4, 4, patch=7)
    with torch.no_grad():
        assert far(model.vision(images), theirs(kind, eye)(square(images, 4, 7))) < 1e-5


@pytest.mark.parametrize("kind", ["siglip", "dinov2", "clip"])
def test_the_first_layers_alone(kind: str, tmp_path: Path) -> None:
    """Fewer layers than the folder has are its first ones, behind them a plain norm."""
    eye = vision(kind)
    model = join(save(tmp_path, eye, language("llama")), vision={"name": kind, "layers": 1})
    assert len(model.vision.layers) == 1
    images = picture(4, 4, patch=7)
    tower = getattr(eye, "vision_model", eye)
    with torch.no_grad():
        inside = tower(square(images, 4, 7), output_hidden_states=True).hidden_states[1][0, int(kind != "siglip") :]
        plain = inside if kind == "clip" else F.layer_norm(inside, inside.shape[-1:], eps=model.config.vision.eps)
        assert far(model.vision(images), plain) < 1e-5


def test_clip_without_its_last_layer(tmp_path: Path) -> None:
    eye = vision("clip")
    model = join(save(tmp_path, eye, language("llama")), vision={"features": "penultimate"})
    images = picture(4, 4, patch=7)
    with torch.no_grad():
        expected = eye(square(images, 4, 7), output_hidden_states=True).hidden_states[-2][0, 1:]
        assert far(model.vision(images), expected) < 1e-5


def test_dinov2_folded_into_siglip_is_dinov2_without_its_class_token(tmp_path: Path) -> None:
    """Layer scales fold exactly: only the keys and values of the class token are gone."""
    eye = vision("dinov2")
    folders = save(tmp_path, eye, language("llama"))
    model = join(folders)
    assert config_of(*folders)["vision"]["name"] == "siglip"
    images = picture(4, 4, patch=7)
    x = eye.embeddings(square(images, 4, 7))[:, 1:]
    with torch.no_grad():
        for layer in eye.encoder.layer:
            x = layer(x)
        assert far(model.vision(images), eye.layernorm(x)[0]) < 1e-5


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_the_language_model_still_says_the_same(kind: str, tied: bool, tmp_path: Path) -> None:
    window = {"sliding_window": 5} if kind == "mistral" else {}
    reader = language(kind, tie_word_embeddings=tied, head_dim=10, rms_norm_eps=1e-3, **window)
    model = join(save(tmp_path, vision("siglip"), reader))
    assert model.config.language.tied == tied and model.config.language.vocabulary == 62
    tokens = torch.randint(0, 59, (1, 9), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens, torch.ones_like(tokens), torch.arange(9)[None])
    with torch.no_grad():
        found, expected = model(batch), reader(tokens).logits
        assert far(found[..., :59], expected) < 1e-5 and found.shape[-1] == 62
        # With pictures too: what comes before one does not change.
        image = picture(4, 4, patch=7)
        seat = torch.tensor([[60, 60]])
        tokens = torch.cat([tokens, seat], 1)
        batch = Batch(tokens, torch.ones_like(tokens), torch.arange(11)[None], images=image)
        assert far(model(batch)[:, :9, :59], expected) < 1e-5


@pytest.mark.parametrize("known", [False, True])
def test_a_tied_checkpoint_starts_an_untied_model(known: bool, tmp_path: Path) -> None:
    reader = language("llama", tie_word_embeddings=True, vocab_size=62 if known else 59)
    folders = save(tmp_path, vision("siglip"), reader)
    if known:
        special_tokenizer(folders[1]).save(str(folders[1] / "tokenizer.json"))
    model = join(folders, language={"tied": False})
    output, embedding = model.language.output.weight, model.language.embedding.weight
    assert torch.equal(output[:59], embedding[:59])
    with torch.no_grad():
        output.zero_()
    assert embedding[:59].count_nonzero() == 59 * 24


def test_added_rows_look_like_the_others(tmp_path: Path) -> None:
    reader = language("llama")
    with torch.no_grad():
        reader.model.embed_tokens.weight += 3
        reader.lm_head.weight *= 0.1
    model = join(save(tmp_path, vision("siglip"), reader), language={"vocabulary": 2059})
    held = model.language.state_dict()
    for weight, mean, std in ((held["embedding.weight"], 3, 0.3), (held["output.weight"], 0, 0.03)):
        assert weight[:59].shape == (59, 24) and len(weight) == 2059
        assert abs(float(weight[59:].mean()) - mean) < 0.05 and abs(float(weight[59:].std()) / std - 1) < 0.2
    assert torch.equal(model.language.embedding.weight[:59], reader.model.embed_tokens.weight)


def test_padding_rows_of_a_checkpoint_are_drawn_anew(tmp_path: Path) -> None:
    reader = language("llama", vocab_size=64)  # five rows more than the tokenizer has words
    with torch.no_grad():
        reader.model.embed_tokens.weight[59:] = 1e6
    model = join(save(tmp_path, vision("siglip"), reader))
    assert model.config.language.vocabulary == 64
    assert model.language.embedding.weight.abs().max() < 10


def test_the_new_parts_are_drawn_from_the_seed(tmp_path: Path) -> None:
    folders = save(tmp_path, vision("siglip"), language("llama"))
    one, two = join(folders), join(folders)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    fresh = parse(VLMConfig, config_of(*folders) | {"connector": CONNECTOR}).connector.build(24, 24)
    held = dict(one.connector.named_parameters())
    for name, parameter in fresh.named_parameters():
        assert held[name].shape == parameter.shape and bool(held[name].isfinite().all())
        assert abs(held[name].std().item() - parameter.std().item()) < 0.1


@pytest.mark.parametrize("kind", ["siglip", "dinov2"])
@pytest.mark.parametrize("side", [4, 7, 3, 70])
def test_the_position_table_is_stretched_as_the_released_one_was(kind: str, side: int, tmp_path: Path) -> None:
    eye = vision(kind)
    table = eye.state_dict()[
        "embeddings.position_embedding.weight" if kind == "siglip" else "embeddings.position_embeddings"
    ].view(-1, 24)
    name = {"name": kind}
    model = join(save(tmp_path, eye, language("llama")), vision={"side": side, **name})
    found, own = model.vision.position.weight, 0 if kind == "siglip" else 1
    if side == 4:
        assert torch.equal(found, table)
        return
    grid = table[own:].view(1, 4, 4, 24).permute(0, 3, 1, 2)
    scale = (side + 0.1) / 4
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    assert torch.equal(found, torch.cat([table[:own], grid[0].flatten(1).T]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_dtype(dtype: torch.dtype | None, tmp_path: Path) -> None:
    folders = save(tmp_path, vision("dinov2"), language("llama").half())
    config = parse(VLMConfig, config_of(*folders) | {"connector": CONNECTOR})
    model, _ = assemble(config, *folders, dtype=dtype)
    found = {p.dtype for p in model.parameters()}
    assert found == ({dtype} if dtype else {torch.float32, torch.float16})


def test_the_tokenizer_gets_the_tokens_of_images_and_turns(tmp_path: Path) -> None:
    folders = save(tmp_path, vision("siglip"), language("llama"))
    config = parse(VLMConfig, config_of(*folders) | {"connector": CONNECTOR})
    _, tokenizer = assemble(config, *folders)
    assert tokenizer.get_vocab_size() == 62 and config.fusion.image_token == 60
    named = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    assert [tokenizer.token_to_id(token) for token in named] == [59, 60, 61]
    assert tokenizer.encode("w3<image>w4").ids == [3, 60, 4]
    tokenizer.save(str(folders[1] / "tokenizer.json"))  # one that has them already is left as it is
    assert config_of(*folders)["fusion"]["image_token"] == 60 and config_of(*folders)["language"]["vocabulary"] == 62


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("vision", {"heads": 4}, r"model.vision.heads is 4, but .*eye was made with 3"),
        ("vision", {"activation": "quick_gelu"}, "model.vision.activation is 'quick_gelu'"),
        ("vision", {"eps": 1e-3}, "model.vision.eps is 0.001"),
        (
            "vision",
            {"name": "clip"},
            "is a 'siglip_vision_model' checkpoint: 'clip' cannot start from it, use 'siglip'",
        ),
        ("language", {"kv_heads": 4}, "model.language.kv_heads is 4, but .*reader was made with 2"),
        ("language", {"theta": 500.0}, "model.language.theta is 500.0"),
        ("language", {"window": 16}, "model.language.window is 16, but .* was made with None"),
        ("language", {"tied": True}, "model.language.tied is True"),
        ("language", {"vocabulary": 61}, r"vocabulary is 61, but .* with <fake.*> has 62 tokens"),
        ("fusion", {"image_token": 59}, "image_token is 59, but <image> is 60"),
    ],
)
def test_a_recipe_that_contradicts_a_backbone(part: str, values: dict[str, Any], message: str, tmp_path: Path) -> None:
    folders = save(tmp_path, vision("siglip"), language("llama"))
    with pytest.raises(ValueError, match=message):
        join(folders, **{part: values})


def test_folders_that_are_no_backbones(tmp_path: Path) -> None:
    eye, reader = save(tmp_path, vision("siglip"), language("llama"))
    with pytest.raises(ValueError, match=r"is no folder: give one that holds config.json"):
        config_of(tmp_path / "nothing", reader)
    (reader / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer.json"):
        config_of(eye, reader)
    whole = tiny.save(tiny.build(), tmp_path / "whole")
    with pytest.raises(ValueError, match="model type 'idefics2' is not a backbone we read; known: siglip, "):
        config_of(whole, reader)


@pytest.mark.parametrize("name", ["eva02_enormous_patch14_clip_224", "eva_giant_patch14_clip_224"])
def test_eva_clip_as_open_clip_keeps_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No library here writes this layout: a random tower's tensors go in by its names and come out where they were."""
    values = {
        "width": 24,
        "patch": 7,
        "layers": 2,
        "heads": 3,
        "inner": 40,
        "side": 4,
        "activation": "gelu",
        "eps": 1e-6,
    }
    values["after"] = "02" in name
    monkeypatch.setitem(configs.BACKBONES, name, lambda data: values)
    tower = scramble(parse(VisionConfig, {"name": "eva_clip", **values}).build())
    held = {"text.a": torch.zeros(1), "logit_scale": torch.zeros(()), "visual.trunk.head.weight": torch.zeros(3, 24)}
    for ours, tensor in tower.state_dict().items():
        theirs = ours.replace("layers.", "blocks.").replace("attention.o.", "attn.proj.").replace("mlp.up", "mlp.fc1")
        theirs = theirs.replace("mlp.down", "mlp.fc2").replace("attention.q.bias", "attn.q_bias")
        theirs = theirs.replace("attention.v.bias", "attn.v_bias").replace("class_token", "cls_token")
        theirs = theirs.replace("position.weight", "pos_embed").replace("patch.", "patch_embed.proj.")
        tensor = tensor[None] if theirs == "pos_embed" else tensor[None, None] if theirs == "cls_token" else tensor
        held["visual.trunk." + theirs] = (
            tensor.view(24, 3, 7, 7) if theirs.endswith("proj.weight") and tensor.shape[1] == 147 else tensor
        )
    for layer in range(2):
        parts = [held.pop(f"visual.trunk.blocks.{layer}.attention.{letter}.weight") for letter in "qkv"]
        held[f"visual.trunk.blocks.{layer}.attn.qkv.weight"] = torch.cat(parts)
    eye = tmp_path / "eye"
    files.write_weights(eye / files.OPEN_CLIP_WEIGHTS, held)
    files.write_json(eye / "open_clip_config.json", {"model_cfg": {"vision_cfg": {"timm_model_name": name}}})
    _, reader = save(tmp_path, vision("siglip"), language("llama"))
    for file in ("config.json", "model.safetensors"):
        (eye / file).unlink()
    model = join((eye, reader))
    assert model.config.vision.name == "eva_clip"
    found, expected = model.vision.state_dict(), tower.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)


@pytest.mark.parametrize(
    ("name", "count"),
    [("eva02_enormous_patch14_clip_224", 4_350_000_000), ("eva_giant_patch14_clip_224", 1_010_000_000)],
)
def test_eva_clips_published_sizes(name: str, count: int) -> None:
    """The paper's EVA-CLIP-5B: 4.35 billion parameters in the tower (and 1.01 in the one of EVA01-CLIP-g)."""
    with torch.device("meta"):
        tower = parse(VisionConfig, {"name": "eva_clip", **configs.BACKBONES[name]({})}).build()
    assert abs(sum(p.numel() for p in tower.parameters()) / count - 1) < 0.005


def test_biases_on_keys_are_no_eva_clip(tmp_path: Path) -> None:
    eye = vision("blip2")
    with torch.no_grad():
        eye.encoder.layers[1].self_attn.qkv.bias[30] = 1
    folders = save(tmp_path, eye, language("llama"))
    with pytest.raises(ValueError, match=r"layers.1.attention.k.bias is not zero: this is no EVA-CLIP"):
        join(folders)


def test_what_a_decoder_has_and_we_do_not(tmp_path: Path) -> None:
    folders = save(tmp_path, vision("siglip"), language("llama", attention_bias=True))
    with pytest.raises(ValueError, match=r"config.json: attention_bias: a decoder with biases"):
        config_of(*folders)
