"""Every metric equals the official code it is held to, by what that code gave, and keeps its bounds."""

import dataclasses
import json

import jaxtyping
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate import goldens
from vlmlab import component
from vlmlab.evaluate import metrics, options, ptb
from vlmlab.evaluate.bootstrap import ratio
from vlmlab.evaluate.edits import edits
from vlmlab.evaluate.metrics import MetricConfig, Reference, mathvista, mmbench, vqa

ALL = [(name, variant) for name in component.plugins(MetricConfig) for variant in metrics.get(name).variants]
SIMPLE = ("vqa", "anls", "exact", "relaxed", "cider")


def reference(row: dict) -> Reference:
    choices = tuple(row.get("choices", ()))
    kind = "" if choices else row.get("kind", "")
    return Reference(tuple(row["answers"]), choices, kind, row.get("precision"), row.get("group", ""))


def scored(name: str, variant: str, rows: list[dict]) -> list[metrics.Score]:
    return metrics.get(name, variant).score([row["said"] for row in rows], [reference(row) for row in rows])


@pytest.mark.parametrize(("name", "variant"), [pair for pair in ALL if pair[0] in SIMPLE])
def test_scores_are_those_of_the_official_code(name, variant):
    rows = goldens.rows(name)
    column = {("exact", "official"): None, ("cider", "lmms-eval"): "official", ("cider", "m4"): "official"}
    oracle = column.get((name, variant), variant)
    if oracle is None:
        return  # letter by letter: no code is official
    scale = 10 if name == "cider" else 1
    for row, score in zip(rows, scored(name, variant, rows), strict=True):
        assert score.value * scale == pytest.approx(row[oracle], abs=1e-9), row


@pytest.mark.parametrize("variant", ["official", "lmms-eval-textvqa", "vlmevalkit"])
def test_answers_are_normalised_as_officially(variant):
    rows = goldens.rows("vqa_normalise")
    scores = metrics.get("vqa", variant).score([row["text"] for row in rows], [Reference(("a", "b"))] * len(rows))
    assert [score.parsed for score in scores] == [row[variant] for row in rows]


def test_the_contractions_that_are_mended():
    assert vqa.normalise("dont somebody'd couldnt've yallll twas") == "don't somebodyd couldn't've yallll 'twas"
    assert vqa.normalise("The dog's, a man.") == "dog's man"


@pytest.mark.parametrize("variant", ["official", "lmms-eval", "vlmevalkit", "m4"])
def test_mmmu_reads_what_the_official_code_reads(variant):
    rows = [row for row in goldens.rows("mmmu") if row[variant] is not None]
    nothing = {"official": "?", "lmms-eval": "?", "vlmevalkit": "Z"}
    for row, score in zip(rows, scored("mmmu", variant, rows), strict=True):
        if row["choices"] and variant != "m4":
            assert (score.parsed or nothing[variant]) == row[variant], row
        else:
            assert score.value == row[variant], row


def test_a_guess_of_mmmu_counts_with_its_mean():
    asked = Reference(("B",), ("red", "green", "blue", "grey"))
    score = metrics.get("mmmu").score(["I do not know"], [asked])[0]
    assert (score.value, score.parsed, score.found) == (0.25, "", False)
    assert metrics.get("mmmu", "vlmevalkit").score(["I do not know"], [asked])[0].value == 0


@pytest.mark.parametrize("variant", ["official", "lmms-eval", "vlmevalkit"])
def test_mathvista_scores_as_the_official_code_without_a_judge(variant):
    rows = goldens.rows("mathvista")
    for row, score in zip(rows, scored("mathvista", variant, rows), strict=True):
        assert score.value == row[variant], row
        if variant == "official":
            assert score.parsed == (row["parsed"] or ""), row
            assert score.found == bool(row["extracted"]), row


@pytest.mark.parametrize(
    ("said", "asked", "read"),
    [
        ("The number missing in the sequence is 14.", Reference(("14",), kind="integer"), "14"),
        ("It costs $1,450 in all", Reference(("1450",), kind="integer"), "1450"),
        ("The fraction is 0.6, six out of ten", Reference(("0.6",), kind="float", precision=1.0), "0.6"),
        ("so 0.6", Reference(("0.6",), kind="float", precision=1.0), "0.6"),
        ("It peaked in [2007, 2008].", Reference(("[2007,2008]",), kind="list"), "[2007, 2008]"),
        ("The correct answer is (B) 8/11.", Reference(("8/11",), ("3/11", "8/11", "6/11")), "8/11"),
        ("I think that it must be 6/11", Reference(("6/11",), ("3/11", "8/11", "6/11")), "6/11"),
        ("dark blue, I would say", Reference(("dark blue",), ("blue", "dark blue")), "dark blue"),
        ("A or B", Reference(("x",), ("x", "y")), ""),
        ("The answer is a dog", Reference(("a dog",), ("a cat", "a dog")), "a dog"),
        ("A dog is what I see", Reference(("dog",), ("cat", "dog")), "dog"),
        ("So the answer would be B", Reference(("y",), ("x", "y")), "y"),
        ("no idea", Reference(("3",), kind="integer"), ""),
    ],
)
def test_our_rules_read_prose(said, asked, read):
    score = metrics.get("mathvista", "rules").score([said], [asked])[0]
    if read:
        assert (score.parsed, score.value, score.found) == (read, 1, True)
    else:
        assert score.value == 0


