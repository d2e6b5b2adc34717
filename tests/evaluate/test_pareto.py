"""Scores against visual tokens: the frontier, the best way for each question, and which questions need splitting."""

import xml.etree.ElementTree

import pytest

from evaluate.questions import record
from evaluate.test_report import evaluation
from vlmlab.evaluate.pareto import pareto


def ways():
    """Question 0 is always right, 1 needs size, 2 needs splitting, 3 is never right; 4 is lost by splitting."""
    right = {
        (10, False): [1, 0, 0, 0, 1],
        (10, True): [1, 0, 1, 0, 0],
        (20, False): [1, 1, 0, 0, 1],
        (20, True): [1, 1, 1, 0, 0],
    }
    cost = {(10, False): 2, (10, True): 10, (20, False): 8, (20, True): 40}
    return {
        way: evaluation([record(n, float(score), visual_tokens=cost[way]) for n, score in enumerate(scores)])
        for way, scores in right.items()
    }


def test_the_frontier_is_what_nothing_cheaper_beats():
    found = pareto(ways())
    assert [point.name for point in found.frontier()] == ["10", "20"]
    assert [(point.tokens, point.score.value) for point in found.points] == [(2, 40), (10, 40), (8, 60), (40, 60)]
    assert [row[0] for row in found.rows()] == ["10", "20", "10 split", "20 split", "best of each"]
    assert [row[-1] for row in found.rows()] == ["frontier"] * 2 + [""] * 2 + ["a bound"]


def test_the_best_way_for_each_question_is_a_bound():
    found = pareto(ways())
    assert found.chosen.value == 80
    assert found.chosen_tokens == pytest.approx((2 + 8 + 10 + 2 + 2) / 5)


def test_the_questions_that_need_splitting_are_named():
    found = pareto(ways())
    assert found.need_splitting() == ["2"]
    assert (found.splits[20].total.wins, found.splits[20].total.losses) == (1, 1)
    assert set(found.plain()["splitting"]) == {"10", "20"}


def test_the_picture_has_a_line_for_each_way_to_read_with_its_intervals():
    text = pareto(ways()).picture("<title>", "a & b")
    root = xml.etree.ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    labels = [node.text for node in root.iter(f"{space}text")]
    assert labels.count("10 px") == labels.count("20 px") == 2 and "<title>" in labels
    assert len(list(root.iter(f"{space}circle"))) == 5 and len(list(root.iter(f"{space}path"))) == 3 + 4


def test_visual_tokens_must_be_known():
    unknown = {(10, False): evaluation([record(0, visual_tokens=None)])}
    with pytest.raises(ValueError, match="visual tokens"):
        pareto(unknown)
