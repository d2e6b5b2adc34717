"""AWQ checkpoints in the layout of AutoAWQ's GEMM version, such as `idefics2-8b-AWQ`.

A linear layer is three tensors: `qweight` [i, o/8] and `qzeros` [s, o/8], whole numbers of four bits packed eight to an
int32, and `scales` [s, o]. The eight of an int32, from its lowest bits, are columns 0, 2, 4, 6, 1, 3, 5, 7 of its
block. A weight is `(code - zero) * scale`. What is not quantized is there as ever.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from vlmlab.hub import files, names
from vlmlab.hub.packed import Held
from vlmlab.model.int4 import Groups4, pair

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column of a block each four bits of an int32 are, from the lowest."""

ENDS = (".qweight", ".qzeros", ".scales")


def packed(name: str) -> bool:
    """Whether a tensor of that name is one of a layer's three."""
    return name.endswith(ENDS)


def read(folder: Path, weights: Mapping[str, Tensor]) -> Held | None:
    """What of a hub folder is held in four bits; None when its `config.json` says nothing of it.

    Raises ValueError for another method than AWQ, another version of it, or a layer that lacks one of its three.
    """
    path = folder / "config.json"
    told = files.read_json(path).get("quantization_config")
    if told is None:
        return None
    wanted = {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}
    for key, value in wanted.items():
        said = told.get(key)
        if (said.lower() if isinstance(said, str) else said) != value:
            raise ValueError(
                f"{path}: weights quantized with {key} = {said!r} cannot be read, only {value!r}; take the plain "
                "checkpoint and `vlmlab quantize` it"
            )
    group = told.get("group_size")
    if not isinstance(group, int) or group < 1:
        raise ValueError(f"{path}: group_size is {group!r}; it should be how many inputs share a scale, 128 say")
    owners = {name.rpartition(".")[0] for name in weights if packed(name)}
    for owner in sorted(owners):
        missing = [end for end in ENDS if owner + end not in weights]
        if missing:
            raise ValueError(f"{folder} has no tensor {owner}{missing[0]}")
    paths = [step.ours.removesuffix(".codes") for step in plan(sorted(weights)) if step.ours.endswith(".codes")]
    return Held({"name": "awq"}, {Groups4.kind: tuple(paths)}, group)


def plan(theirs: Sequence[str]) -> list[names.Step]:
    """How the three tensors of each such layer become ours. Raises ValueError for a layer we have no place for."""
    steps = []
    for name in theirs:
        owner, _, leaf = name.rpartition(".")
        if leaf != "qweight":
            continue
        found, unknown = names.plan_idefics2([f"{owner}.weight"])
        if unknown:
            raise ValueError(f"the checkpoint holds {name}, which this model has no place for")
        ours = found[0].ours.removesuffix("weight")
        steps.append(names.Step(f"{ours}codes", (name,), codes))
        steps.append(names.Step(f"{ours}scales", (f"{owner}.scales", f"{owner}.qzeros"), scales))
    return steps


def unpack(packed: Int32[Tensor, "i m"]) -> UInt8[Tensor, "i o"]:
    """Numbers of four bits, eight from each int32, in the order of their columns."""
    shifts = torch.zeros(8, dtype=torch.int32)
    shifts[list(ORDER)] = torch.arange(0, 32, 4, dtype=torch.int32)
    return ((packed[:, :, None] >> shifts) & 15).to(torch.uint8).flatten(1)


def codes(qweight: Int32[Tensor, "i e"]) -> UInt8[Tensor, "o m"]:
    """The codes of a layer, in our order."""
    return pair(unpack(qweight).t().contiguous())


def scales(steps: Float[Tensor, "s o"], qzeros: Int32[Tensor, "s m"]) -> Float[Tensor, "s o 2"]:
    """The step and the middle of each group, in the dtype of the steps."""
    return torch.stack([steps, (8 - unpack(qzeros).to(steps.dtype)) * steps], 2)
