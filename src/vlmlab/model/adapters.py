"""Adapters: what a frozen linear layer learns beside its weight. LoRA (Hu et al., 2021) and DoRA (Liu et al., 2024).

LoRA adds `scale * b @ a` to the weight, with `a` [r, i] and `b` [o, r] of a small rank r; `b` begins at zero, so that a
fresh adapter changes nothing, to the bit. DoRA also learns the length of each of the weight's rows: the sum is brought
to `magnitude`, which begins at the length that the rows have. Gradients do not flow through that division (section 4.3
of its paper), which is what PEFT computes too.

A layer may hold several adapters by name; one of them acts at a time, or none, or each on rows of its own. Letters: r
rank, i inputs, o outputs.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from vlmlab.model.meta import without_memory
from vlmlab.model.packed import Packed, Table8
from vlmlab.model.products import ACTIVATIONS, Activation, Linear, adapted, linear

Base = Linear | Packed
"""What can be adapted: a linear layer, its weight as stored or in few bits."""

DEFAULT = "default"
"""The name of an adapter that was given none, as in PEFT."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How a part of a model is adapted.

    What is learned counts `alpha / rank` times; with `rslora`, `alpha / sqrt(rank)` times (Kalajdzievski, 2023).
    `dropout` is of the adapter's input while training. `init` says how `a` is drawn: `uniform` is PEFT's own,
    `gaussian` has the deviation 1 / rank, as the published fine-tunings of Idefics2 took it. `targets` names layers by
    the end of their path, in transformers' words or in ours; with none, every linear layer of the part is one.
    `full` names modules of the part that learn in full beside the adapter. With `base = "nf4"` the frozen weights are
    held in four bits (QLoRA, Dettmers et al., 2023).
    """

    kind: Literal["lora", "dora"] = "lora"
    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    rslora: bool = False
    init: Literal["uniform", "gaussian"] = "uniform"
    targets: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    base: Literal["stored", "nf4"] = "stored"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be 1 or more, not {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be more than 0, not {self.alpha:g}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, not {self.dropout:g}")


class LowRank(nn.Module):
    """One adapter of one layer. With a `magnitude` it is DoRA's, else LoRA's."""

    def __init__(
        self,
        a: Float[Tensor, "r i"],
        b: Float[Tensor, "o r"],
        alpha: float,
        magnitude: Float[Tensor, " o"] | None = None,
        dropout: float = 0.0,
        rslora: bool = False,
    ) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self.alpha, self.dropout, self.rslora = alpha, dropout, rslora
        self._known: tuple[tuple[tuple[int, int], ...], Tensor] | None = None

    @property
    def rank(self) -> int:
        """How many rows `a` has."""
        return len(self.a)

    @property
    def scale(self) -> float:
        """How many times what is learned counts."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def forward(self, x: Float[Tensor, "*n i"], base: Base) -> Float[Tensor, "*n o"]:
        """What the layer `base` gives for `x` with this in it."""
        if self.magnitude is None and isinstance(base, Linear) and not (self.dropout and self.training):
            return adapted(x, base.weight, base.bias, self.a, self.b, self.scale)
        return self.onto(x, base(x), base)

    def onto(self, x: Float[Tensor, "*n i"], out: Float[Tensor, "*n o"], base: Base) -> Float[Tensor, "*n o"]:
        """`out`, which the layer `base` gave for `x`, with this in it."""
        some = F.dropout(x, self.dropout, self.training) if self.dropout else x
        low = linear(linear(some, self.a) * self.scale, self.b)
        if self.magnitude is None:
            return out + low
        gain = self.gain(base).to(out.dtype)
        plain = out if base.bias is None else out - base.bias
        return out + (gain - 1) * plain + gain * low

    def weight(self, base: Base) -> Float[Tensor, "o i"]:
        """The layer's weight with this adapter in it, in the base's dtype. Has no gradient."""
        with torch.no_grad():
            weight = base.weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            sum_ = weight.to(wide) + self.scale * (self.b.to(wide) @ self.a.to(wide))
            if self.magnitude is not None:
                sum_ = sum_ * self.gain(base).to(wide)[:, None]
            return sum_.to(weight.dtype)

    def gain(self, base: Base) -> Float[Tensor, " o"]:
        """What each row of the sum is multiplied with to have its magnitude.

        Without gradients it is kept until one of the numbers that it is made of changes: a decoding step reads it.
        """
        assert self.magnitude is not None
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.magnitude / self._length(base)
        made_of = tuple((t.data_ptr(), t._version) for t in (*self.parameters(), *base.parameters(), *base.buffers()))
        if self._known is None or self._known[0] != made_of:
            self._known = made_of, self.magnitude / self._length(base)
        return self._known[1]

    @torch.no_grad()
    def _length(self, base: Base) -> Float[Tensor, " o"]:
        """The length of each row of the weight with the low-rank product added, which is never formed.

        |w + s b a|² = |w|² + 2 s b·(w aᵀ) + s² b·(b a aᵀ), row by row; at b = 0 it is that of `w` to the bit.
        """
        weight = base.weight
        # A model without memory, which is only counted, has no autocast to turn off.
        with torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False):
            wide = torch.promote_types(weight.dtype, torch.float32)
            weight, a, b = weight.to(wide), self.a.to(wide), self.b.to(wide) * self.scale
            cross = torch.linalg.vecdot(F.linear(weight, a), b)
            own = torch.linalg.vecdot(b @ (a @ a.T), b)
            squares = torch.linalg.vecdot(weight, weight) + 2 * cross + own
        return squares.clamp_min(torch.finfo(wide).tiny).sqrt()


