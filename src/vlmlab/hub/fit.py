"""Makes the tensors of a backbone fit a recipe: another grid, more words, no class token, no batch norms."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

BATCH_NORM_EPS = 1e-3
"""What TensorFlow's EfficientNets add to a variance."""


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


def drop_key_biases(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EVA-CLIP's tensors (our names) without the biases of keys, which its checkpoints hold as zeros.

    Raises ValueError when one is not zero.
    """
    biases = [name for name in tower if name.endswith(".attention.k.bias")]
    for name in biases:
        if tower[name].count_nonzero():
            raise ValueError(f"{name} is not zero: this is no EVA-CLIP, whose keys have no bias")
    return {name: tensor for name, tensor in tower.items() if name not in biases}


def fold_norms(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite's tensors (our names, and a `_norm` for each convolution) as those of a tower without norms.

    A batch norm whose statistics stay multiplies and shifts each channel: the convolution before it does both.
    """
    folded = {name: tensor for name, tensor in tower.items() if "_norm." not in name}
    for name in list(folded):
        layer = name.removesuffix(".weight")
        weight, bias, mean, variance = (
            tower[f"{layer}_norm.{kind}"].double() for kind in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / (variance + BATCH_NORM_EPS).sqrt()
        folded[name] = (tower[name].double() * scale[:, None, None, None]).to(tower[name].dtype)
        folded[f"{layer}.bias"] = (bias - mean * scale).to(tower[name].dtype)
    return folded


def first(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The first `layers` layers of a tower or a decoder, and all that is in no layer."""
    numbered = {name: int(name.split(".")[1]) for name in tensors if name.startswith("layers.")}
    return {name: tensor for name, tensor in tensors.items() if numbered.get(name, 0) < layers}


def cut(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A tower's first `layers` layers; the norm behind them, where there is one, has no weights that do anything."""
    found = first(tensors, layers)
    for name, value in (("norm.weight", 1.0), ("norm.bias", 0.0)):
        if name in found:
            found[name] = torch.full_like(found[name], value)
    return found
