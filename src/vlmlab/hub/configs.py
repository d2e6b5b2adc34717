"""The `config.json` of checkpoints, as plain data that our configs are read from.

What a file leaves out is the default of its class in transformers: the released Idefics2 names few of its own numbers.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlmlab.hub import files

Plain = dict[str, Any]

OPEN_CLIP_CONFIG = "open_clip_config.json"

ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
}


def backbone(folder: Path) -> tuple[str, Plain]:
    """The model type of a backbone's folder (open_clip's, timm's: the architecture), and our config's values.

    Raises ValueError when the type is not one we read, listing those, or asks for something we do not have.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one that holds config.json and model.safetensors")
    if (folder / OPEN_CLIP_CONFIG).is_file() and not (folder / "config.json").is_file():
        data = files.read_json(folder / OPEN_CLIP_CONFIG).get("model_cfg", {})
        kind = data.get("vision_cfg", {}).get("timm_model_name")
    else:
        data = files.read_json(folder / "config.json")
        kind = data.get("model_type") or data.get("architecture")  # timm's files have the latter
    if kind not in BACKBONES:
        raise ValueError(f"{folder}: model type {kind!r} is not a backbone we read; known: {', '.join(BACKBONES)}")
    try:
        # A whole SigLIP, CLIP or BLIP-2 keeps its tower's config inside.
        return kind, BACKBONES[kind](data.get("vision_config", data))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None


def tower(data: Mapping[str, Any], image: int, patch: int, activation: str, eps: float) -> Plain:
    """The tower of SigLIP, CLIP or Idefics2; the other arguments are the class's defaults."""
    patch = data.get("patch_size", patch)
    return {
        "width": data.get("hidden_size", 768),
        "patch": patch,
        "layers": data.get("num_hidden_layers", 12),
        "heads": data.get("num_attention_heads", 12),
        "inner": data.get("intermediate_size", 3072),
        "side": data.get("image_size", image) // patch,
        "activation": _activation(data.get("hidden_act", activation)),
        "eps": data.get("layer_norm_eps", eps),
    }


def idefics2(data: Mapping[str, Any]) -> dict[str, Plain]:
    """The tables of a whole model, from an Idefics2 config.

    The resampler's norms add what the file says (`perceiver_config.rms_norm_eps`). Where it says nothing, as released
    files do, they add the text model's 1e-5, as in training; transformers from 4.46 adds 1e-6.
    Raises ValueError for what this architecture has and we do not.
    """
    vision, bridge, text = (data.get(f"{part}_config") or {} for part in ("vision", "perceiver", "text"))
    if bridge.get("qk_layer_norms", False):
        raise ValueError("perceiver_config.qk_layer_norms: a resampler with norms on queries and keys is not supported")
    if bridge.get("hidden_act", "silu") != "silu":
        raise ValueError(f"perceiver_config.hidden_act {bridge['hidden_act']!r} is not supported; known: silu")
    language = mistral({"max_position_embeddings": 32768, "rms_norm_eps": 1e-5, **text})
    language["tied"] = data.get("tie_word_embeddings", False)
    own = bridge.get("hidden_size", 4096) == language["width"]  # else transformers takes the text model's
    return {
        "vision": {"name": "siglip", **tower(vision, 224, 32, "gelu_pytorch_tanh", 1e-6)},
        "connector": {
            "name": "perceiver",
            "latents": bridge.get("resampler_n_latents", 64),
            "depth": bridge.get("resampler_depth", 3),
            "heads": bridge.get("resampler_n_heads", 16),
            "kv_heads": bridge.get("num_key_value_heads", 4),
            "head_width": bridge.get("resampler_head_dim", 96),
            "ratio": 4,
            "projection": "mlp",
            "projection_inner": language["inner"],
            "eps": bridge.get("rms_norm_eps", language["eps"]) if own else language["eps"],
        },
        "language": {"name": "mistral", **language, "window": language["window"] or "none"},
        "fusion": {"name": "interleave", "image_token": data.get("image_token_id", 32001)},
    }


def _siglip(data: Mapping[str, Any]) -> Plain:
    return tower(data, 224, 16, "gelu_pytorch_tanh", 1e-6)


def _clip(data: Mapping[str, Any]) -> Plain:
    return tower(data, 224, 32, "quick_gelu", 1e-5)


