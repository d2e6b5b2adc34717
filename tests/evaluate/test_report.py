"""Cards and pages of evaluations: what they say, what they warn of, and that nothing in an answer becomes a tag."""

import html.parser
import re

import PIL.Image
import pytest

from evaluate.questions import record
from vlmlab.evaluate import card as cards
from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.evaluate.compare import compare
from vlmlab.evaluate.evaluation import Evaluation
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.report import compared, report
from vlmlab.evaluate.summary import shares, summary

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\x00</pre>|`\n# no heading'
EXACT = "exact", "official"


def evaluation(records, name="m", **changes):
    found = summary(records, EXACT, variants=True)
    told = {
        "label": "own",
        "questions": len(records),
        "metric": {"name": "exact", "variant": "official", "times": 100.0},
        "benchmark": {"name": "own", "path": "x"},
        "model": {"name": name, "weights": "abc", "dtype": "F32"},
        "writing": {"max_new_tokens": 8, "stop": ["User"], "split": True},
        "decoding": "greedy",
        "prompt": records[0].prompt,
        "shares": vars(shares(records)),
        "visual_tokens": 3.0,
        "seconds": 1.0,
        "score": vars(found.score),
        "kinds": {kind: {"questions": count, **vars(each)} for kind, (count, each) in found.kinds.items()},
        "variants": {variant: vars(each) for variant, each in found.variants.items()},
        "apart": list(found.apart),
        "versions": {"vlmlab": "0"},
        "made_by": {"command": "x"},
    }
    return Evaluation(tuple(records), {**told, **changes})


class Tags(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.attributes += [name for name, _ in attributes]


def nothing(number, one):
    return []


def test_a_hostile_answer_is_text():
    words = {name: HOSTILE for name in ("id", "kind", "text", "prompt", "answer", "parsed", "reason")}
    reference = Reference((HOSTILE,), (HOSTILE, "b"))
    bad = record(0, 0.0, **words, reference=reference)
    records = [bad, record(1), record(2, 0.0, error=HOSTILE)]
    found = evaluation(records, name=HOSTILE)
    pages = [
        report(found, nothing, 10, HOSTILE),
        compared(compare(found, found), nothing, 10, HOSTILE),
    ]
    for page in pages:
        tags = Tags(page)
        assert "script" not in tags.found and "img" not in tags.found
        assert not [name for name in tags.attributes if name.startswith("on") or name == "href"]
        assert "&lt;script&gt;" in page and "\x00" not in page
        assert not re.search(r"(?:src|href|url)\s*[=(]\s*['\"]?(?:https?:)?//", page)
    told = cards.markdown(found.card)
    outside = "\n".join(line for line in told.splitlines() if not line.startswith("    "))  # the rest is shown as code
    assert "<script>" not in outside and "<img" not in outside
    assert [line for line in told.splitlines() if line.startswith("# ")] == told.splitlines()[:1]


def test_filters_name_every_question():
    records = [record(n, float(n % 3 > 0), kind="ab"[n % 2]) for n in range(12)]
    page = report(evaluation(records), nothing, 100, "me")
    assert page.count('class="card right kind-0"') == 4 and page.count('class="card wrong kind-1"') == 2
    assert "#kind-1:checked ~ .questions .card:not(.kind-1) { display: none; }" in page
    assert '<input type="checkbox" id="wrong">' in page and page.index('id="wrong"') < page.index('class="questions"')
    assert 'id="kind-0"><label for="kind-0">a<' in page


def test_a_page_shows_wrong_ones_first_and_so_many():
    records = [record(n, float(n >= 30)) for n in range(100)]
    page = report(evaluation(records), nothing, 30, "me")
    assert page.count('class="card wrong"') == 20 and page.count('class="card right"') == 10
    assert "100 questions, of which 30 are shown; 30 of all are not wholly right." in page
    few = [record(n, float(n > 0)) for n in range(100)]
    page = report(evaluation(few), nothing, 30, "me")
    assert page.count('class="card wrong"') == 1 and page.count('class="card right"') == 29


def test_answers_that_are_scored_elsewhere_are_not_called_wrong():
    records = [record(n, float(n)) for n in range(2)]
    found = evaluation(records)
    unscored = Evaluation(
        tuple(record(n, None) for n in range(2)), {k: v for k, v in found.card.items() if k != "score"}
    )
    page = report(unscored, nothing, 5, "me")
    assert 'class="card wrong"' not in page and "the right answers are not published" in page and "not scored" in page
    assert "scored elsewhere: see the submission" in cards.markdown(unscored.card)


def test_pictures_stand_in_the_page():
    image = PIL.Image.new("RGB", (4, 4))
    page = report(evaluation([record(0, pictures=("a", "b"))]), lambda number, one: [image, image], 5, "me")
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert "2 pictures, not here" in report(evaluation([record(0, pictures=("a", "b"))]), nothing, 5, "me")


def test_the_largest_disagreement_comes_first():
    first = [record(n, score) for n, score in enumerate([1.0, 1.0, 0.0, 0.5])]
    second = [record(n, score) for n, score in enumerate([1.0, 0.0, 0.2, 0.5])]
    found = compare(evaluation(first, "one"), evaluation(second, "two"))
    page = compared(found, nothing, 2, "me")
    assert re.findall(r"--apart: (\d+)", page.split('class="questions"')[1]) == ["0", "1"]
    assert "What is 1?" in page and "What is 2?" in page and "What is 3?" not in page
    line = found.line()
    assert line.startswith("B - A = -20.0 [") and "wins 1, losses 1, ties 2; to tell 0.5 you need" in line
    assert "one on own" in page and "two on own" in page


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda records: records[:2], "2 stand in one of the two only"),
        (lambda records: [*records[:2], record(7)], "2, 7 stand in one"),
        (lambda records: [*records[:2], record(2, question="other")], "the words, pictures or answers of 2"),
    ],
)
def test_other_questions_are_not_compared(change, told):
    records = [record(n) for n in range(3)]
    with pytest.raises(ValueError, match=told):
        compare(evaluation(records), evaluation(change(records)))
    other = evaluation(records, metric={"name": "exact", "variant": "lmms-eval", "times": 100.0})
    with pytest.raises(ValueError, match="different metrics: exact, official and exact, lmms-eval"):
        compare(evaluation(records), other)


def test_kinds_are_compared_too():
    first = [record(n, 0.0, kind="ab"[n % 2]) for n in range(8)]
    second = [record(n, float(n % 2), kind="ab"[n % 2]) for n in range(8)]
    found = compare(evaluation(first), evaluation(second))
    assert {name: each.value.value for name, each in found.kinds.items()} == {"a": 0.0, "b": 100.0}
    assert found.plain()["kinds"]["b"]["wins"] == 4


def test_variants_that_differ_by_more_than_the_interval_are_warned_of():
    records = [record(n, float(n % 2), answer=str(n) if n % 2 else f"{n}.") for n in range(40)]
    found = summary(records, EXACT, variants=True)
    assert found.score.value == 50 and found.variants["lmms-eval"].value == 100 and found.apart == ("lmms-eval",)
    (warning,) = cards.warnings(evaluation(records).card)
    assert "harnesses disagree by more than the interval: official 50.0 [" in warning and "lmms-eval 100.0" in warning
    same = [record(n, 1.0) for n in range(40)]
    assert summary(same, EXACT, variants=True).apart == () and cards.warnings(evaluation(same).card) == []


def test_answers_of_no_use_are_counted():
    records = [
        record(0, answer="  "),
        record(1, found=False),
        record(2, answer="I'm sorry, but I cannot see the picture."),
        record(3, answer="As an AI model I"),
        record(4, answer="I can't help with that"),
        record(5, answer="Sorry sight", reason="length"),
        record(6, answer="", error="busy"),
        record(7, answer="I cant"),
        record(8, answer="a sorry dog"),
        record(9, answer="icing"),
    ]
    found = shares(records)
    assert vars(found) == {"fallback": 0.1, "empty": 0.2, "refused": 0.5, "cut": 0.1, "errors": 0.1}
    told = cards.warnings(evaluation(records).card)
    assert any("10.0% of the questions got an error" in line for line in told)
    assert any("50.0% of the answers refuse" in line for line in told)


def test_a_card_says_how_it_was_measured():
    told = cards.markdown(evaluation([record(n, float(n > 0)) for n in range(4)]).card)
    for line in (
        "| splitting | on |",
        "| stops at | 'User' |",
        "| longest answer | 8 tokens |",
        "| weights | abc |",
        "| dtype | F32 |",
        "| visual tokens a question | 3.0 |",
        "| contamination | not checked (--against names the training corpus) |",
        "    User: What is 0?",
    ):
        assert line in told.splitlines(), line
    assert "**75.0 [" in told and "exact (official) × 100, 95 % interval, 4 questions." in told
    assert cards.estimate({"value": 1.0, "low": 0.0, "high": 2.0}) == Estimate(1.0, 0.0, 2.0)


def test_scores_by_kind_have_intervals_of_their_own():
    records = [record(n, float(n % 2), kind="ab"[n % 2]) for n in range(20)]
    found = summary(records, EXACT)
    assert {name: (count, each.value) for name, (count, each) in found.kinds.items()} == {"a": (10, 0), "b": (10, 100)}
    assert summary([record(n) for n in range(4)], EXACT).kinds == {}
    with pytest.raises(ValueError, match="question 1 has no score"):
        summary([record(0), record(1, None)], EXACT)
