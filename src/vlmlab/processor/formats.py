"""Bytes of a picture's file to upright RGB pixels, and nothing else: what reads hostile bytes imports little."""

import io
import threading

import numpy as np
import PIL.Image
from PIL.Image import Transpose

MAX_PIXELS = 80_000_000
"""Pictures of more pixels than this are refused before they are decoded."""

# Formats are tried by name: Pillow also knows some that start other programs. The first are there without loading more.
_COMMON = ("BMP", "GIF", "JPEG", "PNG", "PPM")
_FURTHER = ("AVIF", "HEIF", "JPEG2000", "MPO", "TIFF", "WEBP")

# What undoes each EXIF orientation; 1 is upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

_loading = threading.Lock()


def decoded(source: bytes | PIL.Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """A picture from its file's bytes: RGB, turned as its EXIF orientation says, transparency over white, first frame.

    16-bit greys are scaled to 8 bits. A PIL image is read as it stands and not changed. Raises ValueError that begins
    with `name`; where a decoder complained, its error is the cause and its words are the last.
    """
    image = _recognise(source, name, max_pixels) if isinstance(source, bytes) else source
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {width} x {height} pixels are more than the {max_pixels} allowed; make it smaller first"
        )
    try:
        with _loading if image is source else threading.Lock():  # one PIL image may stand in several samples
            image.load()
        upright = _UPRIGHT.get(_orientation(image))
    except Exception as error:  # decoders raise anything on damaged or hostile bytes
        raise ValueError(f"{name}: damaged, or cut short: {error}") from error
    try:
        image = to_rgb(image)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return image if upright is None else image.transpose(upright)


def _recognise(data: bytes, name: str, max_pixels: int) -> PIL.Image.Image:
    """An image whose header has been read, and no more."""
    try:
        try:
            return PIL.Image.open(io.BytesIO(data), formats=_COMMON)
        except PIL.UnidentifiedImageError:
            PIL.Image.init()
            further = [kind for kind in _FURTHER if kind in PIL.Image.OPEN]
            return PIL.Image.open(io.BytesIO(data), formats=further)
    except PIL.UnidentifiedImageError:
        kind = "not a picture in a format that can be read" if data else "it is empty"
        raise ValueError(f"{name}: {kind}") from None
    except PIL.Image.DecompressionBombError:
        allowed = min(max_pixels, 2 * (PIL.Image.MAX_IMAGE_PIXELS or max_pixels))
        raise ValueError(f"{name}: more than the {allowed} pixels allowed; make it smaller first") from None
    except Exception as error:  # decoders raise anything on damaged or hostile bytes
        raise ValueError(f"{name}: cannot be opened: {error}") from error


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation of a loaded image; a picture whose EXIF data cannot be read is taken to be upright."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels are good: what stands beside them is not worth refusing them for
        return 1


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any mode as RGB: transparency is laid over white, wide integers are scaled to 8 bits.

    Raises ValueError for pixels without a defined range, or a mode that cannot be converted.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save the picture with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _narrow(image)
    if image.mode == "La":
        image = image.convert("LA")
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "PA"):
        rgba = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", rgba.size, (255, 255, 255)), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _narrow(image: PIL.Image.Image) -> PIL.Image.Image:
    """16-bit grey as 8-bit, rounded; a value that stands for transparency makes its pixels transparent."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit integer pixels have no defined range; save the picture with 8 or 16 bits")
    grey = PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        grey.putalpha(PIL.Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey
