"""Samples from every form of message and picture, and batches whose parts must fit."""

import base64
from pathlib import Path

import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlmlab.batch import Batch, Images, Message, Picture, Sample


def text(value):
    return {"type": "text", "text": value}


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def sources(sample):
    return [picture.source for picture in sample.pictures]


LINK = "https://example.org/a.png"
DATA = "data:image/png;base64," + base64.b64encode(b"pixels").decode()


@pytest.mark.parametrize("url", [LINK, DATA])
def test_messages_in_openai_form(url):
    for part in (
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "image_url", "image_url": url},
    ):
        sample = Sample.from_messages(user(text("Look: "), part, text("?")))
        (message,) = sample.messages
        assert message.role == "user"
        assert [p.source if isinstance(p, Picture) else p for p in message.parts] == ["Look: ", url, "?"]


def test_messages_in_hugging_face_form(tmp_path):
    image = PIL.Image.new("RGB", (2, 3))
    path = tmp_path / "a.png"
    parts = [
        {"type": "image", "image": image},
        {"type": "image", "image": b"bytes"},
        {"type": "image", "path": path},
        {"type": "image", "url": LINK},
        {"type": "image", "image": None},
        {"type": "image"},
    ]
    sample = Sample.from_messages(user(*parts), images=[b"first", "second.png"])
    assert sources(sample) == [image, b"bytes", path, LINK, b"first", "second.png"]


def test_waiting_images_go_to_their_marks_in_reading_order_over_all_turns():
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "image", "image": b"own"}, text("a")]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [text("c"), {"type": "image"}]},
    ]
    sample = Sample.from_messages(turns, images=[b"1", b"2"])
    assert sources(sample) == [b"1", b"own", b"2"]
    assert [m.role for m in sample.messages] == ["system", "user", "assistant", "user"]
    assert sample.messages[0].parts == ("Be brief.",)


@pytest.mark.parametrize(
    "messages, images, error",
    [
        ([{"role": "user"}], None, "^message 0: expected a mapping"),
        ([{"content": "x"}], None, "^message 0: expected a mapping"),
        (
            [{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}],
            None,
            "^message 1: role 'tool' is not one",
        ),
        ([{"role": "text", "content": "x"}], None, "^message 0: role 'text' is not one"),
        ([{"role": "user", "content": None}], None, "^message 0: content should be text or a list"),
        (user(text("a"), 3), None, "^message 0, part 1: expected text or a mapping"),
        (user({"type": "video"}), None, "^message 0, part 0: cannot read a part of type 'video'"),
        (user({"type": "text"}), None, "^message 0, part 0: cannot read a part of type 'text'"),
        (user({"type": "image_url"}), None, "^message 0, part 0: cannot read a part of type 'image_url'"),
        (user({"type": "image"}), None, "^message 0, part 0: an image part without a picture"),
        (user({"type": "image"}, {"type": "image"}), [b"1"], "^message 0, part 1: an image part without a picture"),
        (user({"type": "image"}), [b"1", b"2"], "^2 images were given but only 1 image parts stand for them"),
        (user(text("a")), [b"1"], "^1 images were given but only 0 image parts"),
        (user({"type": "image", "image": 3}), None, "not a picture: int"),
    ],
)
def test_messages_that_cannot_be_read_are_named(messages, images, error):
    with pytest.raises(ValueError, match=error):
        Sample.from_messages(messages, images)


def test_messages_and_images_are_left_as_they_were():
    messages, images = user({"type": "image"}), [b"1"]
    Sample.from_messages(messages, images)
    assert messages == user({"type": "image"}) and images == [b"1"]


@given(st.lists(st.text(st.characters(exclude_characters="<>"), max_size=9), min_size=1, max_size=6))
def test_a_document_splits_at_its_marks(pieces):
    images = [bytes([at]) for at in range(len(pieces) - 1)]
    sample = Sample.from_text("<image>".join(pieces), images)
    (message,) = sample.messages
    assert message.role == "text" and sources(sample) == images
    assert "".join("<image>" if isinstance(p, Picture) else p for p in message.parts) == "<image>".join(pieces)
    assert "" not in message.parts


@pytest.mark.parametrize("document, images", [("<image>", []), ("no mark", [b"1"]), ("<image><image>", [b"1"])])
def test_a_document_with_other_counts_is_refused(document, images):
    marks = document.count("<image>")
    with pytest.raises(ValueError, match=rf"the text has {marks} <image> marks but {len(images)} images were given"):
        Sample.from_text(document, images)


def test_pictures_and_what_messages_call_them():
    assert Picture.of("a.png").name == "a.png" and Picture.of(Path("b") / "a.png").name == str(Path("b") / "a.png")
    assert Picture.of(b"12345").name == "picture of 5 bytes"
    assert Picture.of(bytearray(b"1")).source == b"1" and Picture.of(memoryview(b"1")).source == b"1"
    assert Picture.of(PIL.Image.new("L", (1, 1))).name == "picture in memory"
    assert Picture.of(b"1", "the first").name == "the first"
    assert len(Picture.of("data:image/png;base64," + "A" * 10_000).name) < 100
    picture = Picture.of(b"secret" * 100)
    assert Picture.of(picture) is picture
    assert "secret" not in repr(picture) and "secret" not in repr(Sample((Message("user", (picture,)),)))
    for value in (3, None, [], {"path": "a"}):
        with pytest.raises(ValueError, match=f"not a picture: {type(value).__name__}"):
            Picture.of(value)


def images(*sizes):
    grid = torch.tensor(sizes)
    patches = int(grid.prod(-1).sum())
    return Images(torch.arange(patches * 3.0).reshape(patches, 3), grid)


def test_images_hold_as_many_patches_as_their_grids_say():
    assert images((2, 3), (1, 4)).sizes() == [(2, 3), (1, 4)]
    with pytest.raises(ValueError, match="the grids hold 6 patches, 5 were given"):
        Images(torch.zeros(5, 3), torch.tensor([[2, 3]]))


def test_images_laid_end_to_end():
    one, two = images((2, 3)), images((1, 4), (2, 2))
    joined = Images.join([one, two])
    assert joined.sizes() == [(2, 3), (1, 4), (2, 2)]
    assert torch.equal(joined.patches, torch.cat([one.patches, two.patches]))
    assert Images.join([]) is None


def test_a_batch_is_of_one_shape():
    tokens = torch.zeros(2, 3, dtype=torch.long)
    for name in ("segments", "positions", "targets"):
        fields = {"tokens": tokens, "segments": tokens, "positions": tokens, name: tokens[:, :2]}
        with pytest.raises((ValueError, TypeError)):  # TypeError: the annotations, where they are checked
            Batch(**fields)


def test_a_batch_elsewhere():
    tokens = torch.ones(1, 4, dtype=torch.long)
    moved = Batch(tokens, tokens, tokens, tokens, images((2, 2))).to("meta", torch.bfloat16)
    for part in (moved.tokens, moved.segments, moved.positions, moved.targets, moved.images.patches):
        assert part.is_meta
    assert moved.images.patches.dtype == torch.bfloat16 and moved.tokens.dtype == torch.long
    assert moved.images.sizes() == [(2, 2)]  # the grid stays where it is read
    bare = Batch(tokens, tokens, tokens).to("meta")
    assert bare.targets is None and bare.images is None