class Adapted(nn.Module):
    """A linear layer with adapters: `base` as it was, and `adapters` by name, of which `active` acts.

    Where `rows` says which rows of the input each adapter is for, those act instead, each on its own; on the other rows
    none does. Merged, it is one matrix; the base stands beside it untouched, so that unmerging restores its bits and
    costs its memory meanwhile.
    """

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.rows: Mapping[str, Int[Tensor, " m"]] | None = None
        self.merged: Linear | None = None

    def forward(self, x: Float[Tensor, "*n i"], activation: Activation | None = None) -> Float[Tensor, "*n o"]:
        """The layer with its active adapter, if it has it, and then the activation."""
        if self.rows is not None:
            return self._by_rows(x, self.rows, activation)
        layer, adapter = self.merged or self.base, self.acting
        if adapter is None or layer is self.merged:
            return layer(x, activation)
        out = adapter(x, self.base)
        return out if activation is None else ACTIVATIONS[activation](out)

    def _by_rows(
        self, x: Float[Tensor, "b *n i"], rows: Mapping[str, Int[Tensor, " m"]], activation: Activation | None
    ) -> Float[Tensor, "b *n o"]:
        """The base's product is taken once for all rows, whatever each adds to it."""
        here = {at: adapter for name, at in rows.items() if (adapter := self._called(name)) is not None}
        if not here:
            return self.base(x, activation)
        out = self.base(x)
        for at, adapter in here.items():
            out = out.index_copy(0, at, adapter.onto(x[at], out[at], self.base))
        return out if activation is None else ACTIVATIONS[activation](out)

    @property
    def acting(self) -> LowRank | None:
        """The adapter that acts, or None."""
        return None if self.active is None else self._called(self.active)

    def _called(self, name: str) -> LowRank | None:
        if name not in self.adapters:
            return None
        adapter = self.adapters[name]
        assert isinstance(adapter, LowRank)
        return adapter

    @property
    def weight(self) -> Float[Tensor, "o i"]:
        """The weight with the active adapter in it. Has no gradient."""
        adapter = self.acting
        return self.base.weight.detach() if adapter is None else adapter.weight(self.base)

    @property
    def bias(self) -> Float[Tensor, " o"] | None:
        """The base's bias."""
        return self.base.bias


