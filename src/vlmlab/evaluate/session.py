"""Benchmarks measured one after the other by one answerer, into one folder; what was answered is kept beside them."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vlmlab import component, media
from vlmlab.data.filters.decontaminate import Held
from vlmlab.evaluate import card, compare, contamination, metrics, suite
from vlmlab.evaluate.answering import Answerer, Writing, fingerprint
from vlmlab.evaluate.benchmarks import Benchmark, BenchmarkConfig
from vlmlab.evaluate.evaluation import Advance, Asking, Evaluation, Record, save, submission
from vlmlab.evaluate.figures import Clusters, Spread, spread
from vlmlab.evaluate.known import Known
from vlmlab.evaluate.pareto import Pareto, pareto
from vlmlab.evaluate.report import Shower, compared, report
from vlmlab.evaluate.summary import scores, shown
from vlmlab.train.log import Meter
from vlmlab.train.origin import Origin
from vlmlab.writing import write_text

ANSWERS, PAGE = "answers", "report.html"


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a benchmark is measured, where it differs from the benchmark's own way, and what is told of it.

    `variant` of the metric scores (empty: the benchmark's own); `variants` tells every one; `shown` questions stand on
    the page; `against` is a training corpus, a recipe or a source's name, in which the questions are looked for.
    """

    max_new_tokens: int | None = None
    split: bool | None = None
    longest: int | None = None
    variant: str = ""
    variants: bool = False
    shown: int = 300
    against: str = ""

    def writing(self, benchmark: Benchmark) -> Writing:
        """How the answers to a benchmark are written."""
        limit = benchmark.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        return Writing(limit, tuple(benchmark.stop), self.split, self.longest)


