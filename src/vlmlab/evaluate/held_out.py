"""What a run is scored on: the held-out pictures of each of its sources whose pictures have titles."""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from vlmlab.batch import Batch, Message, Picture, Sample
from vlmlab.data.mixture import Mixture
from vlmlab.data.sources import PairSource
from vlmlab.evaluate import ten_way
from vlmlab.train.log import Meter
from vlmlab.train.loop import Watch
from vlmlab.train.prepare import Preparer
from vlmlab.train.run import Run


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Titled pictures of a source, and `others`, those that are trained on; of both, titles are what is learned."""

    samples: Preparer
    others: Preparer
    pictures: PairSource


def held_out(made: Run, split: str = "") -> dict[str, HeldOut]:
    """The held-out pictures of a recipe that is scored, by source: one, or those of a mixture that have titles.

    Of `split`, or of the recipe's. Empty where nothing is scored. Raises ValueError when there are none.
    """
    wanted = made.recipe.score
    if wanted is None:
        return {}
    stock = made.stock()
    titled = [name for name, shelf in stock.items() if isinstance(shelf.source, PairSource)]
    for name in wanted.sources:
        if name not in titled:
            known = ", ".join(titled) or "none"
            raise ValueError(f"score.sources names {name!r}; sources of titled pictures here: {known}")
    if not titled:
        told = ", ".join(map(repr, stock))
        which = f"{told} is none" if len(stock) == 1 else f"of {told} none is"
        raise ValueError(f"[score] needs a source of titled pictures; {which}: leave it out")
    return {name: _held_out(made, name, split or wanted.split) for name in wanted.sources or titled}


def _held_out(made: Run, name: str, split: str) -> HeldOut:
    config = made.source.config.sources[name].data if isinstance(made.source, Mixture) else made.recipe.data
    pictures = dataclasses.replace(config, split=split).build()
    assert isinstance(pictures, PairSource)
    trained = made.stock()[name].source

    def process(sample: Sample) -> Batch:
        return made.processor([titled(sample)], learn="answers")

    samples, others = (Preparer(made.model, process, each, made.frozen) for each in (pictures, trained))
    return HeldOut(samples, others, pictures)


def titled(sample: Sample) -> Sample:
    """A picture with its title as the answer; in a plain document that is what stands behind the picture.

    Whatever training learns of it, its title is what is scored.
    """
    if any(message.role in ("assistant", "continuation") for message in sample.messages):
        return sample
    *before, last = sample.messages
    shown = max((place for place, part in enumerate(last.parts, 1) if isinstance(part, Picture)), default=0)
    return Sample((*before, Message(last.role, last.parts[:shown]), Message("continuation", last.parts[shown:])))


def watch(made: Run) -> Watch | None:
    """Measures the losses of held-out pictures, where the recipe asks for that: of a mixture by source, and their mean.

    Raises what `held_out` raises.
    """
    wanted = made.recipe.score
    if wanted is None or not wanted.every:
        return None
    held = held_out(made, wanted.watched_split)

    def measure() -> Mapping[str, Any]:
        found = {
            name: ten_way.losses(made.model, each.samples, wanted.watched, made.recipe.seed)
            for name, each in held.items()
        }
        means = {key: round(statistics.fmean(each[key] for each in found.values()), 6) for key in ten_way.LOSSES}
        if not isinstance(made.source, Mixture):
            return means
        return means | {f"{key}_by_source": {name: each[key] for name, each in found.items()} for key in ten_way.LOSSES}

    return measure


def score(made: Run, held: HeldOut) -> ten_way.TenWay:
    """The ten-way score of a run's model on held-out pictures of one of its sources."""
    wanted = made.recipe.score
    assert wanted is not None
    count = min(wanted.pictures or len(held.samples), len(held.samples))
    with Meter("pictures", count) as meter:
        return ten_way.ten_way(
            made.model,
            held.samples.process,
            held.pictures,
            wanted,
            made.recipe.seed,
            held.samples,
            held.others,
            meter.advance,
        )
