"""Vision towers against transformers, on random weights: CLIP, DINOv2, EVA-CLIP, and MAPL's network against torch's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import (
    Blip2VisionConfig,
    Blip2VisionModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
)

from model.tiny import far, picture, pictures, scramble
from vlmlab.batch import Images
from vlmlab.component import parse
from vlmlab.model.connectors import ConnectorConfig
from vlmlab.model.vision import Vision, VisionConfig

BOUND = 1e-5
SHAPES = [
    {"width": 24, "layers": 2, "heads": 3, "inner": 40, "side": 4, "patch": 2},
    {"width": 32, "layers": 3, "heads": 2, "inner": 20, "side": 5, "patch": 3},
    {"width": 16, "layers": 1, "heads": 4, "inner": 64, "side": 1, "patch": 7},
]
SIZES = [(4, 4), (3, 5), (1, 1), (5, 5), (3, 5), (7, 2), (2, 8)]


def pixels(images: Images, patch: int) -> list[Tensor]:
    """Each image as pixels [1, 3, height, width]."""
    counts = [rows * columns for rows, columns in images.sizes()]
    return [
        rearrange(patches, "(h w) (c a b) -> 1 c (h a) (w b)", h=rows, a=patch, b=patch)
        for (rows, _), patches in zip(images.sizes(), images.patches.split(counts), strict=True)
    ]


def same(model: Vision, oracle: Callable[[Tensor], Tensor], patch: int) -> None:
    """Images of mixed sizes in one call, and each alone, give the oracle's features."""
    images = pictures(SIZES, patch)
    with torch.no_grad():
        together = model(images).split([rows * columns for rows, columns in SIZES])
        for at, (size, features, pixel) in enumerate(zip(SIZES, together, pixels(images, patch), strict=True)):
            expected = oracle(pixel)[0]
            assert far(features, expected) < BOUND
            assert far(model(picture(*size, at, patch)), expected) < BOUND


def layers(hub: str, number: int, names: dict[str, str]) -> dict[str, str]:
    """For the layers of a tower: our name for each of theirs."""
    return {
        f"{hub}.{n}.{theirs}.{kind}": f"layers.{n}.{ours}.{kind}"
        for n in range(number)
        for theirs, ours in names.items()
        for kind in ("weight", "bias")
    }


def load(model: Vision, theirs: dict[str, Tensor], names: dict[str, str], unused: tuple[str, ...] = ()) -> None:
    state = {names[name]: value for name, value in theirs.items() if not name.startswith(unused or ("-",))}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.reshape(shapes[name]) for name, value in state.items()})


def build(name: str, shape: dict[str, Any], **more: Any) -> Vision:
    return parse(VisionConfig, {"name": name, **shape, **more}).build().eval()


CLIP_NAMES = {
    "embeddings.class_embedding": "class_token",
    "embeddings.patch_embedding.weight": "patch.weight",
    "embeddings.position_embedding.weight": "position.weight",
    "pre_layrnorm.weight": "pre_norm.weight",
    "pre_layrnorm.bias": "pre_norm.bias",
}
CLIP_LAYER = {
    **{f"self_attn.{letter}_proj": f"attention.{letter}" for letter in "qkv"},
    "self_attn.out_proj": "attention.o",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
}


