"""What a step computes: the gradients of the mean loss over what is learned in it, pass by pass, process by process."""

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.nn import functional as F

from vlmlab.model.vlm import VLM
from vlmlab.train import parallel
from vlmlab.train.feed import Feed, Piece
from vlmlab.train.noise import Place, drawn, noised, seeded
from vlmlab.train.objectives import Objective
from vlmlab.train.pace import Work
from vlmlab.train.parallel import ALONE, Team
from vlmlab.train.prepare import join
from vlmlab.train.recipe import Stage


@dataclasses.dataclass
class Step:
    """What a step has done: sums over its passes so far.

    `loss` is in nats, over `learned` tokens; `sources` and `kinds` part both by where samples came from. `odd` names
    samples whose loss is not finite.
    """

    loss: float = 0.0
    learned: int = 0
    samples: int = 0
    tokens: int = 0
    images: int = 0
    patches: int = 0
    padding: int = 0
    flops: int = 0
    norm: float = 0.0
    rate: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    sources: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    kinds: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    odd: list[str] = dataclasses.field(default_factory=list)

    @staticmethod
    def sum(steps: Iterable["Step"]) -> "Step":
        """What several processes have done together."""
        total = Step()
        for step in steps:
            for name in ("loss", "learned", "samples", "tokens", "images", "patches", "padding", "flops"):
                setattr(total, name, getattr(total, name) + getattr(step, name))
            for part, value in step.parts.items():
                total.parts[part] = total.parts.get(part, 0.0) + value
            for parted, found in ((total.sources, step.sources), (total.kinds, step.kinds)):
                for name, (loss, count) in found.items():
                    before, tokens = parted.get(name, (0.0, 0))
                    parted[name] = (before + loss, tokens + count)
            total.odd += step.odd
        return total

    @property
    def mean(self) -> float:
        """The loss in nats per learned token."""
        return self.loss / self.learned


def accumulate(
    model: VLM,
    feed: Feed,
    parts: Iterable[Sequence[Piece]],
    stage: Stage,
    objective: Objective,
    seed: int = 0,
    team: Team = ALONE,
) -> Step:
    """Gradients of the mean loss over some windows, one window in memory at a time, pass by pass.

    The mean is over all that is learned in all windows, which is known only at their end: until then gradients are
    those of the sum over a constant. Stops at the first loss that is not finite. Of a team, each process has windows of
    its own, and gets the gradients, and the account, of all.
    """
    done = Step()

    def well() -> bool:
        return math.isfinite(done.loss)

    passes, work = _passes(feed, parts, stage, objective, done), Work(stage.mfu)
    spread = parallel.sharded(model)
    for some in team.in_step(passes, well) if spread else passes:
        with work.counted():
            _pass(model, feed, some, stage, objective, seed, done)
        if not spread and not well():
            break
    done.flops = work.flops
    done = done if team.alone else Step.sum(Step(**told) for told in team.gather(dataclasses.asdict(done)))
    if not well():
        return done
    if not done.learned:
        raise ValueError("nothing in this step's samples is learned: they need answers (or stage.learn = everything)")
    if not spread:
        team.add_up([p for p in model.parameters() if p.requires_grad])
    elif not done.images:
        _forget_pictures(model)
    if stage.together != stage.batch:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(stage.batch / done.learned)
    return done


def _passes(
    feed: Feed, parts: Iterable[Sequence[Piece]], stage: Stage, objective: Objective, done: Step
) -> Iterator[tuple[list[Piece], int]]:
    """What is computed together, with the constant its sum is divided by; what is in it is added to `done`."""
    for pieces in parts:
        passes = feed.passes(pieces)
        weights = [objective.weight(join([feed.prepare(p, pixels=False) for p in some])[0]) for some in passes]
        # Of one window the weight is known before. (Dividing once, by that, also spares a rounding.)
        divisor = sum(weights) if stage.together == stage.batch else stage.batch
        for some, weight in zip(passes, weights, strict=True):
            done.tokens += sum(piece.length for piece in some)
            done.samples += sum(piece.number == 0 for piece in some)
            if weight:
                done.learned += weight
                yield some, divisor


def _forget_pictures(model: VLM) -> None:
    """Leave what reads pictures as it is in a step without any, as one process does, which has no gradients there."""
    for name in ("vision", "connector"):
        for parameter in model.get_submodule(name).parameters():
            parameter.grad = None


def _pass(
    model: VLM,
    feed: Feed,
    some: tuple[list[Piece], int] | None,
    stage: Stage,
    objective: Objective,
    seed: int,
    done: Step,
) -> None:
    """Forward and back over some pieces laid end to end; what it gave is added to `done`.

    None is a pass in which nothing is learned, for company; see `parallel.idle`.
    """
    pieces, divisor = some or ([], 1)
    prepared = [feed.prepare(piece) for piece in pieces]
    grids = [p.images.grid for p in prepared if p.images is not None]
    done.images += sum(len(grid) for grid in grids)
    done.patches += sum(int(grid.prod(-1).sum()) for grid in grids)
    if parallel.sharded(model) and all(p.images is None for p in prepared):
        prepared.append(parallel.idle(model, feed.frozen))
    batch, features = join(prepared)
    done.padding += batch.tokens.numel() - sum(piece.length for piece in pieces)
    batch = batch.to(model.device, model.dtype)
    known = None if features is None else features.to(model.device, model.dtype)
    if not pieces:
        with autocast(model, stage):
            nothing = model(batch, then=lambda hidden, head: head(hidden[0, :1]).sum(), features=known)
        (nothing * 0).backward()
        return
    noise = None
    if stage.noise:
        stand = [Place(piece.draw, piece.number, piece.length) for piece in pieces]
        noise = drawn(stand, model.config.language.width, stage.noise, seed)
        noise = F.pad(noise, (0, 0, 0, batch.tokens.numel() - len(noise)))
    if any(config.dropout for config in stage.adapters.values()):
        seeded(Place(pieces[0].draw, pieces[0].number, pieces[0].length), seed)
    with autocast(model, stage), noised(model, noise):
        loss = objective(model, batch, known)
        summed = loss.each.sum()
    if summed.requires_grad:  # a text alone teaches a connector nothing
        (summed / divisor).backward()
    done.loss += float(summed.detach())
    for name, value in loss.parts.items():
        done.parts[name] = done.parts.get(name, 0.0) + value
    numbers = loss.segments.cpu() - 1
    sums = torch.zeros(len(pieces), dtype=torch.float64).index_add(0, numbers, loss.each.detach().cpu().double())
    counts = numbers.bincount(minlength=len(pieces))
    for piece, value, count in zip(pieces, sums.tolist(), counts.tolist(), strict=True):
        for parted, name in ((done.sources, piece.draw.source), (done.kinds, piece.kind)):
            before, tokens = parted.get(name, (0.0, 0))
            parted[name] = (before + value, tokens + count)
        if not math.isfinite(value):
            done.odd.append(str(piece.draw))


def autocast(model: VLM, stage: Stage) -> contextlib.AbstractContextManager[None]:
    """On CUDA, what learns is computed in bfloat16 too; on a CPU the products of frozen parts are what takes time."""
    if stage.precision == "float32" or model.device.type != "cuda":
        return contextlib.nullcontext()
    return torch.autocast("cuda", torch.bfloat16)
