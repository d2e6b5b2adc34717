"""`vlmlab look`: samples exactly as the model sees them, on one page: tokens, what is learned, pictures, patches."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from vlmlab.batch import IGNORE, Batch, Images, Sample
from vlmlab.data.page import data_url, escape, page

STYLE = """
.columns { display: flex; gap: 24px; align-items: flex-start; flex-wrap: wrap; }
.tokens { flex: 1 1 420px; line-height: 2.1; overflow-wrap: anywhere; }
.pictures { flex: 0 1 440px; display: flex; flex-wrap: wrap; gap: 14px; }
.t { border: 1px solid var(--line); border-radius: 5px; padding: 1px 4px; margin: 0 2px 2px 0; display: inline-block;
  line-height: 1.4; }
.t small { font-size: 10px; margin-left: 4px; user-select: none; }
.t.learned { background: var(--learned); border-color: transparent; color: var(--learned-text); }
.t.learned small { color: inherit; opacity: .7; }
.t.picture { background: var(--mark); border-color: transparent; color: var(--accent); text-decoration: none; }
.patches { position: relative; width: max-content; max-width: 100%; }
.patches img { border-radius: 0; image-rendering: pixelated; }
.patches i { position: absolute; inset: 0; background-image: linear-gradient(to right, #ff3b6b88 1px, transparent 1px),
  linear-gradient(to bottom, #ff3b6b88 1px, transparent 1px); border: solid #ff3b6b88; border-width: 0 1px 1px 0; }
.key { margin-right: 14px; }
"""


@dataclasses.dataclass(frozen=True)
class Reader:
    """What a page needs of a processor: how it makes a batch of one sample, and how to turn numbers back.

    `mean` and `std` are those the pixels were normalised by, for each channel; `placeholders` says how many image
    tokens stand for each image.
    """

    process: Callable[[Sample], Batch]
    spell: Callable[[int], str]
    placeholders: Callable[[Int[Tensor, "n 2"]], list[int]]
    image_token: int
    mean: Sequence[float]
    std: Sequence[float]


def spell(tokenizer: Tokenizer, number: int) -> str:
    """A token as it reads: its own text, with the space that it may begin with."""
    name = tokenizer.id_to_token(number)
    if name is None:
        return "?"
    # Decoding alone would drop the space of a token that begins with one in sentencepiece's way.
    return name.replace("▁", " ") if "▁" in name else tokenizer.decode([number], skip_special_tokens=False)


def look(samples: Sequence[tuple[str, Sample]], reader: Reader, title: str, made_by: str) -> str:
    """The page of some named samples. Raises ValueError for a sample that cannot be processed, naming it."""
    key = (
        '<p class="note"><span class="key"><span class="t learned">learned<small>id</small></span> a target of '
        'training</span><span class="key"><span class="t">read<small>id</small></span> read only</span>'
        '<span class="key"><span class="t picture">image</span> a picture\'s tokens, counted</span></p>'
    )
    cards = [_card(name, sample, reader) for name, sample in samples]
    lead = f"{len(samples)} samples as the model sees them, after resizing and cutting into patches."
    return page(title, lead, "\n".join([key, *cards]), made_by, STYLE)


def _card(name: str, sample: Sample, reader: Reader) -> str:
    try:
        batch = reader.process(sample)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {error}") from error
    real = batch.segments[0] > 0
    tokens = batch.tokens[0][real].tolist()
    learned = [False] * len(tokens)
    if batch.targets is not None:
        wanted = (batch.targets[0][real] != IGNORE).tolist()
        learned = [False, *wanted[:-1]]
    sizes = [] if batch.images is None else batch.images.sizes()
    counts = [] if batch.images is None else reader.placeholders(batch.images.grid)
    spelled = _tokens(tokens, learned, counts, sizes, reader)
    pictures = [] if batch.images is None else _pictures(batch.images, reader)
    shown = "".join(pictures)
    facts = f"{len(tokens)} tokens, {sum(learned)} learned"
    if sizes:
        facts += f", {len(sizes)} image{'s' * (len(sizes) > 1)} in {sum(r * c for r, c in sizes)} patches"
    return (
        f'<section class="card"><h2>{escape(name)} <small>{facts}</small></h2><div class="columns">'
        f'<div class="tokens">{spelled}</div><div class="pictures">{shown}</div></div></section>'
    )


def _tokens(
    tokens: Sequence[int],
    learned: Sequence[bool],
    counts: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    reader: Reader,
) -> str:
    parts: list[str] = []
    at, image = 0, 0
    while at < len(tokens):
        if tokens[at] == reader.image_token and image < len(counts):
            rows, columns = sizes[image]
            parts.append(
                f'<span class="t picture" title="{rows} rows of {columns} patches">image {image + 1} × {counts[image]}'
                f"<small>{tokens[at]}</small></span>"
            )
            at, image = at + counts[image], image + 1
            continue
        word = reader.spell(tokens[at])
        visible = word.replace("\n", "⏎").replace(" ", "·") or "∅"
        kind = "t learned" if learned[at] else "t"
        parts.append(
            f'<span class="{kind}">{escape(visible)}<small>{tokens[at]}</small></span>' + "<br>" * ("\n" in word)
        )
        at += 1
    return "".join(parts)


def pixels(patches: Float[Tensor, "p c"], rows: int, columns: int, reader: Reader) -> Image.Image:
    """The picture that some patches show: the pixels the model reads, turned back into colours."""
    side = round((patches.shape[1] / 3) ** 0.5)
    whole = rearrange(patches.float(), "(y x) (k r s) -> (y r) (x s) k", y=rows, x=columns, k=3, r=side, s=side)
    colours = whole * torch.tensor(list(reader.std)) + torch.tensor(list(reader.mean))
    return Image.fromarray((colours * 255).round().clamp(0, 255).to(torch.uint8).numpy(), "RGB")


def _pictures(images: Images, reader: Reader) -> list[str]:
    pieces = images.patches.split([rows * columns for rows, columns in images.sizes()])
    shown = []
    for number, (piece, (rows, columns)) in enumerate(zip(pieces, images.sizes(), strict=True), 1):
        image = pixels(piece, rows, columns, reader)
        grid = f"background-size: calc(100% / {columns}) calc(100% / {rows})"
        shown.append(
            f'<figure><div class="patches"><img src="{data_url(image)}" width="{_shown_width(image.width)}" '
            f'alt="image {number}"><i style="{grid}"></i></div><figcaption>image {number}: {image.width} × '
            f"{image.height} pixels, {columns} × {rows} patches</figcaption></figure>"
        )
    return shown


def _shown_width(width: int) -> int:
    """Small pictures are enlarged by a whole number, so that their pixels stay square; large ones are fitted."""
    return min(width * max(1, 240 // width), 420)