class Session:
    """An answerer, and the folder in which everything lands."""

    def __init__(self, answerer: Answerer, out: Path, console: Console | None = None) -> None:
        self.answerer, self.out = answerer, out
        self.console = console or Console()
        self.found: dict[tuple[str, str], contamination.Found] = {}

    def evaluate(self, label: str, config: BenchmarkConfig, manner: Manner) -> Evaluation:
        """Measure one benchmark. Raises ValueError naming what cannot be read or asked."""
        benchmark: Benchmark = config.build()
        writing = manner.writing(benchmark)
        variant = manner.variant or benchmark.variant
        metrics.get(benchmark.metric, variant)
        with Meter(f"{label}: read", len(benchmark)) as meter:
            asking = Asking(benchmark, self.answerer, writing, meter.advance)
        place = self.out / ANSWERS / f"{fingerprint(self.answerer.identity())[:16]}.jsonl"
        with Known(place) as known:
            if known.unread:
                self._say(f"{place}: {known.unread} lines cannot be read: what they held is asked again")
            missing = len(asking.missing(known))
            with Meter(f"{label}: answered", len(asking.asked), len(asking.asked) - missing) as meter:
                asking.answer(known, _paced(meter))
            records = asking.records(known, variant)
        made_by = Origin.now(component.write_toml({label: component.plain(config)}), 0).plain()
        told = card.card(label, benchmark, self.answerer, writing, records, variant, manner.variants, made_by)
        if manner.against:
            told["contamination"] = self._contamination(label, benchmark, manner.against, variant, records)
        found = Evaluation(tuple(records), told)
        self._write(label, benchmark, found, manner.shown)
        return found

    def measure(self, label: str, config: BenchmarkConfig, draws: int, manner: Manner) -> list[Evaluation]:
        """Measure one benchmark, with so many draws of examples, and print what it came to."""
        found = [self.evaluate(name, each, manner) for name, each in suite.draws(label, config, draws).items()]
        for each in found:
            self._tell(each)
        if draws > 1:
            self._tell_spread(label, found)
        return found

    def pareto(self, label: str, config: BenchmarkConfig, sides: Sequence[int], tell: float, shown: int) -> Pareto:
        """Measure one benchmark at several resolutions, whole and split; without `sides` at the model's own, and less.

        Raises ValueError for a model whose resolution cannot be chosen.
        """
        own = self.answerer.facts().get("images", {}).get("longest")
        if own is None:
            raise ValueError(f"{self.answerer.name}: the resolution at which it reads pictures cannot be chosen here")
        chosen = sorted(set(sides or (own, own // 2, own // 4)))
        if chosen[0] < 1:
            raise ValueError(f"--longest must be 1 or more, not {chosen[0]}")
        found = {}
        for side in chosen:
            for split in (False, True):
                name = f"{label}-{side}-{'split' if split else 'whole'}"
                found[side, split] = self.evaluate(name, config, Manner(split=split, longest=side, shown=shown))
        told = pareto(found, tell)
        self._write_pareto(label, config, told, shown)
        return told

    def _write_pareto(self, label: str, config: BenchmarkConfig, found: Pareto, shown: int) -> None:
        title = f"{self.answerer.name} on {label}"
        made_by = Origin.now(component.write_toml({label: component.plain(config)}), 0)
        figures = {"made_by": made_by.plain(), **found.plain()}
        write_text(self.out / f"{label}-pareto.json", json.dumps(figures, indent=1) + "\n")
        write_text(self.out / f"{label}-pareto.svg", found.picture(title, made_by.line()))
        side = max(found.splits)
        page = compared(found.splits[side], Shower(config.build(), media.fetch), shown, made_by.line())
        write_text(self.out / f"{label}-split.html", page)
        self._say(title)
        table = Table(box=None, padding=(0, 1))
        for name in ("longest side", "visual tokens", "score", "seconds", ""):
            table.add_column(name)
        for row in found.rows():
            table.add_row(*row)
        self.console.print(table)
        for each, comparison in found.splits.items():
            self._say(f"  {each} pixels, split - whole = {compare.told(comparison.total)}")
        self._say(f"  {len(found.need_splitting())} questions need splitting; {self.out / label}-split.html shows them")

    def _contamination(
        self, label: str, benchmark: Benchmark, against: str, variant: str, records: list[Record]
    ) -> dict[str, Any]:
        """What a card says of it; the same questions are looked for once, however often they are asked."""
        key = against, fingerprint([record.question for record in records])
        if key not in self.found:
            corpus = contamination.corpus(against)
            with Meter(f"{label}: looked for in {against}", len(corpus)) as meter:
                held = Held(contamination.samples(benchmark))
                self.found[key] = contamination.search(held, corpus, meter.advance)
        return contamination.told(self.found[key], against, records, (benchmark.metric, variant))

    def _write(self, label: str, benchmark: Benchmark, found: Evaluation, shown: int) -> None:
        folder = self.out / label
        save(folder, found)
        write_text(folder / "card.md", card.markdown(found.card))
        made_by = Origin(**found.card["made_by"]).line()
        write_text(folder / PAGE, report(found, Shower(benchmark, media.fetch), shown, made_by))
        told, missing = submission(benchmark, found.records)
        if told:
            write_text(folder / f"submission{benchmark.submission_ending}", told)
        elif "score" not in found.card:
            self._say(f"{label}: no submission is written: {missing}")

    def _tell(self, found: Evaluation) -> None:
        told = found.card
        score = shown(card.estimate(told["score"])) if "score" in told else "scored elsewhere"
        self._say(f"{found.name}: {score}")
        table = Table(show_header=False, box=None, padding=(0, 2))
        for name, each in told.get("kinds", {}).items():
            table.add_row(name, shown(card.estimate(each)), f"{each['questions']} questions")
        for name, each in told.get("variants", {}).items():
            table.add_row(f"by {name}", shown(card.estimate(each)), "")
        table.add_row("questions", str(told["questions"]), f"{told['seconds']:.1f} s to answer")
        self.console.print(table)
        for warning in card.warnings(told):
            self._say(f"  mind: {warning}")
        self._say(f"  {self.out / told['label'] / PAGE} shows the answers")

    def _tell_spread(self, label: str, found: list[Evaluation]) -> None:
        if not all("score" in each.card for each in found):
            return
        told = spread([scores(each.records, each.metric) for each in found], Clusters.of(found[0].records))
        write_text(self.out / f"{label}-draws.json", json.dumps(dataclasses.asdict(told), indent=1) + "\n")
        self._say(f"{label}, {draws_line(told)}")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _paced(meter: Meter) -> Advance:
    """Counts on a meter's bar, with the rate beside it: lines that are printed elsewhere have it already."""
    begun = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        rate = done / max(time.monotonic() - begun, 1e-9)
        meter.advance(count, f"{rate:.1f}/s" if meter.console.is_terminal else "")

    return advance


def draws_line(found: Spread) -> str:
    """How draws of examples differ, beside what questions alone would make them differ by."""
    each = ", ".join(f"{value:.1f}" for value in found.each)
    return (
        f"{len(found.each)} draws: {shown(found.value)} ({each}); standard deviation over draws {found.between:.2f}, "
        f"standard error over questions {found.within:.2f}"
    )
