"""Small pictures of every kind that is read."""

import numpy as np
import PIL.features
import PIL.Image

from processor.pictures import encoded, noise


def turned(image: PIL.Image.Image, kind: str, orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif)


def alpha() -> PIL.Image.Image:
    image = noise(40, 30).convert("RGBA")
    image.putalpha(PIL.Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40)))
    return image


def grey16() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(1).integers(0, 65536, (30, 40), dtype=np.uint16))


def good() -> dict[str, bytes]:
    """Pictures of every kind that is read."""
    image = noise(40, 30)
    found = {kind: encoded(image, kind) for kind in ("BMP", "GIF", "JPEG", "PNG", "TIFF", "PPM")}
    codecs = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
    found |= {kind: encoded(image, kind) for kind, codec in codecs.items() if PIL.features.check(codec)}
    found |= {f"JPEG turned {at}": turned(image, "JPEG", at) for at in range(1, 9)}
    found |= {
        "JPEG progressive": encoded(image, "JPEG", progressive=True),
        "JPEG in CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "JPEG grey": encoded(image.convert("L"), "JPEG"),
        "PNG see-through": encoded(alpha(), "PNG"),
        "PNG grey see-through": encoded(alpha().convert("LA"), "PNG"),
        "PNG with a palette": encoded(image.quantize(16), "PNG", transparency=3),
        "PNG of two colours": encoded(image.convert("1"), "PNG"),
        "PNG of 16 bits": encoded(grey16(), "PNG", transparency=int(np.asarray(grey16())[0, 0])),
        "TIFF of 16 bits": encoded(grey16(), "TIFF"),
        "TIFF packed": encoded(image, "TIFF", compression="tiff_lzw"),
        "TIFF of JPEG": encoded(image, "TIFF", compression="jpeg"),
        "GIF of two": encoded(image, "GIF", save_all=True, append_images=[noise(40, 30, 1)]),
        "one pixel": encoded(noise(1, 1), "PNG"),
        "a photo": encoded(noise(1600, 1200), "JPEG"),
    }
    return found
