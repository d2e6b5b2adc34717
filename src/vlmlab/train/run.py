"""A run: from a recipe to a folder that holds everything the recipe gave.

recipe.toml     the resolved recipe           metrics.jsonl, loss.svg   how the loss went
checkpoints/    to go on from                 model/                    the trained model, for `vlmlab ask`
samples.html    what the model was shown      adapter/                  what was learned, in PEFT's files
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from vlmlab.batch import Batch, Sample
from vlmlab.data.mixture import Mixture, measured, shares
from vlmlab.data.reading import Reader, Shelf, shelves
from vlmlab.data.sources import Source
from vlmlab.data.stream import Order
from vlmlab.hub import adapters, backbones
from vlmlab.hub.assemble import assemble, load_vision, take_language
from vlmlab.hub.backbones import get_nano
from vlmlab.hub.load import RECIPE as OWN
from vlmlab.hub.load import load, locate
from vlmlab.hub.save import save
from vlmlab.model.vlm import VLM
from vlmlab.processor.patches import normalise
from vlmlab.processor.processor import Encoded, Learn, Options, Processor
from vlmlab.train import checkpoint
from vlmlab.train.feed import Feed
from vlmlab.train.gallery import Gallery
from vlmlab.train.ledger import Event, Ledger
from vlmlab.train.loop import Watch, fit
from vlmlab.train.optimizer import adapt, freeze, whole
from vlmlab.train.origin import Origin
from vlmlab.train.parallel import ALONE, Team, sharded
from vlmlab.train.parallel import whole as gathered
from vlmlab.train.recipe import RESOLVED, Recipe, Start
from vlmlab.writing import write_text

MODEL, ADAPTER = "model", "adapter"
NANO = "nano"


@dataclasses.dataclass(frozen=True)
class Run:
    """A recipe made real: the model, its processor, and the source to learn from.

    A `gallery` keeps what a frozen tower sees beyond this run.
    """

    recipe: Recipe
    model: VLM
    processor: Processor
    source: Source
    gallery: Gallery | None = None

    def process(self, sample: Sample, learn: Learn | None = None) -> Batch:
        """One sample as a batch of one row with targets, as the recipe's stage learns where `learn` does not say."""
        return self.processor([sample], learn=learn or self.recipe.stage.learn)

    def stock(self) -> dict[str, Shelf]:
        """The sources by name, and how their samples are read."""
        stage = self.recipe.stage
        return shelves(self.source, self.recipe.data.name, stage.learn, stage.tokens)

    def encode(self, sample: Sample, learn: Learn, options: Options) -> Encoded:
        """One sample as token ids and patches."""
        return self.processor.encode(sample, learn=learn, options=options)

    @property
    def frozen(self) -> bool:
        """Whether the vision tower stays as it is, so that what it sees may be kept."""
        return not self.recipe.stage.learns("vision")

    def feed(self, known: Mapping[str, str] | None = None) -> tuple[Feed, Ledger]:
        """The stream of the recipe's samples, and the ledger of what it gives.

        `known` are the sources' shares of samples where they are known already; otherwise those of a mixture in
        another unit are found by measuring.
        """
        recipe, source, config = self.recipe, self.source, self.processor.config
        stage = recipe.stage
        stock = self.stock()
        reader = Reader(stock, self.encode, self.processor.image_id, recipe.seed)
        lengths = {name: len(shelf.source) for name, shelf in stock.items()}
        if isinstance(source, Mixture):
            drawn, told = _shares(source, recipe.seed, reader, known)
            order, asked = Order(recipe.seed, lengths, drawn), source.weights()
            ledger = Ledger(_floats(asked), source.config.unit, source.config.drift, stage.broken, told)
        else:
            order = Order(recipe.seed, lengths)
            ledger = Ledger(_floats(order.shares), "samples", 1.0, stage.broken)

        def normalised(patches: Sequence[Tensor]) -> Tensor:
            return normalise(list(patches), config.mean, config.std)

        feed = Feed(
            self.model,
            reader,
            order,
            normalised,
            stage.tokens,
            self.frozen,
            stage.workers,
            patches=stage.patches,
            gallery=self.gallery,
        )
        return feed, ledger


def _floats(shares: Mapping[str, Fraction]) -> dict[str, float]:
    return {name: float(share) for name, share in shares.items()}


def _shares(
    source: Mixture, seed: int, reader: Reader, known: Mapping[str, str] | None
) -> tuple[dict[str, Fraction], list[Event]]:
    """The share of samples of each source of a mixture, and what the log is told of how it was found."""
    if known is not None:
        return {name: Fraction(share) for name, share in known.items()}, []
    if source.config.unit == "samples":
        return source.weights(), []
    means = measured(source, seed, reader.size)
    found = shares(source, means)
    told = {
        "unit": source.config.unit,
        "probe": source.config.probe,
        "means": {name: {k: round(v, 3) for k, v in dataclasses.asdict(mean).items()} for name, mean in means.items()},
        "shares_of_samples": {name: round(float(share), 6) for name, share in found.items()},
    }
    return found, [("probe", told)]


def build(recipe: Recipe, device: str = "cpu") -> Run:
    """Make what a recipe describes. New weights are drawn from the recipe's seed.

    Raises ValueError when a folder is missing or does not fit the recipe.
    """
    source = recipe.data.build()
    torch.manual_seed(recipe.seed)
    start = recipe.start
    if start.model is not None:
        model, processor = load(start.model, dtype=torch.float32)
        if recipe.processor is not None:
            processor = _processor(recipe, model, processor.tokenizer)
    else:
        assert recipe.model is not None
        vision, language = _backbones(start)
        if language is not None and not (language / OWN).is_file():
            model, tokenizer = assemble(recipe.model, vision, language)
        else:
            model = VLM(recipe.model)
            tokenizer = _tokenizer(start) if language is None else take_language(model, language)
            if vision is not None:
                load_vision(model, recipe.model.vision, vision, torch.float32)
        _copy_rows(model, tokenizer, start)
        processor = _processor(recipe, model, tokenizer)
    adapt(model, recipe.stage)
    return Run(recipe, model.to(device), processor, source)


