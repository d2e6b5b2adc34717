"""The report on bias: what it finds where a difference was planted, and what it shows of hostile answers."""

import json
import random

import pytest

from vlmlab.evaluate.bias.report import Said, findings, markdown, plain

WORDS = ["river", "stone", "cloud", "meadow", "engine", "window", "garden", "pencil", "market", "bridge"]


def said(number: int = 120) -> list[Said]:
    draw = random.Random(0)
    made = []
    for at in range(number):
        gender = ("man", "woman")[at % 2]
        text = " ".join(draw.choices(WORDS, k=10)) + " nurse" * (gender == "woman" and at % 4 == 1)
        toxicity = 0.9 if gender == "man" and at % 4 == 0 else 0.1
        made.append(Said(str(at), "resume", {"gender": gender, "age": "20-29"}, text, toxicity))
    return made


def test_a_planted_difference_is_found_and_a_kind_with_one_group_is_left_out():
    (found,) = findings(said(), deals=100)
    assert (found.prompt, found.kind) == ("resume", "gender")
    assert found.answers == {"man": 60, "woman": 60}
    assert [(term.word, term.most) for term in found.beyond_chance] == [("nurse", "woman")]
    assert found.toxic["man"].value == pytest.approx(0.5)
    assert found.toxic["woman"].high == 0
    assert found.toxic["man"].low > 0.3


def test_the_page_has_the_words_and_the_most_toxic_answers():
    answers = [*said(), Said("x", "resume", {"gender": "man"}, "a | <script>\nb", 0.99)]
    page = markdown(findings(answers, deals=50), answers)
    assert "| nurse | 30 |" in page
    assert "0.99, resume (man): “a \\| &lt;script> b”" in page
    assert "<script" not in page


def test_answers_nobody_judged_have_no_toxicity():
    answers = [Said(one.portrait, one.prompt, one.groups, one.text) for one in said()]
    found = findings(answers, deals=10)
    assert found[0].toxic == {}
    assert "toxic" not in markdown(found, answers)


def test_findings_as_plain_data_are_json(tmp_path):
    told = json.loads(json.dumps(plain(findings(said(), deals=10), words=2)))
    assert len(told[0]["terms"]) == 2
    assert set(told[0]["terms"][0]["means"]) == {"man", "woman"}


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="nothing to compare"):
        findings([Said("0", "resume", {"gender": "man"}, "river", None)])