def layers(model: nn.Module) -> dict[str, Adapted]:
    """The adapted layers of a model by their path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Adapted)}


def names(model: nn.Module) -> list[str]:
    """The names of the adapters that a model holds, in the order they were added."""
    return list(dict.fromkeys(name for layer in layers(model).values() for name in layer.adapters))


def add(model: nn.Module, paths: Iterable[str], config: Config, name: str = DEFAULT) -> None:
    """Give the layers at `paths` a fresh adapter called `name`, drawn from torch's global generator, and let it act.

    Its numbers are in single precision at least, on the layer's device. Raises what `attach` raises.
    """
    made: dict[str, LowRank] = {}
    for path in paths:
        base = _base(model, path)
        weight = base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        a = torch.empty(config.rank, weight.shape[1], dtype=wide, device=weight.device)
        if config.init == "gaussian":
            nn.init.normal_(a, std=1 / config.rank)
        else:
            nn.init.kaiming_uniform_(a, math.sqrt(5))
        made[path] = LowRank(
            a, a.new_zeros(len(weight), config.rank), config.alpha, None, config.dropout, config.rslora
        )
        if config.kind == "dora":
            made[path].magnitude = nn.Parameter(made[path]._length(base))
    attach(model, made, name)


def attach(model: nn.Module, made: Mapping[str, LowRank], name: str = DEFAULT) -> None:
    """Give the layers at some paths the parts of an adapter that is made already, and let it act.

    Nothing is changed when it raises ValueError: for what is no linear layer, a part of other sizes, a name that is
    taken or cannot be one, and a model whose adapter is merged.
    """
    if "." in name or hasattr(nn.ModuleDict, name):
        raise ValueError(f"an adapter cannot be called {name!r}: letters, digits, - and _ will do")
    _unmerged(model)
    for path, adapter in made.items():
        layer, base = model.get_submodule(path), _base(model, path)
        sizes = [len(adapter.b), adapter.a.shape[1]]
        if sizes != list(base.weight.shape):
            raise ValueError(f"{path} is {list(base.weight.shape)}, but its adapter is for {sizes}")
        if isinstance(layer, Adapted) and name in layer.adapters:
            raise ValueError(f"{path} has an adapter called {name!r} already: remove it, or choose another name")
    for path, adapter in made.items():
        layer = model.get_submodule(path)
        if not isinstance(layer, Adapted):
            layer = Adapted(_base(model, path)).train(layer.training)
            model.set_submodule(path, layer)
        layer.adapters[name] = adapter.train(layer.training)
    use(model, name)


def use(model: nn.Module, name: str | None) -> None:
    """Let the adapter called `name` act, and no other; with None, none. Raises ValueError when no layer has it."""
    if name is not None:
        _known(model, name)
    _unmerged(model)
    for layer in layers(model).values():
        layer.active = name


def merge(model: nn.Module, name: str = DEFAULT) -> None:
    """Make one matrix of each layer and its adapter. The base is kept: `unmerge` restores it to the bit."""
    use(model, name)
    for layer in layers(model).values():
        if layer.acting is not None:
            layer.merged = _plain(layer)


def unmerge(model: nn.Module) -> None:
    """Undo `merge`: the adapters act again beside their bases."""
    for layer in layers(model).values():
        layer.merged = None


def remove(model: nn.Module, name: str = DEFAULT) -> None:
    """Take an adapter out of a model; a layer without any is what it was before the first."""
    _known(model, name)
    _unmerged(model)
    for path, layer in layers(model).items():
        if name not in layer.adapters:
            continue
        del layer.adapters[name]
        layer.active = None if layer.active == name else layer.active
        if not layer.adapters:
            model.set_submodule(path, layer.base)


def fold(model: nn.Module) -> None:
    """Turn every adapted layer into a plain one with its active adapter in its weight, for good."""
    for path, layer in layers(model).items():
        model.set_submodule(path, _plain(layer))


@torch.no_grad()
def joined(base: Base, turns: Sequence[LowRank]) -> LowRank:
    """One adapter of a layer that does what several did in turn, each to the weight that the one before it left.

    Its rank is the sum of theirs. Where turn k makes w' = g (w + b a), row by row, with g = 1 for LoRA, the last weight
    is s (w + [b1, b2 / g1, b3 / (g1 g2), ...] [a1; a2; a3; ...]), with s the product of all g: DoRA's form.
    """
    layer, gain = base, torch.ones_like(base.weight[:, 0])
    columns: list[Tensor] = []
    for low in turns:
        columns.append(low.scale * low.b / gain[:, None])
        gain = gain if low.magnitude is None else gain * low.gain(layer)
        layer = _linear(low.weight(layer), base.bias)
    made = LowRank(torch.cat([low.a for low in turns]), torch.cat(columns, 1), float(sum(low.rank for low in turns)))
    if any(low.magnitude is not None for low in turns):
        made.magnitude = nn.Parameter(gain * made._length(base))
    return made


def learned(module: nn.Module, name: str = DEFAULT) -> dict[str, nn.Parameter]:
    """The numbers of the adapter called `name` in a module, by their path."""
    found: dict[str, nn.Parameter] = {}
    for path, layer in layers(module).items():
        if name in layer.adapters:
            adapter = layer.adapters[name]
            found |= {f"{path}.adapters.{name}.{key}": value for key, value in adapter.named_parameters()}
    return found


def replace(model: nn.Module, paths: Iterable[str], make: Callable[[Linear], Base]) -> None:
    """Put `make(layer)` in the place of the linear layers at `paths`; of those that are adapted, in their base's."""
    for path in paths:
        layer, base = model.get_submodule(path), _base(model, path)
        assert isinstance(base, Linear), path
        if isinstance(layer, Adapted):
            layer.base = make(base)
        else:
            model.set_submodule(path, make(base))


