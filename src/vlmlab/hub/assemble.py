"""The two-backbone start (the paper's section 3.3): a fresh model from a vision tower and a language model.

The two are copied, the connector and the fusion are drawn as a new model's are. What has to fit together is made to:
the position table is stretched to the recipe's grid, and three tokens are added to the vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from vlmlab import component
from vlmlab.component import parse, plugins
from vlmlab.hub import configs, fill, fit, names, settings
from vlmlab.hub.files import Weights
from vlmlab.hub.load import read_config
from vlmlab.model.language import Language, LanguageConfig
from vlmlab.model.meta import without_memory
from vlmlab.model.vision import VisionConfig
from vlmlab.model.vlm import VLM, VLMConfig

SPECIAL_TOKENS = (settings.FRAME, settings.IMAGE, settings.END)


@dataclasses.dataclass(frozen=True)
class Start:
    """How a checkpoint's tensors become a part's: their names, those not used, and what is done to them at last."""

    table: names.Table
    unused: tuple[str, ...] = ()
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict


STARTS: dict[tuple[str, str], Start] = {
    ("siglip", "siglip"): Start(names.SIGLIP, ("head.**",)),
    ("siglip", "siglip_vision_model"): Start(names.SIGLIP, ("head.**",)),
    ("siglip", "dinov2"): Start(names.DINOV2, ("embeddings.mask_token",), fit.fold),
    ("clip", "clip"): Start(names.CLIP, ("post_layernorm.*",)),
    ("clip", "clip_vision_model"): Start(names.CLIP, ("post_layernorm.*",)),
    ("dinov2", "dinov2"): Start(names.DINOV2, ("embeddings.mask_token",)),
    ("eva_clip", "blip-2"): Start(names.BLIP2, finish=fit.drop_key_biases),
    ("eva_clip", "blip_2_vision_model"): Start(names.BLIP2, finish=fit.drop_key_biases),
    ("eva_clip", "eva02_enormous_patch14_clip_224"): Start(names.EVA_CLIP, ("head.*",)),
    ("eva_clip", "eva_giant_patch14_clip_224"): Start(names.EVA_CLIP, ("head.*",)),
    ("efficientnet", "tf_efficientnet_lite0"): Start(
        names.EFFICIENTNET_LITE, ("classifier.*", "**.num_batches_tracked"), fit.fold_norms
    ),
    ("mistral", "mistral"): Start(names.MISTRAL),
    ("mistral", "llama"): Start(names.MISTRAL),
}
"""What each plug-in can start from, by its name and the checkpoint's model type."""

PREFIXES = ("vision_model.", "dinov2.", "visual.trunk.")
"""What a whole model puts before the names of its tower."""


def assemble(
    config: VLMConfig,
    vision_folder: Path | str | None,
    language_folder: Path | str,
    dtype: torch.dtype | None = torch.float32,
) -> tuple[VLM, Tokenizer]:
    """A fresh model from two backbone folders, and the tokenizer with the tokens of images and turns added.

    The connector, the fusion, the added rows and without its folder the tower are drawn from torch's global generator:
    seed it first. Raises ValueError when the config and a folder disagree, naming the key and the folder's value.
    """
    language_folder = Path(language_folder)
    tokenizer = special_tokenizer(language_folder)
    _check_tokens(config, tokenizer, language_folder)
    with without_memory():
        model = VLM(config)
    if vision_folder is None:
        model.vision = config.vision.build().to(dtype)
    else:
        load_vision(model, config.vision, Path(vision_folder), dtype)
    load_language(model, config.language, language_folder, dtype)
    model.connector = config.connector.build(model.vision.width, config.language.width).to(dtype)
    model.fusion = config.fusion.build(model.language, model.connector.width).to(dtype)
    return model, tokenizer


def config_of(vision_folder: Path | str, language_folder: Path | str) -> dict[str, dict[str, Any]]:
    """The `[model.vision]`, `[model.language]` and `[model.fusion]` tables that fit two backbone folders.

    Of the towers that can start from the folder it is the first: DINOv2 becomes the siglip tower (see `fit.fold`). The
    vocabulary has room for the added tokens.
    """
    kind, vision = configs.backbone(Path(vision_folder))
    _, language = configs.backbone(Path(language_folder))
    tokenizer = special_tokenizer(Path(language_folder))
    language["vocabulary"] = max(language["vocabulary"], tokenizer.get_vocab_size())
    return {
        "vision": {"name": next(ours for ours, theirs in STARTS if theirs == kind), **vision},
        "language": {"name": "mistral", **language, "window": language["window"] or "none"},
        "fusion": {"name": "interleave", "image_token": tokenizer.token_to_id(settings.IMAGE)},
    }