def train(
    run: Run,
    folder: Path,
    origin: Origin,
    resume: bool = False,
    watch: Watch | None = None,
    team: Team = ALONE,
    every: int | None = None,
    leave: bool = True,
) -> Run:
    """Train as the recipe says, in a folder made ready by `begin`, and leave the model there; see `fit`.

    `watch` is called every so many steps, by default those of the recipe's score. Without `leave` the model is only
    returned. Every process of a `team` calls this. Returns the run with the trained model whole, for the first of them.
    """
    recipe = run.recipe
    if every is None:
        every = 0 if recipe.score is None else recipe.score.every
    found = checkpoint.find(folder, team) if resume else checkpoint.NOTHING
    feed, ledger = run.feed(None if found.whole is None else found.whole.state()["stream"]["shares"])
    fit(run.model, feed, ledger, recipe.stage, recipe.seed, folder, origin, watch, every, found, team)
    if sharded(run.model):
        run = _together(run, team)
    if leave:
        team.led(lambda: _leave(run, folder, origin))
    return run


def _together(run: Run, team: Team) -> Run:
    """A run whose model is sharded, with a whole one in the first process: what learned is put into a new one."""
    whole = build(run.recipe, "cpu") if team.leads else run
    into = freeze(whole.model, run.recipe.stage) if team.leads else {}
    with torch.no_grad():
        for name, parameter in freeze(run.model, run.recipe.stage).items():
            found = gathered(parameter)
            if team.leads:
                into[name].copy_(found)
    return whole if not team.leads else dataclasses.replace(whole, model=whole.model.to(team.device))


def _leave(run: Run, folder: Path, origin: Origin) -> None:
    save(run.model, run.processor, folder / MODEL, {"made_by": origin.plain()})
    if run.recipe.stage.adapters:
        adapters.save(run.model, folder / ADAPTER, run.recipe.start.model, whole(run.model, run.recipe.stage))


def begin(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Make the run's folder and write the resolved recipe, or check that a run to resume is of the same recipe."""
    held, text = folder / RESOLVED, recipe.text()
    body = held.read_text(encoding="utf-8") if held.is_file() else ""
    before = checkpoint.latest(folder)
    if resume and before is None:
        raise ValueError(f"{folder} holds no checkpoint to resume from; leave --resume out to start")
    if resume and _without_comments(body) != text:
        odd = _first_difference(_without_comments(body), text)
        raise ValueError(f"{folder} was made by another recipe ({odd}): resume with {held}, or choose another --out")
    if not resume and before is not None:
        raise ValueError(
            f"{folder} holds a run at step {before.step}: add --resume to go on with it, or choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        origin = Origin.now(text, recipe.seed)
        head = f"# The resolved recipe of this run, every default written out.\n# {origin.line()}\n\n"
        write_text(held, head + text)


def device() -> str:
    """Where to compute: the first CUDA device, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _processor(recipe: Recipe, model: VLM, tokenizer: Tokenizer) -> Processor:
    assert recipe.processor is not None
    placeholders: Callable[..., list[int]] = model.placeholders
    return Processor(recipe.processor, tokenizer, placeholders, model.config.language.vocabulary)


def _backbones(start: Start) -> tuple[Path | None, Path | None]:
    """The folders of the tower and of the language model, where they are given."""
    nano = get_nano() if NANO in (start.vision, start.language) else None
    vision = nano.vision if nano is not None and start.vision == NANO else start.vision and _packaged(start.vision)
    language = (
        nano.language if nano is not None and start.language == NANO else start.language and _packaged(start.language)
    )
    return vision or None, language or None


def _packaged(name: str) -> Path:
    """The folder of a backbone: one here or on the hub, or else one that a package carries."""
    return locate(name) if Path(name).is_dir() or name not in backbones.packages() else backbones.get_backbone(name)


def _tokenizer(start: Start) -> Tokenizer:
    if start.tokenizer is None:
        raise ValueError("[start] names no language model: one that is drawn needs start.tokenizer, a tokenizer.json")
    path = Path(start.tokenizer)
    if not path.is_file():
        raise ValueError(f"start.tokenizer: no such file: {path}")
    return Tokenizer.from_file(str(path))


@torch.no_grad()
def _copy_rows(model: VLM, tokenizer: Tokenizer, start: Start) -> None:
    """Let tokens begin with the embeddings (and output rows) of others, as `start.copies` says."""
    for name, other in start.copies.items():
        ids = [tokenizer.token_to_id(token) for token in (name, other)]
        for token, number in zip((name, other), ids, strict=True):
            if number is None:
                raise ValueError(f"start.copies names {token!r}, which the tokenizer does not have")
        for module in model.language.modules():
            # The embedding and, where it is not the same, the head: one row for each token.
            if isinstance(module, nn.Embedding | nn.Linear) and len(module.weight) == model.config.language.vocabulary:
                module.weight[ids[0]] = module.weight[ids[1]]


def _without_comments(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines).strip() + "\n"


def _first_difference(old: str, new: str) -> str:
    """The first line in which two resolved recipes differ, with the table it stands in."""
    table, lines = "", (old.splitlines(), new.splitlines())
    for before, after in zip(*lines, strict=False):
        if before != after:
            return f"{table}{before!r} there, {after!r} here"
        if before.startswith("["):
            table = before + " "
    return "one is longer"