@pytest.mark.parametrize("features", ["last", "penultimate"])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_clip(shape: dict[str, int], activation: str, features: str) -> None:
    config = CLIPVisionConfig(
        hidden_size=shape["width"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        image_size=shape["side"] * shape["patch"],
        patch_size=shape["patch"],
        hidden_act=activation,
    )
    theirs = scramble(CLIPVisionModel(config).eval())
    model = build("clip", shape, activation=activation, features=features)
    kept = shape["layers"] - (features == "penultimate")
    unused = ("post_layernorm", *(f"encoder.layers.{n}." for n in range(kept, shape["layers"])))
    load(model, theirs.state_dict(), CLIP_NAMES | layers("encoder.layers", kept, CLIP_LAYER), unused)

    def oracle(pixel: Tensor) -> Tensor:
        out = theirs(pixel, interpolate_pos_encoding=True, output_hidden_states=True)
        return out.hidden_states[kept][:, 1:]

    same(model, oracle, shape["patch"])


DINO_NAMES = {
    "embeddings.cls_token": "class_token",
    "embeddings.position_embeddings": "position.weight",
    "embeddings.patch_embeddings.projection.weight": "patch.weight",
    "embeddings.patch_embeddings.projection.bias": "patch.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}


@pytest.mark.parametrize(("shape", "ratio"), zip(SHAPES, (2, 1, 4), strict=True))
def test_dinov2(shape: dict[str, int], ratio: int) -> None:
    shape = shape | {"inner": ratio * shape["width"]}
    config = Dinov2Config(
        hidden_size=shape["width"],
        mlp_ratio=ratio,
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        image_size=shape["side"] * shape["patch"],
        patch_size=shape["patch"],
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )
    theirs = scramble(Dinov2Model(config).eval())
    attention = {f"attention.{letter}_proj": f"attention.{letter}" for letter in "qkvo"}
    same_names = {name: name for name in ("norm1", "norm2")} | {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
    names = DINO_NAMES | layers("encoder.layer", shape["layers"], attention | same_names)
    for n in range(shape["layers"]):
        names |= {f"encoder.layer.{n}.layer_scale{i}.lambda1": f"layers.{n}.scale{i}" for i in (1, 2)}
    model = build("dinov2", shape)
    load(model, theirs.state_dict(), names, ("embeddings.mask_token",))
    same(model, lambda pixel: theirs(pixel).last_hidden_state[:, 1:], shape["patch"])


EVA_NAMES = {
    "embeddings.class_embedding": "class_token",
    "embeddings.position_embedding": "position.weight",
    "embeddings.patch_embedding.weight": "patch.weight",
    "embeddings.patch_embedding.bias": "patch.bias",
    "post_layernorm.weight": "norm.weight",
    "post_layernorm.bias": "norm.bias",
}
EVA_LAYER = {
    **{f"self_attn.{letter}": f"attention.{letter}" for letter in "qkv"},
    "self_attn.projection": "attention.o",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
}


def eva(shape: dict[str, int], after: bool) -> tuple[Vision, Blip2VisionModel]:
    config = Blip2VisionConfig(
        hidden_size=shape["width"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        image_size=shape["side"] * shape["patch"],
        patch_size=shape["patch"],
    )
    theirs = scramble(Blip2VisionModel(config).eval())
    with torch.no_grad():  # published weights have no bias on the keys
        for layer in theirs.encoder.layers:
            layer.self_attn.qkv.bias[shape["width"] : 2 * shape["width"]] = 0
    state = {}
    for name, value in theirs.state_dict().items():
        if ".qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                if (letter, name[-4:]) != ("k", "bias"):
                    state[name.replace("qkv", letter)] = part
        else:
            state[name] = value
    model = build("eva_clip", shape, after=after)
    load(model, state, EVA_NAMES | layers("encoder.layers", shape["layers"], EVA_LAYER))
    return model, theirs


@pytest.mark.parametrize("shape", SHAPES)
def test_eva_clip_g(shape: dict[str, int]) -> None:
    """BLIP-2's vision model is EVA01-CLIP-g: norms where a branch begins."""
    model, theirs = eva(shape, after=False)
    same(model, lambda x: theirs(x, interpolate_pos_encoding=True).last_hidden_state[:, 1:], shape["patch"])


@pytest.mark.parametrize("shape", SHAPES)
def test_eva_clip_e(shape: dict[str, int]) -> None:
    """transformers has no tower that norms where a branch ends: its modules are put together in that order here."""
    model, theirs = eva(shape, after=True)

    def oracle(pixel: Tensor) -> Tensor:
        x = theirs.embeddings(pixel, interpolate_pos_encoding=True)
        for layer in theirs.encoder.layers:
            x = x + layer.layer_norm1(layer.self_attn(x)[0])
            x = x + layer.layer_norm2(layer.mlp(x))
        return theirs.post_layernorm(x)[:, 1:]

    same(model, oracle, shape["patch"])


@pytest.mark.parametrize(("width", "inner", "heads", "count", "queries"), [(24, 16, 2, 2, 3), (10, 32, 8, 3, 7)])
def test_mapping_network(width: int, inner: int, heads: int, count: int, queries: int) -> None:
    """MAPL's network is torch's pre-norm TransformerEncoder over the projected features and learned queries."""
    table = {"name": "mapping", "queries": queries, "inner": inner, "layers": count, "heads": heads}
    model = scramble(parse(ConnectorConfig, table).build(width, 12))
    layer = nn.TransformerEncoderLayer(inner, heads, 2 * inner, 0.0, "relu", batch_first=True, norm_first=True)
    oracle = nn.TransformerEncoder(layer, count, enable_nested_tensor=False).eval()
    state = {}
    for n in range(count):
        ours = model.layers[n]
        state |= {
            f"layers.{n}.self_attn.in_proj_weight": torch.cat([getattr(ours.attention, x).weight for x in "qkv"]),
            f"layers.{n}.self_attn.in_proj_bias": torch.cat([getattr(ours.attention, x).bias for x in "qkv"]),
        }
        names = {"self_attn.out_proj": ours.attention.o, "linear1": ours.mlp.up, "linear2": ours.mlp.down}
        for name, module in (names | {"norm1": ours.norm1, "norm2": ours.norm2}).items():
            state |= {f"layers.{n}.{name}.weight": module.weight, f"layers.{n}.{name}.bias": module.bias}
    oracle.load_state_dict(state)
    images = pictures(SIZES)
    features = torch.randn(len(images.patches), width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = model(features, images).split(queries)
        for part, visual in zip(features.split([r * c for r, c in SIZES]), together, strict=True):
            stream = torch.cat([model.down(part), model.queries])[None]
            assert far(visual, model.up(oracle(stream)[0, -queries:])) < BOUND
