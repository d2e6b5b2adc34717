"""Opening pictures: whatever the file, an upright RGB picture, or a ValueError that names it and says why."""

from collections.abc import Callable
from pathlib import Path

import PIL.Image

from vlmlab.batch import Picture
from vlmlab.media import MAX_BYTES, read_data_url
from vlmlab.processor.formats import MAX_PIXELS, decoded

Fetch = Callable[[str], bytes]


def open_picture(picture: Picture, fetch: Fetch | None = None, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """The picture, decoded: RGB, turned as its EXIF orientation says, transparency over white, the first frame.

    16-bit greys are scaled to 8 bits. `fetch` gets the bytes of an http(s) URL; without it, URLs are refused. A PIL
    image is read as it stands and not changed. Raises ValueError naming the picture.
    """
    source = picture.source
    if isinstance(source, str | Path):
        source = read(str(source), fetch, picture.name)
    return decoded(source, picture.name, max_pixels)


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
