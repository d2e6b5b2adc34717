"""Pixels equal to the published (Pillow) processor's; ids equal to the raw tokenizer's on the expanded text."""

import io
import itertools

import PIL.Image
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.idefics2.image_processing_pil_idefics2 import (
    Idefics2ImageProcessorPil,
    get_resize_output_image_size,
)

from processor.pictures import encoded, noise, released
from vlmlab.batch import Sample
from vlmlab.processor.images import native, split, square
from vlmlab.processor.patches import published_size

FAKE, IMAGE = "<fake_token_around_image>", "<image>"
SIZES = [(500, 375), (1500, 1000), (30, 1000), (377, 981), (1023, 767), (2001, 301), (1, 1), (980, 980), (400, 393)]


class Shape:
    """What the published size rule looks at in an array: its shape."""

    def __init__(self, height, width):
        self.shape = (3, height, width)


def published(images, splitting=False, **changes):
    """The whole patches and grids of what the published processor makes of lists of pictures, one per sample."""
    peer = Idefics2ImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, do_image_splitting=splitting, **changes)
    out = peer(images, return_tensors="pt")
    patches, grid = [], []
    for values, mask in zip(out["pixel_values"].flatten(0, 1), out["pixel_attention_mask"].flatten(0, 1), strict=True):
        rows, columns = int(mask[:, 0].sum()) // 14, int(mask[0].sum()) // 14
        if rows:  # rows with fewer pictures are filled up with empty ones
            whole = values[:, : rows * 14, : columns * 14]
            patches.append(rearrange(whole, "c (h a) (w b) -> (h w) (c a b)", a=14, b=14))
            grid.append([rows, columns])
    return torch.cat(patches), torch.tensor(grid)


def expanded(text, splitting=False):
    """The text in which the published processor puts the tokens of each picture."""
    text = text.replace(IMAGE, (FAKE + IMAGE * 64 + FAKE) * (5 if splitting else 1))
    return text.replace(FAKE * 2, FAKE)


@pytest.mark.parametrize("splitting", [False, True])
def test_pixels(idefics2_tokenizer, splitting):
    config = split.Config() if splitting else native.Config()
    processor = released(idefics2_tokenizer, config)
    pictures = [noise(*size, seed=at) for at, size in enumerate(SIZES) if not (splitting and size == (1, 1))]
    ours = processor([Sample.from_text(IMAGE, [p]) for p in pictures]).images
    patches, grid = published([[p] for p in pictures], splitting)
    assert torch.equal(ours.grid, grid)
    assert float((ours.patches - patches).abs().max()) <= 1e-6


def test_pixels_of_fixed_squares(idefics2_tokenizer):
    for side in (384, 768):
        processor = released(idefics2_tokenizer, square.Config(side=side))
        pictures = [noise(500, 375), noise(100, 900)]
        ours = processor([Sample.from_text(IMAGE * 2, pictures)]).images
        patches, grid = published([pictures], size={"height": side, "width": side})
        assert torch.equal(ours.grid, grid)
        assert float((ours.patches - patches).abs().max()) <= 1e-6


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pixels_of_other_modes(idefics2_tokenizer, kind):
    """Greys, palettes and transparency, as the published processor reads them from PIL."""
    processor = released(idefics2_tokenizer)
    modes = ["RGB", "L", "CMYK"] if kind == "JPEG" else ["RGB", "L", "LA", "RGBA", "P", "1"]
    for mode in modes:
        image = noise(400, 380)
        if mode in ("LA", "RGBA"):
            image.putalpha(noise(400, 380, seed=2).convert("L"))
        file = encoded(image.convert(mode), kind)
        ours = processor([Sample.from_text(IMAGE, [file])]).images
        peer = Idefics2ImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3)
        patches, _ = published([[peer.convert_to_rgb(PIL.Image.open(io.BytesIO(file)))]])
        assert float((ours.patches - patches).abs().max()) <= 1e-6, mode


TEXTS = [
    "<image>",
    "no picture at all",
    "<image>What is it?",
    "<image> this",
    "And <image>this <image>\nand<image><image> those",
    "<image><image><image>three in a row",
    " <image>\n\n<image> ",
]


