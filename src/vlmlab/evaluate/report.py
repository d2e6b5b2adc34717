"""Pages to look through an evaluation, or two: each question with its picture, what was answered, what was read in it.

The filters (wrong only, one kind, those on which two differ most first) need no script.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import PIL.Image

from vlmlab.batch import Picture
from vlmlab.data.page import data_url, escape, page
from vlmlab.evaluate.benchmarks import Benchmark
from vlmlab.evaluate.card import estimate, rows, warnings
from vlmlab.evaluate.compare import Comparison, told
from vlmlab.evaluate.evaluation import Evaluation, Record
from vlmlab.evaluate.summary import shown
from vlmlab.processor.decode import Fetch, open_picture

SIDE = 320
"""Of a picture on the page, in pixels along its longer side."""

STYLE = """
.questions { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 16px; margin-top: 14px; }
.questions .card { margin: 0; padding: 14px 16px; content-visibility: auto; contain-intrinsic-size: 320px 420px; }
.shots { display: flex; flex-wrap: wrap; gap: 6px; } .shots img { max-height: 220px; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; } .asked { font-weight: 600; margin: 10px 0 6px; }
.mark { font-weight: 600; color: var(--learned-text); } .wrong .mark.of { color: var(--wrong); }
.mind { color: var(--wrong); } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; }
table { border-collapse: collapse; font-size: 14px; } td { padding: 3px 18px 3px 0; vertical-align: top; }
td:first-child { color: var(--quiet); white-space: nowrap; } dl { margin: 6px 0; } dt { color: var(--quiet);
  font-size: 12px; } dd { margin: 0 0 4px; overflow-wrap: anywhere; }
