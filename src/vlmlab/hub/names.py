"""What our parameters are called on the hub, as tables of rules that are read in both directions.

A rule is a pair of names in which `*` stands for one piece, the same on both sides; the first rule that fits a name is
the one that counts. `how` says what happens to the numbers on the way in.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

How = Literal["same", "patch", "flat", "qkv"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table: our name, theirs, and how their numbers become ours.

    `same`: as they are. `patch`: a convolution over patches [v, 3, y, x] is our linear layer [v, 3*y*x] (channel, row,
    column). `flat`: leading axes of length one are dropped. `qkv`: three matrices in one; our name has `qkv` where each
    of the three has its letter.
    """

    ours: str
    theirs: str
    how: How = "same"


Table = tuple[Rule, ...]


_BRANCHES: Table = (
    Rule("layers.*.norm1.*", "encoder.layers.*.layer_norm1.*"),
    Rule("layers.*.norm2.*", "encoder.layers.*.layer_norm2.*"),
    Rule("layers.*.mlp.up.*", "encoder.layers.*.mlp.fc1.*"),
    Rule("layers.*.mlp.down.*", "encoder.layers.*.mlp.fc2.*"),
)

_ATTENTION: Table = (
    Rule("layers.*.attention.o.*", "encoder.layers.*.self_attn.out_proj.*"),
    Rule("layers.*.attention.*.*", "encoder.layers.*.self_attn.*_proj.*"),
)

SIGLIP: Table = (
    Rule("patch.weight", "embeddings.patch_embedding.weight", "patch"),
    Rule("patch.bias", "embeddings.patch_embedding.bias"),
    Rule("position.weight", "embeddings.position_embedding.weight"),
    *_ATTENTION,
    *_BRANCHES,
    Rule("norm.*", "post_layernorm.*"),
)

CLIP: Table = (
    Rule("patch.weight", "embeddings.patch_embedding.weight", "patch"),
    Rule("class_token", "embeddings.class_embedding", "flat"),
    Rule("position.weight", "embeddings.position_embedding.weight"),
    Rule("pre_norm.*", "pre_layrnorm.*"),
    *_ATTENTION,
    *_BRANCHES,
)

DINOV2: Table = (
    Rule("patch.weight", "embeddings.patch_embeddings.projection.weight", "patch"),
    Rule("patch.bias", "embeddings.patch_embeddings.projection.bias"),
    Rule("class_token", "embeddings.cls_token", "flat"),
    Rule("position.weight", "embeddings.position_embeddings", "flat"),
    Rule("layers.*.attention.q.*", "encoder.layer.*.attention.attention.query.*"),
    Rule("layers.*.attention.k.*", "encoder.layer.*.attention.attention.key.*"),
    Rule("layers.*.attention.v.*", "encoder.layer.*.attention.attention.value.*"),
    Rule("layers.*.attention.o.*", "encoder.layer.*.attention.output.dense.*"),
    Rule("layers.*.scale1", "encoder.layer.*.layer_scale1.lambda1"),
    Rule("layers.*.scale2", "encoder.layer.*.layer_scale2.lambda1"),
    Rule("layers.*.norm1.*", "encoder.layer.*.norm1.*"),
    Rule("layers.*.norm2.*", "encoder.layer.*.norm2.*"),
    Rule("layers.*.mlp.up.*", "encoder.layer.*.mlp.fc1.*"),
    Rule("layers.*.mlp.down.*", "encoder.layer.*.mlp.fc2.*"),
    Rule("norm.*", "layernorm.*"),
)

BLIP2: Table = (
    Rule("patch.weight", "embeddings.patch_embedding.weight", "patch"),
    Rule("patch.bias", "embeddings.patch_embedding.bias"),
    Rule("class_token", "embeddings.class_embedding", "flat"),
    Rule("position.weight", "embeddings.position_embedding", "flat"),
    Rule("layers.*.attention.qkv.*", "encoder.layers.*.self_attn.qkv.*", "qkv"),
    Rule("layers.*.attention.o.*", "encoder.layers.*.self_attn.projection.*"),
    *_BRANCHES,
    Rule("norm.*", "post_layernorm.*"),
)
"""BLIP-2's vision model, which is EVA01-CLIP-g."""

