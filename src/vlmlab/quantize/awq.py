"""AWQ: four bits in groups, after a look at what flows through the layers (Lin et al., 2023).

A few channels carry most of what a layer reads. Their weights are multiplied by a factor, so that rounding harms them
less, and what writes those channels is divided by it, so that the model computes the same. The factor is a power of
the channel's mean size, chosen so that the layers' outputs are nearest. Then each group's range is cut where that
makes the expected error of its outputs smaller.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vlmlab.batch import Batch
from vlmlab.model.int4 import GROUPS, Groups4, decode, encode, levels
from vlmlab.model.language.mistral import Layer
from vlmlab.model.layers import RMSNorm
from vlmlab.model.packed import Packed, Rows8
from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM
from vlmlab.quantize import Quantizer, QuantizerConfig, matrices

CUTS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""The shares of a group's range that are tried."""


@dataclasses.dataclass(frozen=True)
class Config(QuantizerConfig):
    """`group` neighbouring inputs share a step and a middle; `grid` powers from 0 to 1 are tried for each factor, and
    errors of outputs are taken on `rows` tokens.
    """

    group: int = 32
    grid: int = 10
    rows: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group not in GROUPS:
            raise ValueError(f"group = {self.group} is not one of {', '.join(map(str, GROUPS))}")
        if self.grid < 2 or self.rows < 1:
            raise ValueError("grid must be 2 or more, rows 1 or more")


class Seen:
    """What a layer read: the sums of its inputs' sizes and squares, and some of the inputs."""

    def __init__(self, layer: Linear, rows: int) -> None:
        self.sizes, self.squares = torch.zeros(2, layer.in_features, dtype=torch.float64, device=layer.weight.device)
        self.count, self.rows, self.some = 0, rows, list[Tensor]()

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Take note of a layer's inputs: a hook before its forward pass."""
        x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
        self.sizes += x.abs().sum(0)
        self.squares += x.square().sum(0)
        self.count += len(x)
        self.some.append(x[:: max(1, len(x) // self.rows)][: self.rows])

    def sample(self) -> Float[Tensor, "r i"]:
        """So many of the inputs, from all of the batches."""
        every = torch.cat(self.some)
        return every[:: max(1, len(every) // self.rows)][: self.rows]


class ActivationAware(Quantizer):
    """Every matrix in four bits, by what flows through it. Needs `batches`."""

    config: Config

    def __init__(self, config: QuantizerConfig, batches: Sequence[Batch] = ()) -> None:
        super().__init__(config, batches)
        self.squares: dict[str, Float[Tensor, " i"]] = {}

    def prepare(self, model: VLM) -> None:
        """Run the batches through the model, and move the sizes of channels from what they flow through.

        Raises ValueError without batches.
        """
        if not self.batches:
            raise ValueError("awq looks at what flows through the model: give it batches of samples")
        with self._looking(model) as seen:
            for batch in self.batches:
                model(batch.to(model.device), rows=torch.zeros(1, dtype=torch.long, device=model.device))
        self.squares = {path: (s.squares / max(s.count, 1)).float() for path, s in seen.items() if s.count}
        if "language" in self.config.parts:
            for number, layer in enumerate(model.language.layers):
                if isinstance(layer, Layer):
                    self._balance(layer, f"language.layers.{number}", seen)

    @contextlib.contextmanager
    def _looking(self, model: VLM) -> Iterator[dict[str, Seen]]:
        seen: dict[str, Seen] = {}
        handles = []
        for path, layer in matrices(model, self.config.parts):
            if isinstance(layer, Linear):
                seen[path] = Seen(layer, self.config.rows)
                handles.append(layer.register_forward_pre_hook(seen[path]))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _balance(self, layer: Layer, path: str, seen: dict[str, Seen]) -> None:
        """Choose factors for a decoder layer: of what its norms write, and what `up` and, head for head, `v` write."""
        attention, mlp = layer.attention, layer.mlp
        joints: list[tuple[RMSNorm | Linear, list[Linear], list[str]]] = [
            (layer.attention_norm, [attention.q, attention.k, attention.v], [f"attention.{n}" for n in "qkv"]),
            (layer.mlp_norm, [mlp.gate, mlp.up], ["mlp.gate", "mlp.up"]),
            (mlp.up, [mlp.down], ["mlp.down"]),
        ]
        if attention.v.out_features == attention.o.in_features:  # with grouped heads one channel of v is several of o's
            joints.append((attention.v, [attention.o], ["attention.o"]))
        for source, readers, names in joints:
            look = seen[f"{path}.{names[0]}"]
            if not look.count or readers[0].in_features % self.config.group:
                continue
            factor = self._factor(readers, look)
            divided = source.weight / (factor if source.weight.ndim == 1 else factor[:, None])
            source.weight = nn.Parameter(divided.to(source.weight.dtype), source.weight.requires_grad)
            if isinstance(source, Linear) and source.bias is not None:
                source.bias = nn.Parameter(source.bias / factor.to(source.bias.dtype), source.bias.requires_grad)
            for reader, name in zip(readers, names, strict=True):
                weight = reader.weight
                reader.weight = nn.Parameter((weight * factor).to(weight.dtype), weight.requires_grad)
                self.squares[f"{path}.{name}"] = self.squares[f"{path}.{name}"] / factor.square()

    def _factor(self, readers: Sequence[Linear], look: Seen) -> Float[Tensor, " i"]:
        x = look.sample()
        sizes = (look.sizes / look.count).float().clamp_min(1e-4)
        best, chosen = float("inf"), torch.ones_like(sizes)
        for power in torch.linspace(0, 1, self.config.grid).tolist():
            factor = sizes**power
            factor = factor / (factor.max() * factor.min()).sqrt()
            wrong = sum(
                float(
                    (F.linear(x / factor, self._rounded(r.weight.float() * factor) - r.weight.float() * factor)).norm()
                )
                for r in readers
            )
            if wrong < best:
                best, chosen = wrong, factor
        return chosen

    def _rounded(self, weight: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
        found = levels(weight, self.config.group)
        return decode(encode(weight, *found), *found)

    def matrix(self, layer: Linear, path: str) -> Packed:
        """A matrix in four bits, each group's range cut where its outputs are then nearest."""
        group = self.config.group
        if layer.in_features % group:
            return Rows8(layer)
        weight = layer.weight.detach().float()
        share = self.squares.get(path, torch.ones_like(weight[0]))
        best: tuple[Tensor, ...] | None = None
        for cut in CUTS:
            steps, middles = levels(weight, group, cut=cut)
            codes = encode(weight, steps, middles)
            wrong = ((decode(codes, steps, middles) - weight).square() * share).unflatten(1, (-1, group)).sum(2)
            if best is None:
                best = wrong, steps, middles
            else:
                better = wrong < best[0]
                best = tuple(torch.where(better, a, b) for a, b in zip((wrong, steps, middles), best, strict=True))
        assert best is not None
        return Groups4(layer, group, (encode(weight, best[1], best[2]), best[1], best[2]))


PLUGIN = ActivationAware
