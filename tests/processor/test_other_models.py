"""Processors of models other than the released one: their colours, patches, frames and control tokens."""

import base64

import numpy as np
import PIL.Image
import pytest
import torch
from einops import rearrange
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from processor.pictures import encoded, noise, released
from vlmlab.batch import IGNORE, Sample
from vlmlab.processor.images import native, split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURE = encoded(noise(60, 40), "PNG")
SMALL = native.Config(longest=980, shortest=14)


@pytest.mark.parametrize("mean, std", [(MEAN, STD), ((0.1, 0.5, 0.9), (0.2, 0.4, 1.0)), ((0.0,) * 3, (1.0,) * 3)])
def test_colours_of_each_channel(idefics2_tokenizer, mean, std):
    """(x / 255 - mean) / std, channel by channel, as the published processor has it for these numbers."""
    processor = released(idefics2_tokenizer, mean=mean, std=std)
    picture = noise(392, 378)
    patches = processor([Sample.from_text("<image>", [picture])]).images.patches
    peer = Idefics2ImageProcessorPil(image_mean=list(mean), image_std=list(std))([[picture]], return_tensors="pt")
    whole = peer["pixel_values"][0, 0]
    assert whole.shape == (3, 378, 392)
    expected = rearrange(whole, "c (h a) (w b) -> (h w) (c a b)", a=14, b=14)
    assert float((patches - expected).abs().max()) <= 1e-6


@pytest.mark.parametrize("patch", [2, 7, 16])
def test_patches_in_reading_order_and_their_numbers_by_channel_row_column(idefics2_tokenizer, patch):
    rows, columns = 3, 4
    values = np.random.default_rng(0).integers(0, 256, (rows * patch + 1, columns * patch + 1, 3), dtype=np.uint8)
    processor = released(idefics2_tokenizer, native.Config(980, 1), patch=patch, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = processor([Sample.from_text("<image>", [PIL.Image.fromarray(values)])]).images
    assert images.grid.tolist() == [[rows, columns]]  # the border that fills no patch is dropped
    for row in range(rows):
        for column in range(columns):
            corner = values[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            numbers = [corner[y, x, c] / 255 for c in range(3) for y in range(patch) for x in range(patch)]
            torch.testing.assert_close(
                images.patches[row * columns + column], torch.tensor(numbers, dtype=torch.float32)
            )


@pytest.mark.parametrize("count", [1, 3])
def test_a_model_without_frames(idefics2_tokenizer, count):
    """Cross-attention: a picture is one token in the text, wherever it stands, and nothing is around it."""
    processor = released(idefics2_tokenizer, SMALL, lambda grid: [count] * len(grid), frame=None)
    batch = processor([Sample.from_text("And <image><image>What", [PICTURE, PICTURE])], learn="everything")
    word = idefics2_tokenizer.encode("What", add_special_tokens=False).ids
    before = idefics2_tokenizer.encode("And ", add_special_tokens=False).ids
    assert batch.tokens[0].tolist() == [1, *before, *[32001] * 2 * count, *word, 2]
    assert batch.targets[0].tolist() == [*before, *[IGNORE] * 2 * count, *word, 2, IGNORE]
    assert processor.never_written == [32001]
    five = released(idefics2_tokenizer, split.Config(980, 14), lambda grid: [count] * len(grid), frame=None)
    assert int((five([Sample.from_text("<image>", [PICTURE])]).tokens == 32001).sum()) == 5 * count


def test_a_model_without_a_first_token(idefics2_tokenizer):
    processor = released(idefics2_tokenizer, bos=None)
    assert processor([Sample.from_text("What")]).tokens.tolist() == [[1824]]
    batch = processor([Sample.from_text("What")], learn="everything")
    assert batch.tokens.tolist() == [[1824, 2]] and batch.targets.tolist() == [[2, IGNORE]]


@pytest.mark.parametrize("pad, number", [("</s>", 2), (None, 0)])
def test_the_token_that_fills_up(idefics2_tokenizer, pad, number):
    batch = released(idefics2_tokenizer, pad=pad)([Sample.from_text("What"), Sample.from_text("")])
    assert batch.tokens.tolist() == [[1, 1824], [1, number]]
    assert batch.segments.tolist() == [[1, 1], [1, 0]]


def test_a_tokenizer_that_fills_up_and_cuts_does_neither_here(idefics2_tokenizer):
    odd = type(idefics2_tokenizer).from_str(idefics2_tokenizer.to_str())
    odd.enable_padding(length=20)
    odd.enable_truncation(3)
    said = [Sample.from_text("one two three four five six"), Sample.from_text("one")]
    plain, strange = released(idefics2_tokenizer)(said), released(odd)(said)
    assert torch.equal(plain.tokens, strange.tokens) and torch.equal(plain.segments, strange.segments)


def test_a_control_token_that_the_tokenizer_lacks_is_named(idefics2_tokenizer):
    with pytest.raises(ValueError, match="the control token <picture> is not in the tokenizer"):
        released(idefics2_tokenizer, image="<picture>")
    with pytest.raises(ValueError, match="the control token <image> has id 32001, beyond"):
        released(idefics2_tokenizer, vocabulary=32001)


def test_a_picture_inside_a_data_url_is_the_same_picture(idefics2_tokenizer):
    processor = released(idefics2_tokenizer, SMALL)
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    one = processor([Sample.from_messages([{"role": "user", "content": parts}])])
    parts = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What?"}]
    other = processor([Sample.from_messages([{"role": "user", "content": parts}])])
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.images.patches, other.images.patches)


def test_ids_back_into_text_without_control_tokens(idefics2_tokenizer):
    processor = released(idefics2_tokenizer)
    assert processor.decode([1, 32000, 32001, 32000, 330, 5255, 28723, 32002, 2]) == "A cat."
    assert processor.decode([]) == ""
