"""The page shows what the model reads: every token with its id, what is learned, the pixels after resizing."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from train import tiny
from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.look import Reader, look, pixels
from vlmlab.data.page import escape

WORDS = {tiny.START: "<s>", tiny.END: "</s>", tiny.ASK: '<b>"which&', tiny.ASK + 1: " is\n", 10: "colour"}


def reader(**changes):
    values = {
        "process": tiny.process,
        "spell": lambda number: WORDS.get(number, f"word{number}"),
        "placeholders": tiny.model().placeholders,
        "image_token": tiny.IMAGE,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        **changes,
    }
    return Reader(**values)


def samples(count=3):
    source = tiny.Colours()
    return [(f"sample {n} <i>", source[n]) for n in range(count)]


class Checker(HTMLParser):
    """Finds what would be asked of the network, scripts, and tags that are left open."""

    def __init__(self):
        super().__init__()
        self.open, self.asked, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.asked += [v for k, v in attributes if k in ("src", "href") and not v.startswith("data:")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_token_stands_there_with_its_id():
    page = look(samples(1), reader(), "A title", "made by a test")
    batch = tiny.process(samples(1)[0][1])
    shown = re.findall(r'<span class="t( learned| picture|)"[^>]*>([^<]*)<small>(\d+)</small></span>', page)
    words = [tiny.START, tiny.IMAGE, tiny.ASK, tiny.ASK + 1, 10, 20, tiny.END]
    assert [int(number) for _, _, number in shown] == words
    assert [kind.strip() for kind, _, _ in shown] == ["", "picture", "", "", "learned", "learned", "learned"]
    assert "image 1 × 2" in shown[1][1]
    assert f"{batch.tokens.shape[1]} tokens, 3 learned, 1 image in 4 patches" in page


def test_everything_is_escaped_and_nothing_is_requested():
    page = look(samples(), reader(), "<script>alert(1)</script>", "vlmlab look '<x>'")
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and checker.asked == [] and "script" not in checker.tags and "b" not in checker.tags
    assert "&lt;b&gt;&quot;which&amp;" in page and "sample 0 &lt;i&gt;" in page and "·is⏎<small>" in page
    assert "http" not in page.replace("http-equiv", "")
    assert escape("a\x00\x7f<") == "a\\x00\\x7f&lt;"


def test_the_picture_is_the_one_the_model_reads():
    page = look(samples(2), reader(), "A title", "a test")
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(d))) for d in re.findall(r"data:image/png;base64,([^\"]+)", page)
    ]
    assert [p.size for p in pictures] == [(8, 8), (12, 8)]
    assert pictures[1].getpixel((11, 7)) == tiny.COLOURS["colour 1"]
    assert "12 × 8 pixels, 3 × 2 patches" in page


def test_pixels_go_back_to_where_they_were():
    image = torch.arange(3 * 8 * 12).view(3, 8, 12) % 256
    patches = image.view(3, 2, 4, 3, 4).permute(1, 3, 0, 2, 4).reshape(6, 48) / 255.0
    back = pixels(patches, 2, 3, reader(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    assert list(back.tobytes()) == image.permute(1, 2, 0).flatten().tolist()


def test_text_alone_and_several_pictures():
    colours = tiny.Colours()
    many = Sample((Message("user", (colours.pair(0).picture, "which?", colours.pair(4).picture)),))
    page = look([("many", many), ("text", Sample((Message("user", ("which?",)),)))], reader(), "A title", "a test")
    assert page.count("<figure>") == 2 and "image 2 × 2" in page


def test_a_sample_that_cannot_be_read_is_named():
    def broken(sample):
        raise ValueError("the picture is cut off")

    with pytest.raises(ValueError, match="sample 0 <i>: the picture is cut off"):
        look(samples(), reader(process=broken), "A title", "a test")


def test_pictures_are_opened_only_for_the_page():
    assert isinstance(tiny.Colours()[0].pictures[0], Picture)
