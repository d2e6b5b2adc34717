"""Reads the packaged backbones (a tower in ONNX, a Llama in GGUF, a tower in torch's format); writes hub folders."""

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from vlmlab import writing
from vlmlab.hub import files

SPECIAL_TOKEN = 3
"""The token type of control tokens in GGUF."""


def convert_dinov2(onnx_file: Path, folder: Path) -> None:
    """Write the DINOv2 backbone of an ONNX graph as a hub folder in the published layout.

    The exporter keeps the names of biases and norms but not of matrices, which it also transposes: those take their
    names from the path of the product that reads them. Raises ValueError when the graph is not the expected one.
    """
    import onnx

    graph = onnx.load(str(onnx_file)).graph
    held = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    found = {k.removeprefix("backbone."): v for k, v in held.items() if k.startswith("backbone.")}
    for node in graph.node:
        matrices = [name for name in node.input if name in held]
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and matrices:
            path = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[path + ".weight"] = held[matrices[0]].T.contiguous()
    width = found["embeddings.cls_token"].shape[-1]
    anonymous = [t for name, t in held.items() if name.startswith("onnx::") and t.ndim == 3 and t.shape[0] == 1]
    classes = [t for t in anonymous if t.shape[1:] == (1, width)]
    tables = [t for t in anonymous if t.shape[1] > 1 and t.shape[2] == width]
    if len(classes) != 1 or len(tables) != 1:
        raise ValueError(f"{onnx_file.name} is not the expected graph: its position table was not found")
    found["embeddings.position_embeddings"] = torch.cat([classes[0], tables[0]], 1)
    layers = 1 + max(int(k.split(".")[2]) for k in found if k.startswith("encoder.layer."))
    side, patch = round(tables[0].shape[1] ** 0.5), found["embeddings.patch_embeddings.projection.weight"].shape[-1]
    inner = len(found["encoder.layer.0.mlp.fc1.bias"])
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "mlp_ratio": inner // width,
        "hidden_act": "gelu",
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "layerscale_value": 1.0,
        "torch_dtype": "float32",
    }
    files.write_json(folder / "config.json", config)
    files.write_json(folder / "preprocessor_config.json", _dinov2_pixels(side * patch))
    files.write_weights(folder / files.WEIGHTS, found)


def _dinov2_pixels(side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


def convert_smollm2(gguf_file: Path, folder: Path) -> None:
    """Write a Llama in GGUF as a hub folder: float32 weights, tokenizer, chat template.

    GGUF stores queries and keys with their rotary halves interleaved; the hub's layout has them one after the other.
    Raises ValueError when the file holds another architecture.
    """
    import gguf

    reader = gguf.GGUFReader(str(gguf_file))
    facts = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    if facts["general.architecture"] != "llama" or facts["tokenizer.ggml.pre"] != "smollm":
        raise ValueError(f"{gguf_file.name} is {facts['general.architecture']!r}, not the expected SmolLM2")
    heads, kv_heads = facts["llama.attention.head_count"], facts["llama.attention.head_count_kv"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": facts["llama.rope.dimension_count"],
        "max_position_embeddings": facts["llama.context_length"],
        # The file holds single precision: 9.99999974e-06 is 1e-05.
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": facts["llama.rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }
    found = {_llama_name(t.name): torch.tensor(gguf.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    for name, tensor in found.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            found[name] = _rotary_halves(tensor, heads if "q_proj" in name else kv_heads)
    files.write_json(folder / "config.json", config)
    files.write_weights(folder / files.WEIGHTS, found)
    tokenizer = smollm2_tokenizer(facts)
    writing.write(folder / "tokenizer.json", lambda partial: tokenizer.save(str(partial)))
    tokens = facts["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    special = {key: tokens[facts[f"tokenizer.ggml.{field}_token_id"]] for key, field in names.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": facts["tokenizer.chat_template"],
        **special,
    }
    files.write_json(folder / "tokenizer_config.json", settings)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    files.write_json(folder / "generation_config.json", ids)


_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _llama_name(name: str) -> str:
    """The hub's name of a GGUF tensor of a Llama."""
    outside = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in outside:
        return outside[name]
    _, layer, kind, weight = name.split(".")
    return f"model.layers.{layer}.{_LLAMA_LAYER[kind]}.{weight}"


def _rotary_halves(weight: Tensor, heads: int) -> Tensor:
    return rearrange(weight, "(h k two) d -> (h two k) d", h=heads, two=2).contiguous()


def smollm2_tokenizer(facts: dict[str, Any]) -> Tokenizer:
    """SmolLM2's tokenizer from the metadata of its GGUF file: bytes, single digits, merges."""
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == SPECIAL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


_LITE_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_LITE_BLOCKS = (1, 2, 2, 3, 3, 4, 1)


def convert_efficientnet_lite0(torch_file: Path, folder: Path) -> None:
    """Write the EfficientNet-Lite0 of a state dict as a hub folder in timm's published layout.

    There blocks are numbered by stage, here all in a row. The file is a pickle: torch reads tensors from it and refuses
    all else. Raises ValueError when it is not the expected one.
    """
    held = torch.load(torch_file, map_location="cpu", weights_only=True)
    places = [(stage, at) for stage, blocks in enumerate(_LITE_BLOCKS) for at in range(blocks)]
    found = {}
    for name, tensor in held.items():
        layer, _, kind = name.rpartition(".")
        if layer in _LITE_STEM:
            found[f"{_LITE_STEM[layer]}.{kind}"] = tensor
            continue
        _, number, inside = layer.split(".")
        stage, at = places[int(number)]
        found[f"blocks.{stage}.{at}.{(_LITE_BLOCK if stage else _LITE_FIRST)[inside]}.{kind}"] = tensor
    pixels = {"input_size": [3, 224, 224], "fixed_input_size": False, "interpolation": "bicubic", "crop_pct": 0.875}
    pixels |= {"crop_mode": "center", "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {
        "architecture": "tf_efficientnet_lite0",
        "num_classes": len(found["classifier.bias"]),
        "num_features": len(found["conv_head.weight"]),
        "pretrained_cfg": pixels,
    }
    files.write_json(folder / "config.json", config)
    files.write_weights(folder / files.WEIGHTS, found)


CONVERT = {"onnx": convert_dinov2, "gguf": convert_smollm2, "torch": convert_efficientnet_lite0}
"""What writes a hub folder from a packaged file, by the library that reads it."""