def special_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer with the tokens of images and turns; those it lacks are added at the end."""
    tokenizer = settings.read_tokenizer(folder)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def load_vision(model: VLM, config: VisionConfig, folder: Path, dtype: torch.dtype | None) -> None:
    """Give a model built on the meta device the vision tower of a folder (those of `STARTS`).

    A DINOv2 checkpoint also fits the siglip tower: see `fit.fold`. The position table is stretched where the config's
    grid is another. A config of fewer layers takes the first ones; the norm behind them begins plain, as the folder's
    belongs to its last layer.
    """
    kind, values = configs.backbone(folder)
    start = _start(config, kind, folder)
    held = dataclasses.asdict(config)
    fewer = "layers" in held and held["layers"] < values["layers"]
    _check(held, {k: v for k, v in values.items() if k not in ("side", *["layers"] * fewer)}, folder, "model.vision")
    weights = Weights(folder)
    inside = next((p for p in PREFIXES if any(name.startswith(p) for name in weights)), "")
    tensors, unknown = _read(weights, [name for name in weights if name.startswith(inside)], inside, start)
    if held.get("features") == "penultimate":
        tensors = {n: t for n, t in tensors.items() if not n.startswith(f"layers.{held['layers'] - 1}.")}
    if fewer:
        tensors = fit.cut(tensors, held["layers"])
    if "side" in held:
        tensors["position.weight"] = fit.stretch(tensors["position.weight"], values["side"], held["side"])
    fill.fill(model.vision, _steps(tensors), unknown, tensors, folder, dtype=dtype)


def load_language(model: VLM, config: LanguageConfig, folder: Path, dtype: torch.dtype | None) -> None:
    """Give a model built on the meta device the language model of a folder (Mistral or Llama), rows added.

    A config that is not tied to the embedding can start from one that is: its head begins as a copy. A config of fewer
    layers takes the first ones, with the folder's norm behind them.
    """
    _fill_language(model.language, config, folder, dtype)


def take_language(model: VLM, folder: Path) -> Tokenizer:
    """Give a model the language model of one of our own folders, whatever tower it was trained with; its tokenizer.

    Raises ValueError when the two language models are not of the same shape.
    """
    held, wanted = component.plain(read_config(folder).language), component.plain(model.config.language)
    for key, value in held.items():
        if wanted.get(key) != value:
            raise ValueError(f"model.language.{key} is {wanted.get(key)!r}, but {folder} was made with {value!r}")
    weights = Weights(folder)
    tensors = {n.removeprefix("language."): weights[n] for n in weights if n.startswith("language.")}
    fill.fill(model.language, _steps(tensors), [], tensors, folder, dtype=torch.float32)
    return settings.read_tokenizer(folder)


def read_language(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> tuple[Language, Tokenizer]:
    """The language model of a backbone folder by itself, with its tokenizer. Raises ValueError where it is none."""
    folder = Path(folder)
    kind, values = configs.backbone(folder)
    name = next((ours for ours, theirs in STARTS if theirs == kind and ours in plugins(LanguageConfig)), None)
    if name is None:
        raise ValueError(f"{folder} is a {kind!r} checkpoint, not a language model")
    config = parse(LanguageConfig, {"name": name, **values})
    with without_memory():
        language: Language = config.build()
    _fill_language(language, config, folder, dtype)
    return language.to(device).eval(), settings.read_tokenizer(folder)


def _fill_language(language: Language, config: LanguageConfig, folder: Path, dtype: torch.dtype | None) -> None:
    kind, values = configs.backbone(folder)
    start = _start(config, kind, folder)
    held = dataclasses.asdict(config)
    fewer = held["layers"] < values["layers"]
    loose = {"vocabulary", "positions", *([] if held["tied"] else ["tied"]), *["layers"] * fewer}
    _check(held, {k: v for k, v in values.items() if k not in loose}, folder, "model.language")
    weights = Weights(folder)
    tensors, unknown = _read(weights, [n for n in weights if not n.endswith(".rotary_emb.inv_freq")], "", start)
    if fewer:
        tensors = fit.first(tensors, held["layers"])
    if held["tied"]:
        tensors.pop("output.weight", None)
    elif "output.weight" not in tensors and values["tied"]:
        tensors["output.weight"] = tensors["embedding.weight"].clone()
    known = settings.read_tokenizer(folder).get_vocab_size()
    for name in ("embedding.weight", "output.weight"):
        if name in tensors:
            tensors[name] = fit.grow(tensors[name].to(dtype), known, config.vocabulary)
    fill.fill(language, _steps(tensors), unknown, tensors, folder, dtype=dtype)


def _read(weights: Weights, theirs: Sequence[str], prefix: str, start: Start) -> tuple[dict[str, Tensor], list[str]]:
    """A backbone's tensors by our names, as views into the file; and the names that fit no rule."""
    used = [name.removeprefix(prefix) for name in theirs]
    steps, unknown = names.plan([n for n in used if not any(names.fits(n, u) for u in start.unused)], start.table)
    found = {step.ours: step.make(*(weights[prefix + name] for name in step.theirs)) for step in steps}
    return start.finish(found), unknown


def _steps(tensors: Mapping[str, Tensor]) -> list[names.Step]:
    return [names.Step(name, (name,), names.MAKE["same"]) for name in tensors]


def _start(config: VisionConfig | LanguageConfig, kind: str, folder: Path) -> Start:
    found = STARTS.get((config.name, kind))
    if found is None:
        fitting = " or ".join(repr(ours) for ours, theirs in STARTS if theirs == kind)
        raise ValueError(f"{folder} is a {kind!r} checkpoint: {config.name!r} cannot start from it, use {fitting}")
    return found


def _check(held: Mapping[str, Any], values: Mapping[str, Any], folder: Path, where: str) -> None:
    """Raise ValueError at the first of a folder's values that the config contradicts."""
    for key, value in values.items():
        mine = held.get(key)
        close = isinstance(mine, float) and isinstance(value, float) and math.isclose(mine, value, rel_tol=1e-6)
        if mine != value and not close:
            raise ValueError(f"{where}.{key} is {mine!r}, but {folder} was made with {value!r}")


def _check_tokens(config: VLMConfig, tokenizer: Tokenizer, folder: Path) -> None:
    size, image = tokenizer.get_vocab_size(), tokenizer.token_to_id(settings.IMAGE)
    if config.language.vocabulary < size:
        raise ValueError(
            f"model.language.vocabulary is {config.language.vocabulary}, but the tokenizer of {folder} with "
            f"{', '.join(SPECIAL_TOKENS)} has {size} tokens"
        )
    if config.fusion.image_token != image:
        given = config.fusion.image_token
        raise ValueError(f"model.fusion.image_token is {given}, but <image> is {image} in the tokenizer of {folder}")