def _dinov2(data: Mapping[str, Any]) -> Plain:
    if data.get("use_swiglu_ffn", False):
        raise ValueError("use_swiglu_ffn: the gated MLP of DINOv2-giant is not supported")
    width = data.get("hidden_size", 768)
    inner = int(width * data.get("mlp_ratio", 4))
    return tower({**data, "intermediate_size": inner}, 224, 14, "gelu", 1e-6)


def _blip2(data: Mapping[str, Any]) -> Plain:
    own = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16}
    return {**tower({**own, **data}, 224, 14, "gelu", 1e-6), "after": False}


def _eva02_e(data: Mapping[str, Any]) -> Plain:
    """EVA02-CLIP-E/14 and E/14+: open_clip's file names the architecture, whose numbers are fixed."""
    return {**EVA_CLIP, "width": 1792, "layers": 64, "inner": 15360, "after": True}


def _eva01_g(data: Mapping[str, Any]) -> Plain:
    """EVA01-CLIP-g/14 and g/14+."""
    return {**EVA_CLIP, "width": 1408, "layers": 40, "inner": 6144, "after": False}


def _efficientnet_lite0(data: Mapping[str, Any]) -> Plain:
    """EfficientNet-Lite0: timm's file names the architecture, whose numbers are fixed."""
    return {
        "width": 1280,
        "patch": 32,
        "stem": 32,
        "widths": (16, 24, 40, 80, 112, 192, 320),
        "blocks": (1, 2, 2, 3, 3, 4, 1),
        "kernels": (3, 3, 5, 3, 5, 5, 3),
        "strides": (1, 2, 2, 2, 1, 2, 1),
        "expansions": (1, 6, 6, 6, 6, 6, 6),
    }


EVA_CLIP = {"patch": 14, "heads": 16, "side": 16, "activation": "gelu", "eps": 1e-6}


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act {name!r} is not supported; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def mistral(data: Mapping[str, Any]) -> Plain:
    """Mistral's decoder."""
    return _decoder(data, kv_heads=8, inner=14336, positions=4096 * 32, window=4096)


def _llama(data: Mapping[str, Any]) -> Plain:
    heads = data.get("num_attention_heads", 32)
    values = _decoder(data, kv_heads=heads, inner=11008, positions=2048, window=None)
    return {**values, "window": None}


def _decoder(data: Mapping[str, Any], kv_heads: int, inner: int, positions: int, window: int | None) -> Plain:
    for key in ("attention_bias", "mlp_bias"):
        if data.get(key, False):
            raise ValueError(f"{key}: a decoder with biases is not supported")
    if data.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act {data['hidden_act']!r} is not supported in a decoder; known: silu")
    width, heads = data.get("hidden_size", 4096), data.get("num_attention_heads", 32)
    return {
        "vocabulary": data.get("vocab_size", 32000),
        "width": width,
        "positions": data.get("max_position_embeddings", positions),
        "layers": data.get("num_hidden_layers", 32),
        "heads": heads,
        "kv_heads": data.get("num_key_value_heads") or kv_heads,
        "head_width": data.get("head_dim") or width // heads,
        "inner": data.get("intermediate_size", inner),
        "eps": data.get("rms_norm_eps", 1e-6),
        "theta": float(_theta(data)),
        "window": data.get("sliding_window", window),
        "tied": data.get("tie_word_embeddings", False),
    }


def _theta(data: Mapping[str, Any]) -> float:
    """The base of the rotary positions, where transformers 4 and 5 keep it."""
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rotary positions of type {kind!r} are not supported; known: default")
    return rope.get("rope_theta", data.get("rope_theta", 10000.0))


BACKBONES: dict[str, Callable[[Mapping[str, Any]], Plain]] = {
    "siglip": _siglip,
    "siglip_vision_model": _siglip,
    "clip": _clip,
    "clip_vision_model": _clip,
    "dinov2": _dinov2,
    "blip-2": _blip2,
    "blip_2_vision_model": _blip2,
    "eva02_enormous_patch14_clip_224": _eva02_e,
    "eva_giant_patch14_clip_224": _eva01_g,
    "tf_efficientnet_lite0": _efficientnet_lite0,
    "mistral": mistral,
    "llama": _llama,
}
