"""The sheet shows what a filter drops and what comes closest, blurred, each countable; and asks nobody for anything."""

import re

import pytest
from PIL import Image

from data.test_filters import Listed, made, sample
from data.test_look import Checker
from vlmlab.batch import Picture
from vlmlab.data.filters import Judged, Judging
from vlmlab.data.review import judging, review, sheet


class Brightness(Judging):
    """Scores a picture by its shade."""

    kind = "bright"
    most = 0.5

    def judge(self, one):
        return [Judged(picture, picture.source.getpixel((0, 0)) / 255) for picture in one.pictures]


def shaded(number):
    return Picture(Image.new("L", (300, 200), number), f"<shade {number}>")


SOURCE = Listed(*(sample("x", shaded(number)) for number in range(0, 250, 5)), ValueError("cut short"))


def test_the_worst_come_first():
    done = []
    found = review(SOURCE, Brightness(), 100, advance=done.append)
    assert (found.samples, found.looked, found.unreadable, sum(done)) == (51, 51, 1, 51)
    assert found.samples_dropped == len(found.dropped) == 24 and len(found.kept) == 26
    scores = [each.judged.score for each in (*found.dropped, *found.kept)]
    assert scores == sorted(scores, reverse=True) and found.dropped[-1].judged.score > 0.5 >= found.kept[0].judged.score
    assert found.line() == "24 of 51 samples dropped (47.1%), 1 cannot be read"


def test_a_sample_is_counted_once():
    both = sample("x", shaded(250), shaded(240), shaded(0))
    found = review(Listed(both), Brightness(), 1)
    assert found.samples_dropped == 1 and [len(found.dropped), len(found.kept)] == [2, 1]


def test_some_are_drawn_by_seed():
    first = review(SOURCE, Brightness(), 20)
    again = review(SOURCE, Brightness(), 20)
    assert first.looked == 20 and first == again != review(SOURCE, Brightness(), 20, seed=1)


def test_the_sheet_stands_alone():
    found = review(SOURCE, Brightness(), 100)
    page = sheet("<b>", found, 0.5, 3, "made by a test")
    checker = Checker()
    checker.handle_starttag = lambda tag, attributes: None if tag == "input" else start(tag, attributes)
    start = Checker.handle_starttag.__get__(checker)
    checker.feed(page)
    assert checker.open == [] and checker.asked == [] and "script" not in checker.tags
    shown = re.findall(r'class="shot">.*?· sample (\d+)<br>([^<]*)</label>', page)
    assert len(shown) == 24 + 3 and shown[0] == ("49", "&lt;shade 245&gt;") and shown[24] == ("25", "&lt;shade 125&gt;")
    assert page.count('<input type="checkbox">') == 27 and "Kept, closest: 3 of 26" in page
    assert ".shot img { filter: blur(16px); }" in page


def test_texts_are_shown_as_text():
    rule = made("perplexity", most=2.0, least=2)
    rule.prepare(Listed(), lambda name: lambda text, most: (9.0, 3))
    found = review(Listed(sample("some <i>words</i> here")), rule, 5)
    page = sheet("t", found, rule.most, 5, "m")
    assert "some &lt;i&gt;words&lt;/i&gt; here" in page and "<img" not in page


def test_a_filter_without_scores_is_refused():
    with pytest.raises(ValueError, match="the filter 'pictures' gives no scores to sort by"):
        judging("pictures", made("pictures"))
    assert judging("nsfw", made("nsfw")).most == 0.2
