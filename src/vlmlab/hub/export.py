"""A model as a folder that transformers loads as Idefics2, when it is one."""

import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from vlmlab import component
from vlmlab.hub import files, names, settings
from vlmlab.hub.configs import ACTIVATIONS
from vlmlab.hub.load import load
from vlmlab.model.adapters import plain_state
from vlmlab.model.connectors import perceiver
from vlmlab.model.fusion import interleave
from vlmlab.model.language import mistral
from vlmlab.model.vision import siglip
from vlmlab.model.vlm import VLM, VLMConfig
from vlmlab.processor.images import native, split, square
from vlmlab.processor.processor import Config as ProcessorConfig
from vlmlab.processor.processor import Processor


def export(source: Path | str | tuple[VLM, Processor], out: Path | str, shard: int = files.SHARD) -> Path:
    """Write a run's folder, or a model and its processor, as a folder that transformers loads as Idefics2.

    Weights are in shards of at most `shard` bytes. Nothing is left behind when it fails. Raises ValueError that names
    each part that is not Idefics2's, or when `out` holds anything already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; give a new folder")
    model, processor = source if isinstance(source, tuple) else load(source)
    odd = differences(model.config, processor.config)
    if odd:
        raise ValueError("this model is not an Idefics2, so transformers has no class for it: " + "; ".join(odd))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        made = Path(scratch) / out.name
        made.mkdir()
        files.write_json(made / "config.json", to_config(model.config, processor, str(model.dtype)))
        settings.write(made, processor.config, _readable(processor), model.config)
        files.write_checkpoint(made, to_weights(model), shard)
        if out.exists():
            out.rmdir()
        made.replace(out)
    return out


def differences(model: VLMConfig, processor: ProcessorConfig) -> list[str]:
    """What of a model is not Idefics2's, each as `key: why`; empty when nothing is."""
    vision, connector, language, images = model.vision, model.connector, model.language, processor.images
    found = {
        "model.vision": None if isinstance(vision, siglip.Config) else f"{vision.name!r} is not siglip",
        "model.connector": None if isinstance(connector, perceiver.Config) else f"{connector.name!r} is not perceiver",
        "model.language": None if isinstance(language, mistral.Config) else f"{language.name!r} is not mistral",
        "model.fusion": None
        if isinstance(model.fusion, interleave.Config)
        else f"{model.fusion.name!r} is not interleave",
        "processor.images": None
        if isinstance(images, native.Config | split.Config | square.Config)
        else f"{images.name!r} is not native, split or square",
    }
    if isinstance(connector, perceiver.Config):
        if connector.projection != "mlp":
            found["model.connector.projection"] = f"{connector.projection!r} is not mlp"
        elif isinstance(language, mistral.Config) and connector.projection_inner != language.inner:
            found["model.connector.projection_inner"] = (
                f"{connector.projection_inner} is not {language.inner}, as model.language.inner"
            )
        if connector.ratio != 4:
            found["model.connector.ratio"] = f"{connector.ratio} is not 4"
    if isinstance(images, split.Config) and images.resize != "published":
        found["processor.images.resize"] = f"{images.resize!r} is not published"
    for key, value, only in (
        ("image", processor.image, settings.IMAGE),
        ("frame", processor.frame, settings.FRAME),
        ("end_of_utterance", processor.end_of_utterance, settings.END),
    ):
        if value != only:
            found[f"processor.{key}"] = f"{value!r} is not {only}"
    return [f"{key} {why}" for key, why in found.items() if why is not None]


def to_config(model: VLMConfig, processor: Processor, dtype: str) -> dict[str, Any]:
    """The `config.json` of an Idefics2: every number written out, so that no version's default can change it."""
    vision, connector, language = (component.plain(part) for part in (model.vision, model.connector, model.language))
    activations = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    window = language["window"]
    return {
        "architectures": ["Idefics2ForConditionalGeneration"],
        "model_type": "idefics2",
        "image_token_id": processor.image_id,
        "tie_word_embeddings": language["tied"],
        "torch_dtype": dtype.removeprefix("torch."),
        "use_cache": True,
        "vision_config": {
            "model_type": "idefics2_vision",
            "hidden_size": vision["width"],
            "intermediate_size": vision["inner"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["heads"],
            "num_channels": 3,
            "image_size": vision["side"] * vision["patch"],
            "patch_size": vision["patch"],
            "hidden_act": activations[vision["activation"]],
            "layer_norm_eps": vision["eps"],
            "attention_dropout": 0.0,
        },
        "perceiver_config": {
            "model_type": "idefics2_perceiver",
            "hidden_act": "silu",
            "hidden_size": language["width"],
            "rms_norm_eps": connector["eps"],
            "resampler_n_latents": connector["latents"],
            "resampler_depth": connector["depth"],
            "resampler_n_heads": connector["heads"],
            "resampler_head_dim": connector["head_width"],
            "num_key_value_heads": connector["kv_heads"],
            "attention_dropout": 0.0,
        },
        "text_config": {
            "model_type": "mistral",
            "vocab_size": language["vocabulary"],
            "hidden_size": language["width"],
            "intermediate_size": language["inner"],
            "num_hidden_layers": language["layers"],
            "num_attention_heads": language["heads"],
            "num_key_value_heads": language["kv_heads"],
            "head_dim": language["head_width"],
            "hidden_act": "silu",
            "max_position_embeddings": language["positions"],
            "rms_norm_eps": language["eps"],
            "rope_theta": language["theta"],
            "sliding_window": None if window == "none" else window,
            "attention_dropout": 0.0,
            "tie_word_embeddings": language["tied"],
            "bos_token_id": processor.bos_id,
            "eos_token_id": processor.eos_id,
            "pad_token_id": processor.pad_id,
            "use_cache": True,
        },
    }


def to_weights(model: VLM) -> dict[str, Tensor]:
    """The weights of an Idefics2 by their names on the hub, with what acts of its adapters in them."""
    found = {}
    for name, tensor in plain_state(model).items():
        renamed = names.to_theirs(name, names.IDEFICS2)
        assert renamed is not None, name
        theirs, how = renamed
        found[theirs] = names.to_convolution(tensor, model.config.vision.patch) if how == "patch" else tensor
    return found


def _readable(processor: Processor) -> Tokenizer:
    """The processor's tokenizer as it was given: the names of control tokens in a text are control tokens."""
    tokenizer = Tokenizer.from_str(processor.tokenizer.to_str())
    tokenizer.encode_special_tokens = False
    return tokenizer
