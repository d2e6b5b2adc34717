"""Sums on pictures: right, read off, and held out by what is written."""

import collections
import operator
import re

import pytest
from PIL import Image, ImageChops

from vlmlab import component
from vlmlab.data.made.lettering import missing, own_font
from vlmlab.data.sources import SourceConfig

SIGNS = {"+": operator.add, "-": operator.sub, "x": operator.mul, "/": operator.truediv}


def source(**changes):
    return component.parse(SourceConfig, {"name": "arithmetic", **changes}).build()


@pytest.mark.parametrize("digits", [2, 4])
def test_the_results_are_right(digits):
    sums, seen = source(digits=digits), collections.Counter()
    for index in range(500):
        truth = sums.truth(index)
        assert SIGNS[truth.sign](truth.first, truth.second) == truth.result >= 0
        wanted = str(truth.result) if truth.question.kind == "result" else f"{truth.first} {truth.sign} {truth.second}"
        assert truth.question.answer == wanted
        seen[truth.sign, truth.question.kind] += 1
    assert len(seen) == 8 and min(seen.values()) > 30


def test_no_held_out_sum_is_trained_on():
    written = {split: {source(split=split).truth(i).written for i in range(1500)} for split in ("train", "test")}
    assert not written["train"] & written["test"] and min(map(len, written.values())) > 400
    assert not {source(split="validation").truth(i).written for i in range(300)} & (written["train"] | written["test"])


def inked(image: Image.Image) -> tuple[int, int, int, int]:
    """The box around what is written."""
    return ImageChops.difference(image, Image.new("RGB", image.size, image.getpixel((0, 0)))).getbbox()


def test_it_is_all_on_the_picture():
    for side in (112, 224):
        sums = source(side=side, digits=6)
        for index in range(60):
            truth = sums.truth(index)
            left, top, right, bottom = inked(sums.draw(truth))
            assert left > 0 and top > 0 and right < side and bottom < side, (index, truth.written)
            assert right - left > 0.2 * side or truth.stacked


def test_every_sign_has_its_letter():
    assert missing("0123456789 +-x/=", own_font(20)) == "" and missing("1 × 2÷", own_font(20)) == "×÷"


def test_each_sum_looks_its_own():
    sums = source()
    truths = [sums.truth(index) for index in range(40)]
    assert len({sums.draw(truth).tobytes() for truth in truths}) == 40
    assert sums[3] == source()[3] and source(seed=1).truth(3) != truths[3]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"digits": 1}, "digits = 1 should be 2 to 6"),
        ({"side": 10}, "side = 10 should be 112 to 4096"),
        ({"kinds": []}, "one each at least"),
        ({"operations": ["power"]}, "'power' is not one of 'add'"),
    ],
)
def test_what_is_wrong_is_said(changes, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        source(**changes)
