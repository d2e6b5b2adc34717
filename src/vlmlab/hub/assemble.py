"""The two-backbone start (the paper's section 3.3): a fresh model from a vision tower and a language model.

The two are copied, the connector and the fusion are drawn as a new model's are. What has to fit together is made to:
the position table is stretched to the recipe's grid, and three tokens are added to the vocabulary.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from einops import rearrange
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from torch.nn import functional as F

from vlmlab.hub import configs, fill, names
from vlmlab.hub.files import Weights
from vlmlab.model.language import LanguageConfig
from vlmlab.model.vision import VisionConfig
from vlmlab.model.vlm import VLM, VLMConfig

SPECIAL_TOKENS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")

STARTS: dict[tuple[str, str], names.Table] = {
    ("siglip", "siglip"): names.SIGLIP,
    ("siglip", "siglip_vision_model"): names.SIGLIP,
    ("siglip", "dinov2"): names.DINOV2,
    ("clip", "clip"): names.CLIP,
    ("clip", "clip_vision_model"): names.CLIP,
    ("dinov2", "dinov2"): names.DINOV2,
    ("mistral", "mistral"): names.MISTRAL,
    ("mistral", "llama"): names.MISTRAL,
}
"""What each plug-in can start from: names of tensors, by our plug-in and the checkpoint's model type."""

FOLDED = {("siglip", "dinov2")}
"""Starts whose tensors go through `fold`."""

PREFIXES = ("vision_model.", "dinov2.")
"""What whole models put before the names of their tower."""

LEFT_OUT = (
    "**rotary_emb.inv_freq",
    "**.position_ids",
    "head.**",
    "embeddings.mask_token",
    "text_model.**",
    "*_projection.weight",
    "logit_scale",
    "logit_bias",
    "classifier.**",
)
"""Tensors of published towers that a vision-language model does not use: pooling heads, text towers, masks."""


def assemble(
    config: VLMConfig, vision_folder: Path | str, language_folder: Path | str, dtype: torch.dtype | None = torch.float32
) -> tuple[VLM, Tokenizer]:
    """A fresh model from two backbone folders, and the tokenizer with the tokens of images and turns added.

    The connector, the fusion and the added rows are drawn from torch's global generator: seed it first. Raises
    ValueError when the config and a folder disagree, naming the key and the folder's value.
    """
    vision_folder, language_folder = Path(vision_folder), Path(language_folder)
    tokenizer = special_tokenizer(language_folder)
    _check_tokens(config, tokenizer, language_folder)
    with torch.device("meta"):
        model = VLM(config)
    load_vision(model, config.vision, vision_folder, dtype)
    load_language(model, config.language, language_folder, tokenizer, dtype)
    model.connector = config.connector.build(model.vision.width, config.language.width).to(dtype)
    model.fusion = config.fusion.build(model.language, model.connector.width).to(dtype)
    return model, tokenizer


def config_of(vision_folder: Path | str, language_folder: Path | str) -> dict[str, dict[str, Any]]:
    """The `[model.vision]`, `[model.language]` and `[model.fusion]` tables that fit two backbone folders.

    DINOv2 becomes the siglip tower (see `fold`); the vocabulary has room for the added tokens.
    """
    towers = {"clip": "clip", "clip_vision_model": "clip"}
    vision_kind, vision = configs.backbone(Path(vision_folder))
    _, language = configs.backbone(Path(language_folder))
    tokenizer = special_tokenizer(Path(language_folder))
    language["vocabulary"] = max(language["vocabulary"], tokenizer.get_vocab_size())
    return {
        "vision": {"name": towers.get(vision_kind, "siglip"), **vision},
        "language": {"name": "mistral", **language, "window": language["window"] or "none"},
        "fusion": {"name": "interleave", "image_token": tokenizer.token_to_id("<image>")},
    }


def special_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer with the tokens of images and turns, those it lacks added at the end."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no tokenizer.json; a language backbone needs one")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{path} cannot be read by tokenizers {tokenizers.__version__}: {error}") from None
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def load_vision(model: VLM, config: VisionConfig, folder: Path, dtype: torch.dtype | None) -> None:
    """Give a model built on the meta device the vision tower of a folder (SigLIP, CLIP or DINOv2).

    A DINOv2 checkpoint also fits the siglip tower, folded: see `fold`. The position table is stretched where the
    config's grid is another.
    """
    kind, values = configs.backbone(folder)
    table = _table(config, kind, folder)
    held = dataclasses.asdict(config)
    _check(held, {k: v for k, v in values.items() if k != "side"}, folder, "model.vision")
    weights = Weights(folder)
    steps, unknown = names.plan(_tower_names(weights), table)
    tensors: dict[str, Tensor] = {
        step.ours: step.make(*(weights[_prefixed(weights, name)] for name in step.theirs)) for step in steps
    }
    if (config.name, kind) in FOLDED:
        tensors = fold(tensors)
    side = values["side"]
    tensors["position.weight"] = stretch(tensors["position.weight"], side, held["side"])
    ready = [names.Step(name, (name,), names.MAKE["same"]) for name in tensors]
    fill.fill(model.vision, ready, unknown, tensors, folder, dtype=dtype)