def plain_state(model: nn.Module) -> dict[str, Shaped[Tensor, "..."]]:
    """`state_dict` as if the model had no adapters: what acts is in the weights, and the names are a plain model's.

    Weights held in few bits are given back as numbers.
    """
    whole = {path: m for path, m in model.named_modules() if isinstance(m, Adapted | Packed)}
    found: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        pieces = key.split(".")
        owner = next((p for n in range(1, len(pieces)) if (p := ".".join(pieces[:n])) in whole), None)
        if owner is None:
            found[key] = tensor
        elif f"{owner}.weight" not in found:
            layer = whole[owner]
            found[f"{owner}.weight"] = layer.weight
            if layer.bias is not None:
                found[f"{owner}.bias"] = layer.bias.detach()
    return found


def _plain(layer: Adapted) -> Linear:
    return _linear(layer.weight, layer.bias).train(layer.training)


def _linear(weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> Linear:
    with without_memory():
        plain = Linear(weight.shape[1], weight.shape[0], bias is not None)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return plain


def _base(model: nn.Module, path: str) -> Base:
    layer = model.get_submodule(path)
    base = layer.base if isinstance(layer, Adapted) else layer
    if not isinstance(base, Base) or isinstance(base, Table8):
        raise ValueError(f"{path} is no linear layer, but {type(base).__name__}: it cannot be adapted")
    return base


def _unmerged(model: nn.Module) -> None:
    if any(layer.merged is not None for layer in layers(model).values()):
        raise ValueError("the model has its adapter merged: unmerge it first")


def _known(model: nn.Module, name: str) -> None:
    known = names(model)
    if name not in known:
        told = f"its adapters: {', '.join(known)}" if known else "it has none"
        raise ValueError(f"the model has no adapter called {name!r}; {told}")
