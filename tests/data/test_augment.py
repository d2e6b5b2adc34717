"""Augmentations change what they say and nothing else, and depend on the draw alone."""

import random
from collections import Counter

import pytest
import torch
from PIL import Image

from processor.pictures import noise, released
from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.augment import Augment, shuffled
from vlmlab.data.stream import Draw
from vlmlab.processor.images import native, split, square
from vlmlab.processor.processor import Options

KITE = Picture.of(Image.new("RGB", (8, 8)), "kite")


def talk(*texts: str, pictures=(KITE,), system: str = "") -> Sample:
    roles = ("user", "assistant")
    messages = [Message(roles[at % 2], (text,)) for at, text in enumerate(texts)]
    messages[0] = Message("user", (*pictures, *messages[0].parts))
    return Sample((*([Message("system", (system,))] if system else []), *messages))


def draws(count: int) -> list[Draw]:
    return [Draw("photos", at % 50, at // 50) for at in range(count)]


def test_nothing_is_changed_by_default():
    sample = talk("q", "a")
    assert Augment()(sample, 0, Draw("photos", 1, 0)) == (sample, Options())
    assert not Augment().changes and Augment(split=0.0).changes


def test_it_depends_on_seed_and_draw_alone():
    augment = Augment(upscale=0.7, turns=True, split=0.5)
    sample = talk(*"abcdefgh", pictures=(KITE, KITE))
    found = {
        (seed, draw): augment(sample, seed, draw)
        for seed in range(3)
        for draw in (Draw("x", 0, 0), Draw("x", 0, 1), Draw("x", 1, 0), Draw("y", 0, 0))
    }
    assert all(augment(sample, *key) == value for key, value in reversed(found.items()))
    assert len({repr(value) for value in found.values()}) == 12


def test_shares_and_factors_are_those_asked_for():
    augment = Augment(upscale=0.7, split=0.5)
    found = [augment(talk("q", "a"), 0, draw)[1] for draw in draws(2000)]
    assert abs(sum(options.split for options in found) / 2000 - 0.5) < 0.05
    scales = [options.scales[0] for options in found]
    larger = [scale for scale in scales if scale != 1]
    assert abs(len(larger) / 2000 - 0.7) < 0.05 and 1.5 <= min(larger) <= max(larger) <= 3
    assert abs(sum(larger) / len(larger) - 2.5) < 0.05  # the mean of the triangular distribution (1.5, 3, 3)


def test_turns_are_shuffled_and_pictures_stay_in_front():
    sample = talk("q1", "a1", "q2", "a2", "q3", "a3", pictures=(KITE, KITE), system="be")
    seen = Counter()
    for seed in range(300):
        mixed = shuffled(sample, random.Random(seed))
        assert [m.role for m in mixed.messages] == [m.role for m in sample.messages]
        assert mixed.messages[0] == sample.messages[0] and mixed.messages[1].parts[:2] == (KITE, KITE)
        assert mixed.pictures == [KITE, KITE]
        texts = [m.parts[-1] for m in mixed.messages[1:]]
        assert {(q[1], a[1]) for q, a in zip(texts[::2], texts[1::2], strict=True)} == {
            ("1", "1"),
            ("2", "2"),
            ("3", "3"),
        }
        seen[tuple(texts[::2])] += 1
    assert len(seen) == 6 and min(seen.values()) > 25


@pytest.mark.parametrize(
    "sample",
    [
        talk("q1", "a1"),
        talk("q1", "a1", "q2", "a2", pictures=()),
        Sample((*talk("q1", "a1").messages, Message("user", (KITE, "and this?")), Message("assistant", ("a2",)))),
        Sample(talk("q1", "a1", "q2", "a2").messages[:3]),
        Sample((Message("user", ("look at", KITE)), *talk("q1", "a1", "q2", "a2", pictures=()).messages[1:])),
        Sample((Message("user", (KITE,)), *talk("q1", "a1", "q2", "a2", pictures=()).messages[1:])),
        Sample((Message("text", ("a", KITE, "b")),)),
    ],
)
def test_turns_that_may_lean_on_each_other_stay(sample):
    assert all(shuffled(sample, random.Random(seed)) == sample for seed in range(5))


def test_a_scaled_picture_is_read_as_the_larger_one(idefics2_tokenizer):
    image = noise(300, 200)

    def seen(strategy, picture, *scales):
        sample = Sample.from_text("<image>", [picture])
        return released(idefics2_tokenizer, strategy)([sample], options=Options(scales=scales)).images

    larger = Image.new("RGB", (600, 400))
    for strategy in (native.Config(), split.Config(), split.Config(resize="original"), square.Config(side=98)):
        assert torch.equal(seen(strategy, image, 2.0).grid, seen(strategy, larger).grid)
    assert seen(native.Config(), image, 2.0).grid.tolist() == [[28, 42]]
    # The same pixels as the picture resized at once, and of crops as the crops.
    whole = seen(native.Config(), image.resize((600, 400), Image.Resampling.BILINEAR))
    assert torch.equal(seen(native.Config(), image, 2.0).patches, whole.patches)
    crops = seen(split.Config(shortest=14, longest=980), image, 2.0)
    corner = seen(
        native.Config(shortest=14), image.crop((0, 0, 150, 100)).resize((300, 200), Image.Resampling.BILINEAR)
    )
    assert torch.equal(crops.patches[: len(corner.patches)], corner.patches)
    assert torch.equal(seen(native.Config(), image, 1.0).patches, seen(native.Config(), image).patches)
    with pytest.raises(ValueError, match="2 scales were given for 1 pictures"):
        seen(native.Config(), image, 2.0, 1.0)


@pytest.mark.parametrize("scale", [1.5, 2.718, 0.01])
def test_scaled_crops_stay_inside_the_picture(idefics2_tokenizer, scale):
    for size in ((1, 1), (3, 2), (301, 7)):
        sample = Sample.from_text("<image>", [noise(*size)])
        images = released(idefics2_tokenizer, split.Config())([sample], options=Options(scales=(scale,))).images
        assert len(images.grid) == 5


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"upscale": 2.0}, "upscale is a share"), ({"split": -1.0}, "split is"), ({"factors": (3.0, 1.0)}, "factors")],
)
def test_wrong_numbers_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        Augment(**changes)