def load_language(
    model: VLM, config: LanguageConfig, folder: Path, tokenizer: Tokenizer, dtype: torch.dtype | None
) -> None:
    """Give a model built on the meta device the language model of a folder (Mistral or Llama), rows added.

    A config that is not tied to the embedding can start from one that is: its head begins as a copy.
    """
    kind, values = configs.backbone(folder)
    table = _table(config, kind, folder)
    held = dataclasses.asdict(config)
    loose = {"vocabulary", "positions", *([] if held["tied"] else ["tied"])}
    _check(held, {k: v for k, v in values.items() if k not in loose}, folder, "model.language")
    weights = Weights(folder)
    steps, unknown = names.plan([n for n in weights if not _left_out(n)], table)
    tensors = {step.ours: step.make(*(weights[name] for name in step.theirs)) for step in steps}
    if held["tied"]:
        tensors.pop("output.weight", None)
    elif "output.weight" not in tensors and values["tied"]:
        tensors["output.weight"] = tensors["embedding.weight"]
    known = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    for name in ("embedding.weight", "output.weight"):
        if name in tensors:
            tensors[name] = grow(tensors[name].to(dtype), known, config.vocabulary)
    ready = [names.Step(name, (name,), names.MAKE["same"]) for name in tensors]
    fill.fill(model.language, ready, unknown, tensors, folder, dtype=dtype)


def fold(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's tensors (our names) as those of a tower without class token and layer scale.

    Each scale goes into the matrix and bias before it, which changes nothing; the class token and its position are
    dropped, which changes a little: patches can no longer look at it.
    """
    folded = {}
    for name, tensor in tower.items():
        layer, _, rest = name.rpartition(".attention.o.") if ".attention.o." in name else name.rpartition(".mlp.down.")
        if layer:
            scale = tower[f"{layer}.scale1" if ".attention.o." in name else f"{layer}.scale2"]
            folded[name] = tensor * (scale[:, None] if rest == "weight" else scale)
        elif name == "position.weight":
            folded[name] = tensor[1:]
        elif name != "class_token" and not name.endswith((".scale1", ".scale2")):
            folded[name] = tensor
    return folded


def stretch(table: Float[Tensor, "m v"], old: int, new: int) -> Float[Tensor, "k v"]:
    """A position table of `old` x `old` rows (a class token's before them, if any) for a grid of `new` x `new`.

    Bicubic, with 0.1 added to the new side where the scale is computed, as the released model's table was made; equal
    sizes leave it as it is. Axes: m old rows, k new rows.
    """
    if old == new:
        return table
    extra = len(table) - old**2
    square = rearrange(table[extra:].float(), "(y x) v -> 1 v y x", y=old)
    scale = (new + 0.1) / old
    square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    assert square.shape[2:] == (new, new)
    return torch.cat([table[:extra], rearrange(square, "1 v y x -> (y x) v").to(table.dtype)])


def grow(rows: Float[Tensor, "m d"], known: int, vocabulary: int) -> Float[Tensor, "w d"]:
    """An embedding (or head) of `vocabulary` rows whose first `known` are those given. Axis: m rows given.

    The others are drawn around the mean of the known rows with their spread, so that an added token starts as a common
    one: with a tied head, rows drawn around zero could be likelier than every word. Rows that the checkpoint has beyond
    its tokenizer's vocabulary are padding, and drawn too.
    """
    if known == vocabulary == len(rows):
        return rows
    known = min(known, len(rows))
    mean, spread = rows[:known].float().mean(0), rows[:known].float().std(0)
    drawn = mean + spread * torch.randn(vocabulary - known, rows.shape[1])
    return torch.cat([rows[:known], drawn.to(rows.dtype)])


def _table(config: VisionConfig | LanguageConfig, kind: str, folder: Path) -> names.Table:
    found = STARTS.get((config.name, kind))
    if found is None:
        fitting = " or ".join(repr(ours) for ours, theirs in STARTS if theirs == kind)
        raise ValueError(f"{folder} is a {kind!r} checkpoint: {config.name!r} cannot start from it, use {fitting}")
    return found


def _tower_names(weights: Weights) -> list[str]:
    """The names of a checkpoint's tower, without what whole models put before them and hold beside it."""
    inside = [p for p in PREFIXES if any(name.startswith(p) for name in weights)]
    names_ = [n.removeprefix(inside[0]) for n in weights if n.startswith(inside[0])] if inside else list(weights)
    return [name for name in names_ if not _left_out(name)]


def _prefixed(weights: Weights, name: str) -> str:
    return next(p + name for p in ("", *PREFIXES) if p + name in weights)


def _left_out(name: str) -> bool:
    return any(names.fits(name, pattern) for pattern in LEFT_OUT)


def _check(held: Mapping[str, Any], values: Mapping[str, Any], folder: Path, where: str) -> None:
    """Raise ValueError at the first of a folder's values that the config contradicts."""
    for key, value in values.items():
        mine = held.get(key)
        close = isinstance(mine, float) and isinstance(value, float) and math.isclose(mine, value, rel_tol=1e-6)
        if mine != value and not close:
            raise ValueError(f"{where}.{key} is {mine!r}, but {folder} was made with {value!r}")


def _check_tokens(config: VLMConfig, tokenizer: Tokenizer, folder: Path) -> None:
    size, image = tokenizer.get_vocab_size(), tokenizer.token_to_id("<image>")
    if config.language.vocabulary < size:
        raise ValueError(
            f"model.language.vocabulary is {config.language.vocabulary}, but the tokenizer of {folder} with "
            f"{', '.join(SPECIAL_TOKENS)} has {size} tokens"
        )
    if config.fusion.image_token != image:
        raise ValueError(
            f"model.fusion.image_token is {config.fusion.image_token}, but <image> of the tokenizer of {folder} is {image}"
        )
