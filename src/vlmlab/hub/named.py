"""A model's layers by the names that transformers gives them: which of them a target means."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from vlmlab.hub import names
from vlmlab.model.adapters import Adapted, LowRank
from vlmlab.model.packed import Packed, Table8
from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM

HEAD = "language.output"


def linear_layers(model: VLM, part: str) -> dict[str, str]:
    """The layers of a part that can be adapted: our path, and transformers' name.

    The tower's first layer is a convolution there, and is left out.
    """
    found = {}
    for path, module in model.get_submodule(part).named_modules(prefix=part):
        inside = isinstance(model.get_submodule(path.rpartition(".")[0]), Adapted)
        if isinstance(module, Linear | Packed | Adapted) and not (inside or isinstance(module, Table8)):
            theirs = names.to_theirs(f"{path}.weight", names.IDEFICS2)
            if theirs is None or theirs[1] == "same":
                found[path] = path if theirs is None else theirs[0].removesuffix(".weight")
    return found


def resolve(model: VLM, part: str, targets: Sequence[str]) -> list[str]:
    """The paths of a part's layers that `targets` name by the end of theirs; with none, all but the language head.

    Raises ValueError for a target that fits no layer, giving the nearest that do.
    """
    known = linear_layers(model, part)
    if not targets:
        if not known.keys() - {HEAD}:
            raise ValueError(f"the {part} of this model has no linear layers to adapt")
        return [path for path in known if path != HEAD]
    found = {path for target in targets for path in _fitting(known, target, part, "linear layer", ends)}
    return [path for path in known if path in found]


def modules(model: VLM, part: str, wanted: Sequence[str]) -> list[str]:
    """The paths of a part's modules with parameters of their own that `wanted` name, or that are inside of those.

    Raises ValueError for a name that fits none, giving the nearest, and for one that is adapted.
    """
    known = {}
    for path, module in model.get_submodule(part).named_modules(prefix=part):
        own = [key for key, _ in module.named_parameters(recurse=False)]
        if own and not any(isinstance(m, Adapted | LowRank) for m in _above(model, path)):
            theirs = names.to_theirs(f"{path}.{own[0]}", names.IDEFICS2)
            known[path] = path if theirs is None else theirs[0].removesuffix(f".{own[0]}")
    found = {path for name in wanted for path in _fitting(known, name, part, "module that is not adapted", inside)}
    return [path for path in known if path in found]


def _above(model: nn.Module, path: str) -> Iterable[nn.Module]:
    """The module at a path and those that hold it."""
    pieces = path.split(".")
    return (model.get_submodule(".".join(pieces[:end])) for end in range(1, len(pieces) + 1))


def ends(path: str, name: str) -> bool:
    """Whether a path ends in a name, which may be some of its words."""
    return f".{path}".endswith(f".{name}")


def inside(path: str, name: str) -> bool:
    """Whether a path is that of a module of this name, or leads through one."""
    return f".{name}." in f".{path}."


def _fitting(known: Mapping[str, str], name: str, part: str, what: str, fits: Any) -> list[str]:
    found = [path for path, theirs in known.items() if fits(theirs, name) or fits(path, name)]
    if found:
        return found
    words = {theirs.rpartition(".")[2]: None for theirs in known.values()} if known else {}
    near = difflib.get_close_matches(name.rpartition(".")[2], words, n=3, cutoff=0.5) or list(words)[:12]
    raise ValueError(
        f"no {what} of the {part} is called {name!r}"
        + (f"; the nearest: {', '.join(near)}" if near else f": the {part} has none")
    )
