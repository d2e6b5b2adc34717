"""Text rendered on pictures: many fonts, colours, backgrounds and angles; the answer is the text.

From any text of yours, or from made-up words and numbers, which have to be read letter by letter. Samples are the same
wherever the fonts are: with `fonts = "own"`, everywhere; otherwise, on machines with the same fonts.
"""

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw

from vlmlab.data.get import split_of
from vlmlab.data.made import MadeConfig, MadeSource, Question
from vlmlab.data.made.fonts import Choice, found, knows, opened
from vlmlab.data.made.lettering import Font, height, wrapped

Colour = tuple[int, int, int]
Ground = Literal["plain", "shaded", "grainy", "ruled"]

_GROUNDS: tuple[Ground, ...] = ("plain", "shaded", "grainy", "ruled")
_SMALLEST = 11  # pixels, the smallest letters that can be read
_CONTRAST = 5.0  # between ink and paper, as WCAG 2 reckons it; 4.5 is its threshold for reading
_MARGIN = 6


@dataclasses.dataclass(frozen=True)
class Config(MadeConfig):
    """`text` is a file, or a folder of .txt files, whose passages are rendered; without, words are made up.

    `words`, the most in a picture; `side` of the square pictures, in pixels; `angle`, the most that a text is turned
    either way, in degrees; `fonts`, "own", "system" or a folder; `question`, what stands with each picture.
    """

    text: Path | None = None
    words: int = 12
    side: int = 384
    angle: float = 15.0
    fonts: Choice = "system"
    question: str = "What does it say?"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.words <= 400:
            raise ValueError(f"words = {self.words} should be 1 to 400")
        if not 64 <= self.side <= 4096:
            raise ValueError(f"side = {self.side} should be 64 to 4096")
        if not 0 <= self.angle <= 45:
            raise ValueError(f"angle = {self.angle} should be 0 to 45")


@dataclasses.dataclass(frozen=True)
class Page:
    """A text as it is rendered: `lines` in a `font` of `size` pixels, turned by `angle` degrees against the clock.

    `place` is where it stands in the room that is left, across and down. `papers` are the background's colours, of
    which a plain one uses the first; `grain` is the seed of its grain.
    """

    lines: tuple[str, ...]
    font: str
    size: int
    angle: float
    place: tuple[float, float]
    ink: Colour
    papers: tuple[Colour, Colour]
    ground: Ground
    grain: int

    @property
    def text(self) -> str:
        """What is written, on one line."""
        return " ".join(self.lines)


