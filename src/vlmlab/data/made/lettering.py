"""Letters on pictures: Pillow's own font, which is the same on every machine, and lines broken to a width."""

import functools
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont

_NOWHERE = "\uffff"  # no character, so that every font draws what it draws for characters it does not know


@functools.lru_cache(maxsize=64)
def own_font(size: int) -> Font:
    """The font that comes inside Pillow, `size` pixels high. Raises ValueError where Pillow has no FreeType."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError("Pillow was built without FreeType, which draws letters; install Pillow's own wheel")
    return font


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """Text broken at spaces into lines of at most `width` pixels; a word that is longer has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def missing(text: str, font: Font) -> str:
    """The characters of `text` that a font has no picture of, each once: it would draw an empty box in their place."""
    box = _shape(_NOWHERE, font)
    return "".join(letter for letter in dict.fromkeys(text) if not letter.isspace() and _shape(letter, font) == box)


def _shape(letter: str, font: Font) -> bytes:
    drawn = font.getmask(letter)
    return bytes(drawn) + repr(drawn.size).encode()


def height(font: Font) -> int:
    """From one line to the next, in pixels."""
    return sum(font.getmetrics())