def test_official_mathvista_takes_the_nearest_option_for_an_unread_answer():
    asked = Reference(("yes",), ("certainly", "yes", "maybe"))
    score = metrics.get("mathvista").score(["It is so."], [asked])[0]
    assert (score.value, score.parsed, score.found) == (1, "yes", False)
    assert mathvista.typed("maybee", asked) == "maybe" and mathvista.typed("(a)", asked) == "certainly"


@pytest.mark.parametrize("variant", ["official", "vlmevalkit", "lmms-eval", "vanilla"])
def test_mmbench_is_circular_as_officially(variant):
    rows = goldens.rows("mmbench")
    oracle = "official" if variant == "vlmevalkit" else variant
    scores = scored("mmbench", variant, rows)
    assert [score.value for score in scores] == [row[oracle] for row in rows]
    if variant == "official":
        groups = {row["group"]: row["official"] for row in rows}
        assert mmbench.mean(scores, [reference(row) for row in rows]) == pytest.approx(
            sum(groups.values()) / len(groups)
        )


def test_the_letter_that_lmms_eval_reads():
    for row in goldens.rows("letter"):
        assert options.lmms_letter(row["said"], list("ABCD")) == row["lmms-eval"], row


# Signs without a space between them that the rules cut elsewhere than the Java program; none is in a caption of people.
GLUED = {"555-12341/2 **", "(555)@home ‘so’e.g.", "J.K.it’s@home;. Smith's"}


def test_the_words_of_a_caption_are_those_of_the_java_program():
    rows = goldens.rows("ptb")
    assert {row["text"] for row in rows if " ".join(ptb.words(row["text"])) != row["words"]} == GLUED
    assert len(rows) > 4000


@given(st.text())
def test_any_text_has_words(text):
    for word in ptb.words(text):
        assert word and not any(letter.isspace() for letter in word)
    assert ptb.words(text + " ") == ptb.words(text) == ptb.words(" " + text)


@given(st.text(alphabet="abc "), st.text(alphabet="abc "), st.text(alphabet="abc "))
def test_edits_are_a_distance(one, other, third):
    assert edits(one, other) == edits(other, one) <= max(len(one), len(other))
    assert (edits(one, other) == 0) == (one == other)
    assert edits(one, third) <= edits(one, other) + edits(other, third)


@given(st.text(max_size=90), st.text(max_size=90))
def test_edits_are_those_of_the_table(said, answer):
    row = list(range(len(answer) + 1))
    for number, letter in enumerate(said, 1):
        before, row[0] = row[0], number
        for at, other in enumerate(answer, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (letter != other))
    assert edits(said, answer) == row[-1]


TEXT = st.one_of(st.text(max_size=20), st.sampled_from(["A", "(B)", "yes", "3.", "the dog", "10%", "1,5", ""]))


def asked(name: str, texts: list[str]) -> Reference:
    """A reference that the metric takes, from a few texts."""
    if name == "mmmu":
        return Reference(("B",), tuple(texts))
    if name == "mmbench":
        return Reference(("B",), tuple(texts), group="1")
    if name == "mathvista":
        return Reference((texts[0],), tuple(texts))
    return Reference(tuple(texts))


@pytest.mark.parametrize(("name", "variant"), ALL)
@given(said=st.lists(TEXT, min_size=1, max_size=4), texts=st.lists(TEXT, min_size=2, max_size=6))
def test_scores_lie_between_0_and_1_and_are_the_same_again(name, variant, said, texts):
    metric, references = metrics.get(name, variant), [asked(name, texts)] * len(said)
    scores = metric.score(said, references)
    assert all(0 <= score.value <= 1 for score in scores) and len(scores) == len(said)
    assert metric.score(said, references) == scores


@pytest.mark.parametrize(("name", "variant"), [pair for pair in ALL if pair[0] in ("vqa", "anls", "exact", "relaxed")])
@given(said=TEXT, texts=st.lists(TEXT, min_size=1, max_size=10), order=st.randoms(use_true_random=False))
def test_the_order_of_the_answers_does_not_matter(name, variant, said, texts, order):
    if name == "relaxed" and variant in ("lmms-eval", "m4"):
        return  # only the first answer, or the first number, counts
    mixed = order.sample(texts, len(texts))
    one, other = (metrics.get(name, variant).score([said], [Reference(tuple(t))])[0] for t in (texts, mixed))
    assert one.value == pytest.approx(other.value, abs=1e-12)


@given(st.lists(TEXT, min_size=2, max_size=6, unique=True), st.data())
def test_captions_are_scored_as_a_set_in_any_order(texts, data):
    references = [Reference((text, "a dog on a bike")) for text in texts]
    places = data.draw(st.permutations(range(len(texts))))
    score = metrics.get("cider").score
    straight, mixed = score(texts, references), score([texts[at] for at in places], [references[at] for at in places])
    assert [straight[at].value for at in places] == pytest.approx([one.value for one in mixed], abs=1e-12)