class Typeset(MadeSource[Page]):
    """Passages of text, each on a picture of its own."""

    def __init__(self, config: Config) -> None:
        """Reads the text. Raises ValueError when there is none of this split, or no fonts."""
        super().__init__(config)
        self.config = config
        self.fonts = found(config.fonts)
        self.passages = [] if config.text is None else _passages(config.text, config.split)

    def truth(self, index: int) -> Page:
        """The text, where its lines are broken, and how it looks. Raises IndexError past the end."""
        generator = self.generator(index)
        font, words = self._written(generator)
        angle = generator.uniform(-self.config.angle, self.config.angle) if generator.random() < 0.7 else 0.0
        wanted = max(_SMALLEST, generator.randint(self.config.side // 24, self.config.side // 6))
        size, lines = _fitted(words, font, wanted, angle, self.config.side - 2 * _MARGIN)
        ink, papers = _colours(generator)
        place = (generator.random(), generator.random())
        ground = generator.choice(_GROUNDS)
        return Page(tuple(lines), font, size, angle, place, ink, papers, ground, generator.getrandbits(32))

    def questions(self, truth: Page) -> Sequence[Question]:
        """What it says."""
        return (Question("reading", self.config.question, truth.text),)

    def draw(self, truth: Page) -> Image.Image:
        """The text on its background."""
        letters = _letters(truth)
        image = _background(truth, self.config.side)
        image.paste(truth.ink, self._corner(truth, letters.size), letters)
        return image

    def corners(self, truth: Page) -> list[tuple[tuple[float, float], ...]]:
        """The four corners of each line on the picture, in pixels: those of its beginning's top first, clockwise."""
        face = opened(truth.font, truth.size)
        wide, tall = (math.ceil(side) for side in _extent(truth.lines, face))
        letters = _letters(truth).size
        left, top = self._corner(truth, letters)
        turned = math.radians(truth.angle)
        found = []
        for number, line in enumerate(truth.lines):
            x, y = truth.size / 2, truth.size / 4 + number * height(face)
            right, bottom = x + face.getlength(line), y + height(face)
            # Turned around the middle, against the clock, y downwards.
            away = [(a - wide / 2, b - tall / 2) for a, b in ((x, y), (right, y), (right, bottom), (x, bottom))]
            found.append(
                tuple(
                    (
                        left + letters[0] / 2 + a * math.cos(turned) + b * math.sin(turned),
                        top + letters[1] / 2 - a * math.sin(turned) + b * math.cos(turned),
                    )
                    for a, b in away
                )
            )
        return found

    def _corner(self, truth: Page, letters: tuple[int, int]) -> tuple[int, int]:
        """Where the top left corner of the letters, of so many pixels, comes to stand."""
        wide, tall = (
            round(_MARGIN + share * (self.config.side - 2 * _MARGIN - room))
            for share, room in zip(truth.place, letters, strict=True)
        )
        return wide, tall

    def _written(self, generator: random.Random) -> tuple[str, list[str]]:
        """A font, and words that it can write."""
        count = generator.randint(1, self.config.words)
        words = _made_up(generator, count)
        if self.passages:
            passage = generator.choice(self.passages)
            start = generator.randint(0, max(0, len(passage) - count))
            words = passage[start : start + count]
        start = generator.randrange(len(self.fonts))
        for name in (*self.fonts[start:], *self.fonts[:start]):
            if all(knows(name, letter) for letter in set("".join(words))):
                return name, words
        # No font has all of it: what the first can write, or else words in plain letters, which every font has.
        name = self.fonts[start]
        known = [word for word in words if all(knows(name, letter) for letter in set(word))]
        if known:
            return name, known
        plain = next((name for name in self.fonts if knows(name, "A") and knows(name, "7")), "")
        return plain, _made_up(generator, count)


def _passages(path: Path, split: str) -> list[list[str]]:
    """The words of each paragraph of a split: paragraphs are held out whole, by what they say."""
    place = path.expanduser()
    files = sorted(place.rglob("*.txt")) if place.is_dir() else [place]
    paragraphs: set[str] = set()
    for file in files:
        try:
            blocks = file.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"text: cannot read {file}: {error}") from None
        paragraphs.update(" ".join(block.split()) for block in blocks)
    kept = [text.split() for text in sorted(paragraphs - {""}) if split_of(text) == split]
    if not kept:
        raise ValueError(f"text: {place} has no paragraphs for the split {split!r}; give more text")
    return kept


def _made_up(generator: random.Random, count: int) -> list[str]:
    """Words that no dictionary has, and numbers: none of them can be guessed."""
    words = []
    for _ in range(count):
        letters = "".join(
            generator.choice("bcdfghjklmnprstvwz") + generator.choice("aeiou") + generator.choice(("", "n", "r", "s"))
            for _ in range(generator.randint(1, 4))
        )
        number = str(generator.randrange(10 ** generator.randint(1, 5)))
        code = "".join(generator.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(generator.randint(2, 6)))
        words.append(generator.choice((letters, letters, letters.capitalize(), number, code)))
    return words


def _fitted(words: list[str], font: str, size: int, angle: float, room: int) -> tuple[int, list[str]]:
    """The size, at most the wanted one, at which all words fit the page, and their lines.

    At the smallest size that can be read, words are left out from the end until they fit.
    """
    while True:
        # Each line is cut to three quarters of the page: turned, a text takes more room than its width.
        face = opened(font, size)
        lines = wrapped(" ".join(words), face, room * 0.75)
        if max(_turned(_extent(lines, face), angle)) <= room:
            return size, lines
        if size > _SMALLEST:
            size = max(_SMALLEST, int(size * 0.9))
        elif len(words) > 1:
            words = words[:-1]
        else:
            words = [words[0][:-1]]


def _extent(lines: Sequence[str], face: Font) -> tuple[float, float]:
    """Width and height of lines in a font, with room for what leans out of its box."""
    return max(face.getlength(line) for line in lines) + face.size, len(lines) * height(face) + face.size / 2


def _turned(extent: tuple[float, float], angle: float) -> tuple[float, float]:
    """Width and height of a box that is turned by `angle` degrees."""
    cosine, sine = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    wide, tall = extent
    return wide * cosine + tall * sine + 2, wide * sine + tall * cosine + 2


def _letters(page: Page) -> Image.Image:
    """The letters alone, turned: how much ink there is at each pixel."""
    face = opened(page.font, page.size)
    wide, tall = _extent(page.lines, face)
    mask = Image.new("L", (math.ceil(wide), math.ceil(tall)))
    pen = ImageDraw.Draw(mask)
    for number, line in enumerate(page.lines):
        pen.text((page.size / 2, page.size / 4 + number * height(face)), line, 255, face)
    return mask.rotate(page.angle, Image.Resampling.BICUBIC, expand=True) if page.angle else mask


def _background(page: Page, side: int) -> Image.Image:
    first, second = page.papers
    image = Image.new("RGB", (side, side), first)
    if page.ground == "shaded":
        shade = Image.linear_gradient("L").resize((side, side))
        image.paste(second, (0, 0), shade)
    elif page.ground == "grainy":
        grain = Image.frombytes("L", (side, side), random.Random(page.grain).randbytes(side * side))
        image.paste(second, (0, 0), grain)
    elif page.ground == "ruled":
        pen = ImageDraw.Draw(image)
        for at in range(page.grain % 16 + 8, side, side // 16):
            pen.line((0, at, side, at), second)
    return image


def _colours(generator: random.Random) -> tuple[Colour, tuple[Colour, Colour]]:
    """An ink and two papers on both of which it can be read: dark on light, or now and then light on dark."""
    while True:
        ink, paper = _colour(generator), _colour(generator)
        close = tuple(min(255, max(0, value + generator.randint(-24, 24))) for value in paper)
        papers = (paper, (close[0], close[1], close[2]))
        dark = generator.random() < 0.25
        if all(contrast(ink, each) >= _CONTRAST and (luminance(ink) > luminance(each)) == dark for each in papers):
            return ink, papers


def _colour(generator: random.Random) -> Colour:
    return generator.randrange(256), generator.randrange(256), generator.randrange(256)


def luminance(colour: Colour) -> float:
    """Relative luminance, 0 to 1, as WCAG 2 defines it."""
    linear = [v / 12.92 if (v := value / 255) <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """The contrast of two colours, 1 to 21, as WCAG 2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


PLUGIN = Typeset
