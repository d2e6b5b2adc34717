"""`vlmlab study`: what the paper's ablations ask, asked here, with a card that says what may be concluded."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vlmlab.commands import Device, Overrides, Stopped, best_device

Study = Annotated[Positional[Path], arg(metavar="STUDY")]


def study(
    what: Study,
    overrides: Overrides,
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("docs/decisions"),
    runs: Annotated[Path, arg(metavar="FOLDER")] = Path("runs/studies"),
    workers: int = 1,
    ray: bool = False,
    arm: Annotated[str, arg(metavar="ARM", help_behavior_hint="(default: all)")] = "",
    seed: int = -1,
    card: bool = False,
    commands: bool = False,
    device: Device = "",
) -> None:
    """Carry out a study: a base recipe, what is varied, seeds; and write its decision card.

    What is done is skipped, and what was stopped goes on, so the same command can be given again. It stops before its
    budget is exceeded, and says so on the card.

    Examples:
      vlmlab study studies/perceiver-depth.toml
      vlmlab study studies/perceiver-depth.toml budget=5 base.stage.steps=20 --out cards
      vlmlab study studies/full/perceiver-depth.toml --commands

    Args:
        what: The study, a TOML file.
        overrides: Keys of the study to change, and after `base.` those of every arm's recipe.
        out: Where the card goes.
        runs: Where the runs go.
        workers: How many runs at once, each a process of its own, on one CUDA device each where there are some.
        ray: Give the runs to the Ray cluster that RAY_ADDRESS names, or to one of its own: one accelerator each.
        arm: Only runs of this arm, and no card.
        seed: Only runs of this seed, and no card.
        card: Only write the card of the runs that are there.
        commands: Print a command for each run, and do nothing.
        device: Where to compute.
    """
    from vlmlab.study import plan as plans
    from vlmlab.study import side_by_side
    from vlmlab.study import study as studies
    from vlmlab.train.loop import Interrupted

    plan = plans.load(what, overrides)
    if commands:
        print("\n".join(studies.commands(plan, what, overrides, runs)))
        return
    if workers < 1:
        raise ValueError("--workers must be 1 or more")
    device = device or best_device()
    try:
        if arm or seed >= 0:
            studies.some(plan, runs, device, arm, seed)
            return
        if not card and (workers > 1 or ray):
            side_by_side.carry_out(plan, what, overrides, runs, workers, ray)
        made = studies.carry_out(plan, runs, out, device, go_on=not card and workers == 1 and not ray)
    except Interrupted as stop:
        raise Stopped(128 + stop.signal, f"{stop}. The same command goes on") from None
    print(f"{out / (made.name + '.md')}: {made.verdict}" + (f" ({made.why})" if made.why else ""))
    if made.stopped:
        raise Stopped(3, f"the budget ended: {made.stopped}. Give more, for example budget={2 * plan.study.budget:g}")
