"""A sheet for people to check a filter by: of some samples drawn by seed, what it drops, and what it only just keeps.

The paper's authors looked at 5,000 pictures before and after their filter (section 4.1). Pictures are blurred until one
points at them; each can be ticked, and how many are is counted, without any script.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

from vlmlab.batch import Picture
from vlmlab.data.filters import Filter, Judged, Judging
from vlmlab.data.page import data_url, escape, page
from vlmlab.data.sources import Source
from vlmlab.processor.decode import open_picture

_SHOWN = 180  # pixels along the longer side

STYLE = """
.sheet { counter-reset: marked; }
.shots { display: flex; flex-wrap: wrap; gap: 12px; margin: 12px 0; }
.shot { width: 184px; font-size: 12px; color: var(--quiet); overflow-wrap: anywhere; }
.shot .clip { display: block; overflow: hidden; border-radius: 6px; margin-bottom: 4px; }
.shot img { filter: blur(16px); }
.shot .clip:hover img, #bare:checked ~ .sheet img { filter: none; }
.shot.words { width: 380px; color: var(--text); }
.shot input:checked { counter-increment: marked; }
.marked::after { content: counter(marked); font-weight: 600; }
"""


@dataclasses.dataclass(frozen=True)
class Found:
    """A part of a sample as a filter judged it."""

    index: int
    judged: Judged


@dataclasses.dataclass(frozen=True)
class Review:
    """What a filter made of `looked` of `samples` samples.

    `dropped` and `kept` are parts, the worst first; `samples_dropped` counts samples, `unreadable` those that could not
    be judged.
    """

    samples: int
    looked: int
    samples_dropped: int
    unreadable: int
    dropped: tuple[Found, ...]
    kept: tuple[Found, ...]

    def line(self) -> str:
        """The figures in one line."""
        share = self.samples_dropped / max(1, self.looked)
        broken = f", {self.unreadable} cannot be read" if self.unreadable else ""
        return f"{self.samples_dropped} of {self.looked} samples dropped ({share:.1%}){broken}"


def judging(name: str, built: Filter) -> Judging:
    """A filter that gives scores. Raises ValueError for one that does not."""
    if not isinstance(built, Judging):
        raise ValueError(f"the filter {name!r} gives no scores to sort by: its drops are listed by vlmlab data filter")
    return built


def review(
    source: Source,
    rule: Judging,
    count: int,
    seed: int = 0,
    advance: Callable[[int], None] = lambda done: None,
) -> Review:
    """Judge `count` samples drawn by seed (all, where there are fewer) with a filter that was prepared."""
    indices = sorted(random.Random(seed).sample(range(len(source)), min(count, len(source))))
    found: list[Found] = []
    dropped: set[int] = set()
    broken = 0
    for index in indices:
        try:
            judged = rule.judge(source[index])
        except (ValueError, OSError):
            broken += 1
        else:
            found += [Found(index, each) for each in judged]
            dropped.update(index for each in judged if each.score > rule.most)
        advance(1)
    found.sort(key=lambda each: (-each.judged.score, each.index))
    worst = sum(each.judged.score > rule.most for each in found)
    return Review(len(source), len(indices), len(dropped), broken, tuple(found[:worst]), tuple(found[worst:]))


def sheet(title: str, found: Review, most: float, kept: int, made_by: str) -> str:
    """The page: all that was dropped, and the `kept` parts that came closest to it."""
    closest = found.kept[:kept]
    switch = '<input type="checkbox" id="bare"><label for="bare"> show pictures sharp</label>'
    sections = [
        _section(f"Dropped: {len(found.dropped)}", "score above", most, found.dropped, "wrongly dropped"),
        _section(f"Kept, closest: {len(closest)} of {len(found.kept)}", "up to", most, closest, "wrongly kept"),
    ]
    lead = f"{found.line()}. Tick what is wrong; the tally stands below each sheet."
    return page(title, lead, "\n".join([switch, *sections]), made_by, STYLE)


def _section(heading: str, how: str, most: float, shown: Sequence[Found], wrong: str) -> str:
    shots = "".join(_shot(each) for each in shown)
    return (
        f'<section class="card sheet"><h2>{escape(heading)} <small>{escape(how)} {most:.4g}</small></h2>'
        f'<div class="shots">{shots}</div><p>Ticked as {escape(wrong)}: <span class="marked"></span> of '
        f"{len(shown)}</p>"
        "</section>"
    )


def _shot(found: Found) -> str:
    part, score = found.judged.part, found.judged.score
    told = f"{score:.4g} · sample {found.index}"
    if isinstance(part, str):
        text = escape(part[:600] + ("…" if len(part) > 600 else ""))
        return f'<label class="shot words"><input type="checkbox"> {told}<br>{text}</label>'
    small = open_picture(part)
    small.thumbnail((_SHOWN, _SHOWN))
    return (
        f'<label class="shot"><span class="clip"><img src="{data_url(small, lossless=False)}" alt=""></span>'
        f'<input type="checkbox"> {told}<br>{escape(_short(part))}</label>'
    )


def _short(picture: Picture) -> str:
    return picture.name if len(picture.name) <= 80 else "…" + picture.name[-79:]
