"""What a recipe will cost before it runs: what a step reads, the memory of each part, operations, time.

Samples are measured where their files are here, and taken from what is published where they are not. The model is built
without memory; its operations, and what it keeps for gradients, are counted while it runs on nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vlmlab.batch import Batch
from vlmlab.data.mixture import Mixed, Size
from vlmlab.model.count import Meter, example, timed
from vlmlab.model.count import count as counted
from vlmlab.model.meta import without_memory
from vlmlab.model.nf4 import NF4
from vlmlab.model.vlm import PARTS, VLM, VLMConfig
from vlmlab.train.optimizer import adapt, freeze
from vlmlab.train.parallel import layers
from vlmlab.train.recipe import Recipe, Stage
from vlmlab.train.recompute import repeated

WIDE, NARROW = 4.0, 2.0
"""Bytes of a number in single precision and in bfloat16."""

LONG, SHORT = 1024, 256
"""Lengths of the documents from which the decoder's cost at any length is reckoned."""


@dataclasses.dataclass(frozen=True)
class Mean:
    """A sample of a source, in the mean: `images` (pieces, where it is split), their `grid`, `text` tokens and others.

    `tokens` counts those of pictures too; `samples` is how many the source has; `told` says where all this is from.
    `again` says whether a picture may look different the next time, so that what the tower sees cannot be kept.
    """

    samples: int
    images: float
    grid: tuple[int, int] | None
    text: float
    learned: float
    tokens: float
    told: str
    again: bool = False


@dataclasses.dataclass(frozen=True)
class Flow:
    """What a step takes from a source: samples, packed rows and so on. `epochs` is over the whole run."""

    name: str
    kind: str
    samples: float
    rows: float
    images: float
    text: float
    learned: float
    tokens: float
    epochs: float
    mean: Mean


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a model in training. Memory is in bytes; `work` is FLOPs of a step, of which `units` are read.

    Units are tokens for the decoder, patches for the tower and the connector.
    """

    name: str
    weights: float
    gradients: float
    optimizer: float
    activations: float
    work: float
    units: float

    @property
    def memory(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step reads and costs. `once` are FLOPs that the tower takes over all steps for pictures that are kept."""

    flows: tuple[Flow, ...]
    parts: tuple[Part, ...]
    once: float
    steps: int

    def of(self, key: str) -> float:
        """A sum over all sources, such as `images`."""
        return float(sum(dataclasses.asdict(flow)[key] for flow in self.flows))

    @property
    def work(self) -> float:
        """FLOPs of a step."""
        return sum(part.work for part in self.parts)

    def seconds(self, speed: float) -> float:
        """How long a step takes at so many FLOPs a second, with its share of what is seen once."""
        return (self.work + self.once / self.steps) / speed


def flows(recipe: Recipe, means: Mapping[str, Mean]) -> tuple[Flow, ...]:
    """What a step takes from each source, whatever unit their shares are in."""
    stage, data = recipe.stage, recipe.data
    if not isinstance(data, Mixed):
        return (_flow(recipe, data.name, data.name, stage.tokens, 1.0, means[data.name]),)
    told = data.mixture()
    own = {name: each for name, each in told.sources.items() if each.weight}
    shares = {}
    for name, each in own.items():
        mean = means[name]
        size = Size(1.0, mean.tokens / (each.tokens or stage.tokens), mean.images, mean.learned).of(told.unit)
        if not size:
            raise ValueError(f"the source {name!r} cannot have a share of {told.unit}: a sample has none")
        shares[name] = each.weight / size
    total = sum(shares.values())
    return tuple(
        _flow(recipe, name, each.kind or name, each.tokens or stage.tokens, shares[name] / total, means[name])
        for name, each in own.items()
    )


def _flow(recipe: Recipe, name: str, kind: str, row: int, share: float, mean: Mean) -> Flow:
    samples = recipe.stage.batch * share
    return Flow(
        name,
        kind,
        samples,
        samples * mean.tokens / row,
        samples * mean.images,
        samples * mean.text,
        samples * mean.learned,
        samples * mean.tokens,
        samples * recipe.stage.steps / mean.samples,
        mean,
    )


def plan(recipe: Recipe, model: VLMConfig, means: Mapping[str, Mean], devices: int = 1) -> Plan:
    """The plan of a recipe for a model, from what its samples are in the mean. Memory is that of one of the devices."""
    taken = flows(recipe, means)
    costs = _Costs(model)
    found, once = parts(recipe.stage, model, taken, costs, devices)
    return Plan(taken, found, once, recipe.stage.steps)


