"""Fonts: those that the system has, those of a folder, and the one inside Pillow."""

import functools
from pathlib import Path
from typing import Literal

from PIL import ImageFont

from vlmlab.data.made.lettering import Font, missing, own_font

Choice = Literal["own", "system"] | Path
"""`own`: Pillow's font alone, the same everywhere. `system`: that and all that are installed. Or a folder of fonts."""

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
_OWN = ""


@functools.cache
def found(choice: Choice) -> tuple[str, ...]:
    """The fonts of a choice, in order of their files' names; the empty one is Pillow's own.

    Raises ValueError for a folder without fonts.
    """
    if choice == "own":
        return (_OWN,)
    folders = [Path(folder) for folder in _FOLDERS] if choice == "system" else [Path(choice)]
    files = [path for folder in folders for path in folder.expanduser().rglob("*")]
    fonts = sorted((p for p in files if p.suffix.lower() in (".ttf", ".otf")), key=lambda path: (path.name, path))
    if choice == "system":
        return (_OWN, *map(str, fonts))
    if not fonts:
        raise ValueError(f"fonts: no .ttf or .otf files in {choice}")
    return tuple(map(str, fonts))


@functools.lru_cache(maxsize=256)
def opened(name: str, size: int) -> Font:
    """A font, `size` pixels high. Raises ValueError naming the file that is none."""
    if name == _OWN:
        return own_font(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError as error:
        raise ValueError(f"{name}: not a font that can be read: {error}") from None


@functools.lru_cache(maxsize=100_000)
def knows(name: str, letter: str) -> bool:
    """Whether a font has a picture of a letter. A file that is no font knows none."""
    try:
        return not missing(letter, opened(name, 24))
    except ValueError:
        return False