@pytest.mark.parametrize("splitting", [False, True])
def test_ids(idefics2_tokenizer, splitting):
    processor = released(idefics2_tokenizer, split.Config() if splitting else native.Config())
    picture = noise(30, 20)
    samples = [Sample.from_text(text, [picture] * text.count(IMAGE)) for text in TEXTS]
    batch = processor(samples)
    for row, text in enumerate(TEXTS):
        ids = idefics2_tokenizer.encode(expanded(text, splitting)).ids
        assert batch.tokens[row][batch.segments[row] > 0].tolist() == ids
        assert (batch.tokens[row][len(ids) :] == 0).all()
        assert batch.positions[row, : len(ids)].tolist() == list(range(len(ids)))
    assert len(batch.images.grid) == sum(t.count(IMAGE) for t in TEXTS) * (5 if splitting else 1)


@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize(
    "pictures, images, frames",
    [(1, (64, 320), (2, 6)), (2, (128, 640), (3, 11)), (3, (192, 960), (4, 16))],
)
def test_counts_of_image_tokens(idefics2_tokenizer, splitting, pictures, images, frames):
    processor = released(idefics2_tokenizer, split.Config() if splitting else native.Config())
    tokens = processor([Sample.from_text(IMAGE * pictures, [noise(30, 20)] * pictures)]).tokens
    assert int((tokens == 32001).sum()) == images[splitting]
    assert int((tokens == 32000).sum()) == frames[splitting]


def test_ids_of_a_conversation(idefics2_tokenizer):
    """The published example, with its ids as the weights were trained: 28705 after each end of utterance."""
    processor = released(idefics2_tokenizer, placeholders=lambda grid: [1] * len(grid))
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    batch = processor([Sample.from_messages(ask, images=[noise(30, 20)])], add_generation_prompt=True)
    assert batch.tokens[0].tolist() == [
        *[1, 1247, 28747, 32000, 32001, 32000, 1824, 349, 378, 28804, 32002, 28705, 13, 7226, 11143, 28747]
    ]
    answer = [*ask, {"role": "assistant", "content": "A cat."}]
    batch = processor([Sample.from_messages(answer, images=[noise(30, 20)])])
    assert batch.tokens[0, -7:].tolist() == [28747, 330, 5255, 28723, 32002, 28705, 13]


def test_any_mix_of_samples(idefics2_tokenizer):
    """Pixels and ids of a batch are those of its samples, in order, whichever comes first."""
    processor = released(idefics2_tokenizer)
    samples = [
        Sample.from_text("<image>a<image>", [noise(400, 380), noise(500, 375)]),
        Sample.from_text("b"),
        Sample.from_text("c<image>", [noise(900, 400)]),
    ]
    alone = [processor([sample]) for sample in samples]
    for order in itertools.permutations(range(3)):
        batch = processor([samples[at] for at in order])
        for row, at in enumerate(order):
            assert torch.equal(batch.tokens[row][batch.segments[row] > 0], alone[at].tokens[0])
        patches = torch.cat([alone[at].images.patches for at in order if alone[at].images])
        assert torch.equal(batch.images.patches, patches)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(980, 378), (448, 378), (700, 1), (56, 14)]))
def test_resizing(width, height, limits):
    longest, shortest = limits
    peer = get_resize_output_image_size(
        Shape(height, width), Idefics2ImageProcessorPil(size={"longest_edge": longest, "shortest_edge": shortest}).size
    )
    assert published_size(width, height, longest, shortest) == peer[::-1]


@pytest.mark.parametrize(
    "size, expected",
    [
        ((1500, 1000), (980, 653)),
        ((1023, 767), (980, 734)),
        ((979, 500), (979, 500)),
        ((200, 100), (378, 378)),
        ((3000, 300), (980, 378)),
        ((1, 1000), (378, 980)),
    ],
)
def test_published_sizes(size, expected):
    assert published_size(*size, 980, 378) == expected


@settings(max_examples=30)
@given(st.integers(2, 60), st.integers(2, 60))
def test_splitting(width, height):
    """The crops, before they are resized, are the published ones."""
    array = torch.arange(3 * height * width).reshape(3, height, width)
    peer = Idefics2ImageProcessorPil().split_images(array)
    pieces = split.Split(split.Config()).plan(width, height)
    for crop, (box, size) in zip(peer, pieces, strict=True):
        left, top, right, bottom = box
        assert torch.equal(array[:, top:bottom, left:right], crop)
        assert size == published_size(right - left, bottom - top, 980, 378)