EVA_CLIP: Table = (
    Rule("patch.weight", "patch_embed.proj.weight", "patch"),
    Rule("patch.bias", "patch_embed.proj.bias"),
    Rule("class_token", "cls_token", "flat"),
    Rule("position.weight", "pos_embed", "flat"),
    Rule("layers.*.attention.qkv.weight", "blocks.*.attn.qkv.weight", "qkv"),
    Rule("layers.*.attention.o.*", "blocks.*.attn.proj.*"),
    Rule("layers.*.attention.*.bias", "blocks.*.attn.*_bias"),
    Rule("layers.*.norm1.*", "blocks.*.norm1.*"),
    Rule("layers.*.norm2.*", "blocks.*.norm2.*"),
    Rule("layers.*.mlp.up.*", "blocks.*.mlp.fc1.*"),
    Rule("layers.*.mlp.down.*", "blocks.*.mlp.fc2.*"),
    Rule("norm.*", "norm.*"),
)
"""EVA-CLIP as open_clip's checkpoints on the hub have it."""

EFFICIENTNET_LITE: Table = (
    Rule("stem.weight", "conv_stem.weight"),
    Rule("stem_norm.*", "bn1.*"),
    # The first stage does not widen: its layers are called as the others' first ones.
    Rule("stages.0.*.depthwise.weight", "blocks.0.*.conv_dw.weight"),
    Rule("stages.0.*.depthwise_norm.*", "blocks.0.*.bn1.*"),
    Rule("stages.0.*.project.weight", "blocks.0.*.conv_pw.weight"),
    Rule("stages.0.*.project_norm.*", "blocks.0.*.bn2.*"),
    Rule("stages.*.*.expand.weight", "blocks.*.*.conv_pw.weight"),
    Rule("stages.*.*.expand_norm.*", "blocks.*.*.bn1.*"),
    Rule("stages.*.*.depthwise.weight", "blocks.*.*.conv_dw.weight"),
    Rule("stages.*.*.depthwise_norm.*", "blocks.*.*.bn2.*"),
    Rule("stages.*.*.project.weight", "blocks.*.*.conv_pwl.weight"),
    Rule("stages.*.*.project_norm.*", "blocks.*.*.bn3.*"),
    Rule("head.weight", "conv_head.weight"),
    Rule("head_norm.*", "bn2.*"),
)
"""EfficientNet-Lite as timm's checkpoints on the hub have it; its norms are folded, see `fit.fold_norms`."""

MISTRAL: Table = (
    Rule("embedding.weight", "model.embed_tokens.weight"),
    Rule("layers.*.attention_norm.weight", "model.layers.*.input_layernorm.weight"),
    Rule("layers.*.mlp_norm.weight", "model.layers.*.post_attention_layernorm.weight"),
    Rule("layers.*.attention.*.weight", "model.layers.*.self_attn.*_proj.weight"),
    Rule("layers.*.mlp.*.weight", "model.layers.*.mlp.*_proj.weight"),
    Rule("norm.weight", "model.norm.weight"),
    Rule("output.weight", "lm_head.weight"),
)
"""Mistral and Llama."""

PERCEIVER: Table = (
    Rule("projection.*.weight", "modality_projection.*_proj.weight"),
    Rule("latents", "perceiver_resampler.latents"),
    Rule("layers.*.latents_norm.weight", "perceiver_resampler.layers.*.input_latents_norm.weight"),
    Rule("layers.*.context_norm.weight", "perceiver_resampler.layers.*.input_context_norm.weight"),
    Rule("layers.*.mlp_norm.weight", "perceiver_resampler.layers.*.post_attention_layernorm.weight"),
    Rule("layers.*.attention.*.weight", "perceiver_resampler.layers.*.self_attn.*_proj.weight"),
    Rule("layers.*.mlp.*.weight", "perceiver_resampler.layers.*.mlp.*_proj.weight"),
    Rule("norm.weight", "perceiver_resampler.norm.weight"),
)

IDEFICS2: Table = (
    *(Rule("vision." + r.ours, "model.vision_model." + r.theirs, r.how) for r in SIGLIP),
    *(Rule("connector." + r.ours, "model.connector." + r.theirs, r.how) for r in PERCEIVER),
    *(Rule("language." + r.ours, re.sub("^model[.]", "model.text_model.", r.theirs), r.how) for r in MISTRAL),
)
"""Idefics2 in transformers, 4.40 to 5.x, and on the hub."""