label { margin: 0 14px 0 3px; font-size: 14px; }
#wrong:checked ~ .questions .card.right { display: none; }
#apart:checked ~ .questions .card { order: var(--apart); }
"""

Show = Callable[[int, Record], Sequence[PIL.Image.Image]]
"""The small pictures of a question, by its number."""


@dataclasses.dataclass(frozen=True)
class Shower:
    """Opens the pictures of a benchmark again for a page; none where its files have gone, or are others.

    They have `side` pixels along the longer side, at most.
    """

    benchmark: Benchmark | None
    fetch: Fetch | None = None
    side: int = SIDE

    def __call__(self, number: int, record: Record) -> list[PIL.Image.Image]:
        """The pictures of question `number`, small."""
        if self.benchmark is None or not record.pictures:
            return []
        try:
            question = self.benchmark.question(number)
            return [self._small(picture) for picture in question.pictures] if question.id == record.id else []
        except (ValueError, OSError, IndexError):
            return []

    def _small(self, picture: Picture) -> PIL.Image.Image:
        image = open_picture(picture, self.fetch)
        image.thumbnail((self.side, self.side))
        return image


def report(evaluation: Evaluation, show: Show, count: int, made_by: str) -> str:
    """The page of one evaluation, with `count` of its questions: two thirds of them wrong ones, where there are."""
    records = evaluation.records
    wrong = [at for at, record in enumerate(records) if _wrong(record)]
    right = [at for at, record in enumerate(records) if not _wrong(record)]
    most = min(len(wrong), max(count - len(right), count - count // 3))
    chosen = sorted(_spread(wrong, most) + _spread(right, count - most))
    kinds = _kinds([records[at] for at in chosen])
    cards = [_question(records[at], show(at, records[at]), kinds) for at in chosen]
    lead = f"{len(records)} questions, of which {len(chosen)} are shown; "
    if "score" in evaluation.card:
        told = f"{len(wrong)} of all are not wholly right."
        lead = f"{shown(estimate(evaluation.card['score']))}. {lead}{told}"
    else:
        lead += "the right answers are not published."
    body = [_summary(evaluation.card), _filters(kinds), f'<div class="questions">{"".join(cards)}</div>']
    return page(evaluation.name, lead, "\n".join(body), made_by, STYLE + _kind_style(kinds))


def compared(comparison: Comparison, show: Show, count: int, made_by: str) -> str:
    """The page of two evaluations, with the `count` questions on which they differ most; spread evenly where equal."""
    order = sorted(range(len(comparison.pairs)), key=lambda at: (-abs(comparison.pairs[at].apart), at))
    chosen = sorted(order[:count])
    rank = {at: place for place, at in enumerate(order)}
    pairs = comparison.pairs
    kinds = _kinds([pairs[at].first for at in chosen])
    cards = []
    for at in chosen:
        first, second = pairs[at].first, pairs[at].second
        answers = _answer("A", first) + _answer("B", second)
        wrong = _wrong(first) or _wrong(second)
        shots = show(at, first)
        cards.append(_card(first, shots, answers, wrong, kinds, f' style="--apart: {rank[at]}"'))
    facts = [("A", comparison.first.name), ("B", comparison.second.name), ("B - A", told(comparison.total))]
    facts += [(name, told(each)) for name, each in comparison.kinds.items()]
    for name, each in (("A", comparison.first), ("B", comparison.second)):
        facts += [(f"{name}: {key}", value) for key, value in rows(each.card) if key in _TOLD]
    body = [
        f'<section class="card">{_table(facts)}</section>',
        '<input type="checkbox" id="apart" checked><label for="apart">largest disagreement first</label>',
        _filters(kinds),
        f'<div class="questions">{"".join(cards)}</div>',
    ]
    lead = f"{len(pairs)} questions that both were asked; the {len(chosen)} on which they differ most are shown."
    return page("B against A", lead, "\n".join(body), made_by, STYLE + _kind_style(kinds))


_TOLD = ("benchmark", "weights", "served", "dtype", "splitting", "longest side", "visual tokens a question")


def _wrong(record: Record) -> bool:
    return record.score is not None and record.score < 1


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """`count` of some numbers, evenly spread over them."""
    count = max(0, min(count, len(numbers)))
    return [numbers[at * len(numbers) // count] for at in range(count)]


def _kinds(records: Sequence[Record]) -> dict[str, int]:
    names = list(dict.fromkeys(record.kind for record in records))
    return {name: at for at, name in enumerate(names)} if len(names) > 1 else {}


def _kind_style(kinds: Mapping[str, int]) -> str:
    return "".join(
        f"#kind-{at}:checked ~ .questions .card:not(.kind-{at}) {{ display: none; }}\n" for at in kinds.values()
    )


def _filters(kinds: Mapping[str, int]) -> str:
    told = ['<input type="checkbox" id="wrong"><label for="wrong">wrong only</label>']
    if kinds:
        told.append('<input type="radio" name="kind" id="kind-all" checked><label for="kind-all">all kinds</label>')
    for name, at in kinds.items():
        label = escape(name or "(no kind)")
        told.append(f'<input type="radio" name="kind" id="kind-{at}"><label for="kind-{at}">{label}</label>')
    return "\n".join(told)


def _summary(card: Mapping[str, Any]) -> str:
    minds = "".join(f'<p class="mind">{escape(warning)}</p>' for warning in warnings(card))
    facts = [(f"kind {name}", f"{shown(estimate(each))} ({each['questions']})") for name, each in _of(card, "kinds")]
    facts += [(f"by {name}", shown(estimate(each))) for name, each in _of(card, "variants")]
    return (
        f'<section class="card">{minds}{_table([*facts, *rows(card)])}<details><summary>a prompt as it was asked'
        f"</summary><pre>{escape(card['prompt'])}</pre></details></section>"
    )


def _of(card: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    return list(card.get(name, {}).items())


def _table(facts: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts)
    return f"<table>{lines}</table>"


def _question(record: Record, shots: Sequence[PIL.Image.Image], kinds: Mapping[str, int]) -> str:
    return _card(record, shots, _answer("", record), _wrong(record), kinds)


def _card(
    record: Record,
    shots: Sequence[PIL.Image.Image],
    answers: str,
    wrong: bool,
    kinds: Mapping[str, int],
    more: str = "",
) -> str:
    pictures = "".join(f'<img src="{data_url(shot, lossless=False)}" alt="">' for shot in shots)
    missing = "" if shots or not record.pictures else f'<p class="note">{len(record.pictures)} pictures, not here</p>'
    classes = f"card {'wrong' if wrong else 'right'}" + (f" kind-{kinds[record.kind]}" if kinds else "")
    reference = record.reference
    listed = "".join(f"<dd>{escape(letter)}. {escape(text)}</dd>" for letter, text in reference.options.items())
    choices = f"<dt>choices</dt>{listed}" if listed else ""
    counted: dict[str, int] = {}
    for text in reference.answers:
        counted[text] = counted.get(text, 0) + 1
    known = " · ".join(f"{text} ×{times}" if times > 1 else text for text, times in counted.items()) or "not published"
    facts = " · ".join([record.id, *([record.kind] if record.kind else [])])
    return (
        f'<section class="{classes}"{more}><div class="shots">{pictures}</div>{missing}'
        f'<p class="asked said">{escape(record.text)}</p>{answers}<dl>{choices}<dt>right</dt><dd>{escape(known)}</dd>'
        f'</dl><p class="note">{escape(facts)}</p></section>\n'
    )


def _answer(name: str, record: Record) -> str:
    score = "not scored" if record.score is None else f"{record.score:.2f}"
    kind = "mark of" if _wrong(record) else "mark"
    who = f"{name}: " if name else ""
    if record.error:
        said = f'<p class="mind">{escape(who + record.error)}</p>'
    else:
        said = f'<p class="said">{escape(who)}“{escape(record.answer)}”</p>'
    read = record.parsed if record.found else f"{record.parsed} (fell back)"
    visual = "" if record.visual_tokens is None else f" · {record.visual_tokens} visual tokens"
    facts = escape(f"read: {read} · ended by {record.reason or 'an error'}{visual} · {record.seconds:.2f} s")
    return f'{said}<p class="note"><span class="{kind}">{score}</span> · {facts}</p>'
