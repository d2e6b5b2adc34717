"""Letters on pictures: Pillow's own font, which is the same on every machine, and lines broken to a width."""

import functools
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont


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


def height(font: Font) -> int:
    """From one line to the next, in pixels."""
    return sum(font.getmetrics())