OLD: Table = (
    Rule("model.connector.modality_projection.**", "model.modality_projection.**"),
    Rule("model.connector.perceiver_resampler.**", "model.perceiver_resampler.**"),
    Rule("model.text_model.layers.**", "model.layers.**"),
    Rule("model.text_model.norm.weight", "model.norm.weight"),
    Rule("model.text_model.embed_tokens.weight", "model.embed_tokens.weight"),
    Rule("model.text_model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight"),
    Rule("lm_head.weight", "additional_fc.weight"),
)
"""Today's names (left) of what the hub's first revisions and the original training code called otherwise (right).

The training code kept the rows of added tokens apart: two of its tensors are one of today's, one below the other.
"""


@functools.lru_cache(maxsize=1024)
def _pattern(name: str) -> re.Pattern[str]:
    pieces = re.split(r"([*]+)", name)
    return re.compile("".join({"*": "([^.]+)", "**": "(.+)"}.get(piece, re.escape(piece)) for piece in pieces))


def _rename(name: str, source: str, target: str) -> str | None:
    found = _pattern(source).fullmatch(name)
    if found is None:
        return None
    pieces = iter(found.groups())
    return re.sub(r"[*]+", lambda _: next(pieces), target)


def fits(name: str, pattern: str) -> bool:
    """Whether a name is one that a rule's side describes."""
    return _pattern(pattern).fullmatch(name) is not None


def to_ours(name: str, table: Table) -> tuple[str, How] | None:
    """Our name for one of theirs, and how its numbers become ours; None when no rule fits."""
    for rule in table:
        renamed = _rename(name, rule.theirs, rule.ours)
        if renamed is not None:
            return renamed, rule.how
    return None


def to_theirs(name: str, table: Table) -> tuple[str, How] | None:
    """Their name for one of ours, and how their numbers would become ours; None when no rule fits."""
    for rule in table:
        renamed = _rename(name, rule.ours, rule.theirs)
        if renamed is not None:
            return renamed, rule.how
    return None


@dataclasses.dataclass(frozen=True)
class Step:
    """One of our parameters: the tensors of a checkpoint it is made from, and how."""

    ours: str
    theirs: tuple[str, ...]
    make: Callable[..., Tensor]


def plan(theirs: Iterable[str], table: Table) -> tuple[list[Step], list[str]]:
    """How the tensors of a checkpoint become our parameters, in the checkpoint's order; and those no rule fits."""
    steps, unknown = [], []
    for name in theirs:
        found = to_ours(name, table)
        if found is None:
            unknown.append(name)
        elif found[1] == "qkv":
            for at, letter in enumerate("qkv"):
                ours = found[0].replace(".qkv.", f".{letter}.")
                steps.append(Step(ours, (name,), functools.partial(_third, at=at)))
        else:
            steps.append(Step(found[0], (name,), MAKE[found[1]]))
    return steps, unknown


def plan_idefics2(theirs: Sequence[str]) -> tuple[list[Step], list[str]]:
    """`plan` for an Idefics2 checkpoint of any age: old names are today's, rotary tables are left out."""
    today: dict[str, list[str]] = {}
    for name in sorted(theirs, key=lambda name: "additional_" in name):  # added rows come below the others
        if name.endswith(".rotary_emb.inv_freq"):
            continue
        renamed = next((n for r in OLD if (n := _rename(name, r.theirs, r.ours)) is not None), name)
        today.setdefault(renamed, []).append(name)
    steps, unknown = plan(today, IDEFICS2)
    steps = [Step(s.ours, tuple(today[s.theirs[0]]), _stack if len(today[s.theirs[0]]) > 1 else s.make) for s in steps]
    return steps, [today[name][0] for name in unknown]


def _patch(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _flat(weight: Tensor) -> Tensor:
    while weight.ndim > 1 and weight.shape[0] == 1:
        weight = weight[0]
    return weight


def _third(weight: Tensor, at: int) -> Tensor:
    return weight.chunk(3)[at]


def _stack(*weights: Tensor) -> Tensor:
    return torch.cat(weights)


MAKE: dict[How, Callable[[Tensor], Tensor]] = {"same": lambda weight: weight, "patch": _patch, "flat": _flat}


def to_convolution(weight: Tensor, patch: int) -> Tensor:
    """The reverse of `patch`: our linear layer over patches as a convolution [v, 3, patch, patch]."""
    return rearrange(weight, "v (c y x) -> v c y x", y=patch, x=patch)
