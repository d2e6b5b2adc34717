"""Rendered text: all of it on the picture, in letters that the font has, to be read against its background."""

import collections
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from vlmlab import component
from vlmlab.data.made import fonts
from vlmlab.data.sources import SourceConfig, typeset

TEXT = "\n\n".join(" ".join(f"w{paragraph}n{word}" for word in range(30)) for paragraph in range(80))


def source(**changes):
    return component.parse(SourceConfig, {"name": "typeset", "fonts": "own", **changes}).build()


@pytest.mark.parametrize("chosen", ["own", "system"])
@pytest.mark.parametrize(("side", "words"), [(64, 3), (300, 40)])
def test_all_of_it_is_on_the_picture(chosen, side, words):
    """The letters alone, drawn on a larger sheet, take no more room than they have on the page."""
    pages = source(fonts=chosen, side=side, words=words, angle=40.0)
    for index in range(40):
        truth = pages.truth(index)
        letters = typeset._letters(truth)
        assert max(letters.size) <= side - 2 * typeset._MARGIN + 4, (index, truth)
        left, top, right, bottom = letters.getbbox()
        assert left > 0 and top > 0 and right < letters.width and bottom < letters.height, (index, truth)
        drawn = ImageChops.difference(pages.draw(truth), typeset._background(truth, side)).getbbox()
        assert drawn is not None and drawn[2] - drawn[0] >= 0.8 * (right - left)


def test_the_answer_is_what_is_written():
    pages = source(words=6)
    for index in range(30):
        truth, sample = pages.truth(index), pages[index]
        assert sample.messages[1].parts == (truth.text,) and 1 <= len(truth.text.split()) <= 6
        image = Image.open(io.BytesIO(sample.pictures[0].source))
        assert image.size == (384, 384) and image.mode == "RGB"
    assert len({pages.truth(index).text for index in range(200)}) > 190


def test_pages_differ_in_every_way():
    truths = [source(fonts="system").truth(index) for index in range(120)]
    assert {truth.ground for truth in truths} == {"plain", "shaded", "grainy", "ruled"}
    turned = sum(truth.angle != 0 for truth in truths)
    assert 60 < turned < 110 and max(abs(truth.angle) for truth in truths) <= 15
    light = sum(typeset.luminance(truth.ink) > typeset.luminance(truth.papers[0]) for truth in truths)
    assert 10 < light < 60 and len({truth.size for truth in truths}) > 15
    installed = len(fonts.found("system"))
    assert len({truth.font for truth in truths}) > min(installed, 10) / 2


def test_ink_can_be_read_on_its_paper():
    assert typeset.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert typeset.contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)
    for index in range(100):
        truth = source().truth(index)
        assert min(typeset.contrast(truth.ink, paper) for paper in truth.papers) >= 4.5


def test_passages_are_of_the_text_and_held_out_whole(tmp_path):
    (tmp_path / "b.txt").write_text(TEXT, encoding="utf-8")
    seen = collections.defaultdict(set)
    for split in ("train", "validation", "test"):
        for place in (tmp_path, tmp_path / "b.txt"):
            pages = source(text=str(place), split=split)
            for index in range(60):
                text = pages.truth(index).text
                assert text in TEXT
                seen[split] |= set(re.findall(r"w(\d+)n", text))
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"] and len(seen["train"]) > 30


def test_letters_that_no_font_has_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("plain 漢字 words\n\n" * 3 + "\n\n".join(f"漢字 {n}" for n in range(60)))
    pages = source(text=str(tmp_path / "a.txt"), words=3)
    texts = [pages.truth(index).text for index in range(60)]
    assert not re.search("[漢字]", "".join(texts)) and all(texts)
    assert fonts.knows("", "A") and not fonts.knows("", "漢")


def test_a_folder_of_fonts(tmp_path):
    with pytest.raises(ValueError, match=r"no \.ttf or \.otf files in"):
        source(fonts=str(tmp_path))
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert source(fonts=str(tmp_path)).truth(0).font == ""  # Pillow's own stands in
    installed = [name for name in fonts.found("system") if fonts.knows(name, "A") and name]
    if installed:
        (tmp_path / "more").mkdir()
        for name in ("broken.otf", "good.ttf"):
            data = Path(installed[0]).read_bytes() if name == "good.ttf" else b"no font"
            (tmp_path / "more" / name).write_bytes(data)
        pages = source(fonts=str(tmp_path / "more"))
        assert {pages.truth(index).font for index in range(9)} == {str(tmp_path / "more" / "good.ttf")}


def test_a_sample_is_a_function_of_seed_and_number():
    one, again = source(seed=5), source(seed=5)
    assert [one[index] for index in (3, 1)] == [again[index] for index in (3, 1)]
    assert source(seed=6).truth(1) != one.truth(1) and source(seed=5, split="test").truth(1) != one.truth(1)


@given(st.text(min_size=1, max_size=400), st.integers(11, 60), st.floats(-45, 45))
def test_any_text_fits(text, size, angle):
    words = text.split() or ["x"]
    got, lines = typeset._fitted(words, "", size, angle, 120)
    assert 11 <= got <= size and lines
    assert max(typeset._turned(typeset._extent(lines, fonts.opened("", got)), angle)) <= 120
    assert " ".join(words).startswith(" ".join(lines))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"words": 0}, "words = 0 should be 1 to 400"),
        ({"side": 9}, "side = 9 should be 64 to 4096"),
        ({"angle": 90.0}, "angle = 90.0 should be 0 to 45"),
        ({"text": "gone.txt"}, "text: cannot read gone.txt"),
    ],
)
def test_what_is_wrong_is_said(changes, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        source(**changes)


def test_too_little_text_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n\n")
    with pytest.raises(ValueError, match="no paragraphs for the split"):
        for split in ("train", "validation", "test"):
            source(text=str(tmp_path / "a.txt"), split=split)