class _Costs:
    """FLOPs of reading, once forward: of a picture by its grid, of a document by its length."""

    def __init__(self, config: VLMConfig) -> None:
        with without_memory():
            self.model = VLM(config)
        self.pictures: dict[tuple[int, int], dict[str, int]] = {}
        one, other = (self._language(length) for length in (SHORT, LONG))
        # Products grow with the length, attention with its square.
        self.square = (other / LONG - one / SHORT) / (LONG - SHORT)
        self.line = one / SHORT - self.square * SHORT
        # What a word of the vocabulary costs: each learned token is compared with all of them.
        self.head = 2 * config.language.width * config.language.vocabulary

    def _language(self, length: int) -> float:
        found = {part.name: part for part in counted(self.model, (), length, 1).parts}
        last = 2 * self.model.config.language.width * self.model.config.language.vocabulary
        return float(found["language"].prefill + found["fusion"].prefill - last)

    def picture(self, grid: tuple[int, int]) -> Mapping[str, int]:
        """Of a picture, for the tower and the connector."""
        if grid not in self.pictures:
            report = counted(self.model, [grid], 1, 1)
            self.pictures[grid] = {part.name: part.prefill for part in report.parts}
        return self.pictures[grid]

    def document(self, tokens: float) -> float:
        """Of a document in the decoder, without its head."""
        return self.line * tokens + self.square * tokens**2


def parts(
    stage: Stage, config: VLMConfig, taken: Sequence[Flow], costs: _Costs, devices: int = 1
) -> tuple[tuple[Part, ...], float]:
    """Memory and work of each part; and the FLOPs that the tower takes once for all pictures that are kept.

    Memory is that of one of so many devices, which share weights where the stage says `shard`; work is that of all.
    """
    with without_memory():
        model = VLM(config)
        adapt(model, stage)
    trained = freeze(model, stage)
    learns = {name: stage.learns(name) for name in PARTS}
    reached_by = {"vision": learns["vision"], "connector": learns["vision"] or learns["connector"]}
    reached_by["language"] = reached_by["fusion"] = any(learns.values())
    forward, units, once = _forward(stage, taken, costs, learns["vision"])
    kept = _kept(model, stage, taken)
    found = []
    for name in PARTS:
        parameters = dict(model.get_submodule(name).named_parameters(prefix=name))
        mine = sum(p.numel() for path, p in parameters.items() if path in trained)
        again = reached_by[name] * (1 + stage.checkpointing)
        adapted = sum(
            6 * p.numel() for path, p in parameters.items() if ".adapters." in path and p.ndim == 2 and path in trained
        )
        work = float(forward[name]) * (1 + again + (name in stage.train)) + adapted * units[name]
        if name == "language":
            learned = sum(flow.learned for flow in taken)
            work += costs.head * learned * (2 + ("language" in stage.train))
        weights = sum(_weights(model, name, stage, trained).values()) + _packed(model, name)
        found.append(Part(name, weights, WIDE * mine, 2 * WIDE * mine, kept[name], work, units[name]))
    if stage.shard and devices > 1:
        found = _spread(found, model, stage, trained, devices)
    return tuple(found), once


def _spread(found: Sequence[Part], model: VLM, stage: Stage, trained: Mapping[str, Tensor], devices: int) -> list[Part]:
    """The parts where devices hold a share each of weights, gradients and the optimizer's state; see `parallel.shard`.

    What is no layer is gathered for all of a pass, with its gradients, and layers when they are computed: the largest
    stands here for them, twice, because the next one is gathered before one is done.
    """
    sizes = {name: _weights(model, name, stage, trained) for name in PARTS}
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    each = {
        name: [[paths[id(p)] for p in layer.parameters()] for layer in some]
        for name, some in layers(model, stage).items()
    }
    largest = max(
        (sum(sizes[name][path] for path in layer), name, layer) for name, some in each.items() for layer in some
    )
    spread = []
    for part in found:
        own = sizes[part.name]
        if part.name == "vision" and not stage.learns("vision"):
            spread.append(part)  # whole everywhere
            continue
        rest = own.keys() - {path for layer in each[part.name] for path in layer}
        gathered = sum(own[path] for path in rest)
        summed = sum(WIDE * trained[path].numel() for path in rest & trained.keys())
        if part.name == largest[1]:
            gathered += 2 * largest[0]
            summed += sum(WIDE * trained[path].numel() for path in largest[2] if path in trained)
        spread.append(
            dataclasses.replace(
                part,
                weights=sum(own.values()) / devices + _packed(model, part.name) + gathered,
                gradients=part.gradients / devices + summed,
                optimizer=part.optimizer / devices,
            )
        )
    return spread