COLOURS = ("red", "green", "dark blue", "grey")
RIGHT = {
    "vqa": ("two dogs", Reference(("2 dogs",) * 6 + ("dogs",) * 4)),
    "anls": ("March 4", Reference(("march 4", "4 March"))),
    "exact": ("yes", Reference(("no", "yes"))),
    "relaxed": ("14", Reference(("14",))),
    "mmmu": ("(B)", Reference(("B",), COLOURS)),
    "mathvista": ("green", Reference(("green",), COLOURS)),
    "mmbench": ("B", Reference(("B",), COLOURS, group="1")),
    "cider": ("a dog rides a bike", Reference(("a dog rides a bike",))),
}
GUESSES = {("mmmu", "official"): 0.25, ("mmmu", "lmms-eval"): 0.25}


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_the_right_answer_scores_1_and_none_scores_0(name, variant):
    said, asked = RIGHT[name]
    company = Reference(("a cat sleeps on the bed",)) if name == "cider" else dataclasses.replace(asked, group="2")
    right, none = metrics.get(name, variant).score([said, ""], [asked, company])
    assert right.value == pytest.approx(1)
    assert none.value == GUESSES.get((name, variant), 0)
    assert none.found == (name in ("vqa", "anls", "exact", "relaxed") or (name, variant) == ("mmmu", "m4"))


def test_a_caption_like_all_its_references_has_the_most():
    references = [Reference((text,) * 5) for text in ("a dog rides a bike", "two cats sleep on a bed", "a red kite")]
    scores = metrics.get("cider").score([one.answers[0] for one in references], references)
    assert scores[0].value == pytest.approx(1) and scores[1].value == pytest.approx(1)
    assert scores[2].value == pytest.approx(0.75)  # it has no four words
    assert metrics.get("cider").published == 1000
    assert metrics.get("cider").score([], []) == []


@pytest.mark.parametrize("name", component.plugins(MetricConfig))
def test_a_metric_is_one_line_of_a_recipe(name):
    config = component.parse(MetricConfig, {"name": name})
    assert component.plain(config) == {"name": name, "variant": "official"}
    metric = config.build()
    assert next(iter(metric.variants)) == "official" and all(one.differs for one in metric.variants.values())
    with pytest.raises(ValueError, match="has no variant 'offical'; it has official"):
        metrics.get(name, "offical")


def test_variants_stand_side_by_side_and_can_be_told_apart():
    said, asked = ["March 4.", "yes"], [Reference(("March 4",)), Reference(("yes",))]
    found = metrics.side_by_side("anls", said, asked)
    assert {name: scores[0].value for name, scores in found.items()} == {
        "official": 0.875,
        "lmms-eval": 0.875,
        "vlmevalkit": 0.875,
        "m4": 1.0,
    }
    differences = [a.value - b.value for a, b in zip(found["m4"], found["official"], strict=True)]
    assert ratio(differences).value == pytest.approx(0.0625)


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        ("vqa", Reference(()), "question 1 has no answer"),
        ("cider", Reference(()), "question 1 has no answer"),
        ("mmmu", Reference(("E",), ("red", "blue")), "question 1: the answer 'E' is none of the options A, B"),
        ("mathvista", Reference(("green",), ("red", "blue")), "question 1: the answer 'green' is none of the choices"),
        ("mathvista", Reference(("3",), kind="number"), "question 1: kind should be one of integer, float, list"),
        ("mathvista", Reference(("3.5",), kind="float"), "question 1: a float needs its precision"),
        ("mmbench", Reference(("A",), (), group="1"), "question 1: the answer 'A' is none of no options"),
        ("mmbench", Reference(("A",), ("red", "blue")), "question 1 has no group"),
    ],
)
def test_a_corrupt_reference_is_named(name, asked, told):
    good = {
        "mmmu": Reference(("A",), ("red", "blue")),
        "mmbench": Reference(("A",), ("red", "blue"), group="1"),
        "mathvista": Reference(("red",), ("red", "blue")),
    }.get(name, Reference(("yes",)))
    with pytest.raises(ValueError, match=told):
        metrics.get(name).score(["A", "A"], [good, asked])


def test_what_does_not_fit_together_is_named():
    with pytest.raises(ValueError, match="2 answers to 1 questions"):
        metrics.get("vqa").score(["a", "b"], [Reference(("a",))])
    # Where annotations are checked, as here, their check comes first.
    for wrong in ({"answers": "yes"}, {"answers": ["yes"]}, {"answers": ("yes",), "choices": (1, 2)}):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=list(wrong)[-1]):
            Reference(**wrong)
    with pytest.raises(ValueError, match="no metrics plug-in called 'vqaa'; did you mean 'vqa'"):
        metrics.get("vqaa")


def test_goldens_say_what_made_them():
    for path in goldens.FOLDER.glob("*.jsonl"):
        header = json.loads(path.read_text(encoding="utf-8").split("\n", 1)[0])
        assert header["command"].startswith("python scripts/goldens/") and all(header["oracles"])
        assert path.stat().st_size < 400_000
