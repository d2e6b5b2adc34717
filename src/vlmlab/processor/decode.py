"""Opening pictures: whatever the file, an upright RGB picture, or a ValueError that names it and says why."""

import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
from PIL.Image import Transpose

from vlmlab.batch import Picture
from vlmlab.media import MAX_BYTES, read_data_url

MAX_PIXELS = 80_000_000
"""Pictures of more pixels than this are refused before they are decoded."""

Fetch = Callable[[str], bytes]

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


def open_picture(picture: Picture, fetch: Fetch | None = None, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """The picture, decoded: RGB, turned as its EXIF orientation says, transparency over white, the first frame.

    16-bit greys are scaled to 8 bits. `fetch` gets the bytes of an http(s) URL; without it, URLs are refused. A PIL
    image is read as it stands and not changed. Raises ValueError naming the picture.
    """
    source = picture.source
    if isinstance(source, str | Path):
        source = read(str(source), fetch, picture.name)
    image = _recognise(source, picture.name) if isinstance(source, bytes) else source
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{picture.name}: {width} x {height} pixels are more than the {max_pixels} allowed; make it smaller first"
        )
    try:
        with _loading if image is source else threading.Lock():  # one PIL image may stand in several samples
            image.load()
        upright = _UPRIGHT.get(_orientation(image))
    except Exception as error:  # decoders raise anything on damaged or hostile bytes
        raise ValueError(f"{picture.name}: damaged, or cut short: {error}") from error
    try:
        image = to_rgb(image)
    except ValueError as error:
        raise ValueError(f"{picture.name}: {error}") from error
    return image if upright is None else image.transpose(upright)


def _recognise(data: bytes, name: str) -> PIL.Image.Image:
    """An image whose header has been read, and no more."""
    try:
        try:
            return PIL.Image.open(io.BytesIO(data), formats=_COMMON)
        except PIL.UnidentifiedImageError:
            PIL.Image.init()
            further = [name for name in _FURTHER if name in PIL.Image.OPEN]
            return PIL.Image.open(io.BytesIO(data), formats=further)
    except PIL.UnidentifiedImageError:
        kind = "not a picture in a format that can be read" if data else "it is empty"
        raise ValueError(f"{name}: {kind}") from None
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"{name}: too many pixels: {error}") from None
    except Exception as error:  # decoders raise anything on damaged or hostile bytes
        raise ValueError(f"{name}: cannot be opened: {error}") from error


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation of a loaded image; a picture whose EXIF data cannot be read is taken to be upright."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels are good: what stands beside them is not worth refusing them for
        return 1


def read(place: str, fetch: Fetch | None, name: str) -> bytes:
    """The encoded bytes at a path, an http(s) URL or a data URL. Raises ValueError that starts with `name`."""
    scheme = place[:16].lower()
    try:
        if scheme.startswith("data:"):
            return read_data_url(place)
        if scheme.startswith(("http://", "https://")):
            if fetch is None:
                raise ValueError("pictures are not fetched from URLs here; pass a file, or allow URLs")
            return fetch(place)
        if "://" in scheme:
            raise ValueError("only http, https and data URLs can name a picture")
        return _read_file(Path(place))
    except ValueError as error:
        known = str(error).startswith(name)
        raise ValueError(str(error) if known else f"{name}: {error}") from None


def _read_file(path: Path) -> bytes:
    try:
        if not path.exists():
            raise ValueError("no such picture")
        if not path.is_file():
            raise ValueError("not a file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"the file has more than the {MAX_BYTES} bytes a picture may have")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


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