def _forward(
    stage: Stage, taken: Sequence[Flow], costs: _Costs, sees: bool
) -> tuple[dict[str, float], dict[str, float], float]:
    """FLOPs of reading a step once by part, what each part reads, and what a frozen tower does once over all steps."""
    forward, units, once = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0), 0.0
    for flow in taken:
        mean = flow.mean
        forward["language"] += flow.samples * costs.document(mean.tokens)
        units["language"] += flow.tokens
        if mean.grid is None:
            continue
        each = costs.picture(mean.grid)
        patches = flow.images * mean.grid[0] * mean.grid[1]
        if sees or mean.again:
            forward["vision"] += flow.images * each["vision"]
        else:
            shown = min(flow.samples * stage.steps, mean.samples) * mean.images
            once += shown * each["vision"]
        forward["connector"] += flow.images * each["connector"]
        units["vision"] += patches
        units["connector"] += patches
    return forward, units, once


def _weights(model: VLM, name: str, stage: Stage, trained: Mapping[str, Tensor]) -> dict[str, float]:
    """Bytes of a part's weights while training: frozen products of the decoder are held small, see `lowered`."""
    part = model.get_submodule(name)
    small = {
        f"{name}.{path}.weight"
        for path, module in part.named_modules()
        if isinstance(module, nn.Linear) and name in ("language", "fusion") and stage.precision == "bfloat16"
    }
    return {
        path: p.numel() * (NARROW if path in small and path not in trained else WIDE)
        for path, p in part.named_parameters(prefix=name)
    }


def _packed(model: VLM, name: str) -> float:
    """Bytes of a part's four-bit weights: each device holds all of them."""
    modules = model.get_submodule(name).modules()
    return float(sum(buffer.nbytes for module in modules if isinstance(module, NF4) for buffer in module.buffers()))


def _kept(model: VLM, stage: Stage, taken: Sequence[Flow]) -> dict[str, float]:
    """Bytes that each part keeps for gradients, in the pass that keeps most."""
    most = dict.fromkeys(PARTS, 0.0)
    for flow in taken:
        mean = flow.mean
        full = stage.tokens / mean.tokens  # documents of a pass
        patches = mean.images * mean.grid[0] * mean.grid[1] if mean.grid else 0.0
        if stage.patches and patches:
            full = min(full, stage.patches / patches)
        full = max(1.0, full)
        pictures = round(full * mean.images) if mean.grid else 0
        visual = sum(model.placeholders(torch.tensor([mean.grid]))) if pictures else 0
        # Of many pictures one is looked at, and the others are tokens alone: what they cost is the same.
        text = max(1, round(full * mean.tokens) - visual)
        found = saved(model, [mean.grid] if mean.grid and pictures else [], text)
        for name in PARTS:
            found[name] *= pictures if name in ("vision", "connector") else 1
            if stage.checkpointing:
                found[name] = _recomputed(model, name, found[name])
        most = max(most, found, key=lambda each: sum(each.values()))
    return most


def _recomputed(model: VLM, name: str, value: float) -> float:
    """With every layer made again: what goes into each of n layers, about a tenth of all, and all of one layer."""
    count = sum(layer in set(model.get_submodule(name).modules()) for layer in repeated(model))
    return value if count < 2 else value / count + value * INPUTS


INPUTS = 0.06
"""The share of what a layer keeps that is its input: one width of about sixteen."""


def saved(model: VLM, grids: Sequence[tuple[int, int]], text: int) -> dict[str, float]:
    """Bytes kept for gradients, by part, when a model without memory reads one document."""
    model.train()
    documents: Batch = example(model, grids, text, 1)
    held: dict[int, Tensor] = {}
    found = dict.fromkeys(PARTS, 0.0)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    with torch.enable_grad(), Meter(model, real=False) as meter:

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in held and storage._cdata not in weights:
                held[storage._cdata] = tensor  # kept alive, so that its place is not given to another
                found[meter.part] += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            last = torch.tensor([documents.tokens.shape[1] - 1])
            model(documents, rows=last)
    return found


def reached(device: torch.device, size: int = 1024, rounds: int = 8) -> float:
    """FLOPs a second that a device reaches in products of single precision: the best of a few short tries."""
    one = torch.rand(size, size, device=device)
    best = 0.0
    for _ in range(rounds):
        with timed(device) as seconds:
            one @ one
        best = max(best, 2 * size**3 / seconds[0])
    return best
