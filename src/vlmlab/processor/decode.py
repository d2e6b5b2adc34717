"""Opening pictures: whatever the file, an upright RGB picture comes of it, or a ValueError that names it and says why."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from vlmlab.batch import Picture
from vlmlab.media import read_data_url

MAX_PIXELS = 80_000_000
"""Pictures of more pixels than this are refused before they are decoded."""

Fetch = Callable[[str], bytes]


def open_picture(picture: Picture, fetch: Fetch | None = None, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """The picture, decoded: RGB, turned as its EXIF orientation says, transparency over white, the first frame.

    16-bit greys are scaled to 8 bits. `fetch` gets the bytes of an http(s) URL; without it, URLs are refused.
    Raises ValueError naming the picture.
    """
    source = picture.source
    if isinstance(source, str | Path):
        source = read(str(source), fetch, picture.name)
    try:
        image = PIL.Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source
    except PIL.UnidentifiedImageError:
        kind = "it is empty" if not source else "not a picture in a format that can be read"
        raise ValueError(f"{picture.name}: {kind}") from None
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"{picture.name}: too many pixels: {error}") from None
    except Exception as error:  # decoders raise anything on damaged or hostile bytes
        raise ValueError(f"{picture.name}: cannot be opened: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{picture.name}: {width} x {height} pixels are more than the {max_pixels} allowed; make it smaller first"
        )
    try:
        if isinstance(picture.source, PIL.Image.Image):
            image = image.copy()
        image.load()
        return to_rgb(PIL.ImageOps.exif_transpose(image))
    except Exception as error:
        raise ValueError(f"{picture.name}: damaged, or cut short: {error}") from error


def read(place: str, fetch: Fetch | None, name: str) -> bytes:
    """The encoded bytes at a path, an http(s) URL or a data URL."""
    if place.startswith("data:"):
        return read_data_url(place)
    if place.lower().startswith(("http://", "https://")):
        if fetch is None:
            raise ValueError(f"{name}: pictures are not fetched from URLs here; pass a file, or allow URLs")
        return fetch(place)
    if "://" in place[:16]:
        raise ValueError(f"{name}: only http, https and data URLs can name a picture")
    try:
        return Path(place).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{name}: no such picture") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: cannot be read: {error}") from None


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any mode as RGB: transparency is laid over white, wide integers are scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save the picture with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if image.mode == "I" and values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError("32-bit integer pixels have no defined range; save the picture with 8 or 16 bits")
        image = PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))
    rgba = image.convert("RGBA")
    white = PIL.Image.new("RGBA", rgba.size, (255, 255, 255))
    return PIL.Image.alpha_composite(white, rgba).convert("RGB")
