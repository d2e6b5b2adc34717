"""Whatever the file: decoded right, or a ValueError that names the picture and says why."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from processor.pictures import encoded, noise
from vlmlab.batch import Picture
from vlmlab.processor.decode import open_picture
from vlmlab.processor.formats import to_rgb


def opened(data, **options) -> np.ndarray:
    image = open_picture(Picture.of(data, "the picture"), **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def refused(data, reason, **options):
    with pytest.raises(ValueError, match=f"^the picture: .*{reason}"):
        open_picture(Picture.of(data, "the picture"), **options)


def with_orientation(image, kind, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif)


UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
STORED = {  # what lies in the file, for each orientation, so that the same picture is seen
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation(kind, orientation):
    stored = PIL.Image.fromarray(np.ascontiguousarray(STORED[orientation])).convert("RGB")
    options = {"lossless": True} if kind == "WEBP" else {}
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    seen = opened(encoded(stored, kind, exif=exif, **options))
    assert np.array_equal(seen[..., 0], UPRIGHT)


def test_orientation_of_a_photo_and_of_one_in_memory():
    photo = with_orientation(noise(40, 20), "JPEG", 6)
    assert opened(photo).shape == (40, 20, 3)
    image = PIL.Image.open(io.BytesIO(photo))
    assert opened(image).shape == (40, 20, 3)
    assert image.size == (40, 20) and image.getexif()[0x0112] == 6  # left as it was given


def test_exif_that_cannot_be_read_leaves_a_picture_upright():
    good = encoded(noise(40, 20), "JPEG")
    bad = b"Exif\0\0MM\0\x2a\0\0\xff\xf0broken"
    data = good[:2] + b"\xff\xe1" + struct.pack(">H", len(bad) + 2) + bad + good[2:]
    assert opened(data).shape == (20, 40, 3)


def test_cmyk():
    red = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    seen = opened(encoded(red, "JPEG"))
    assert seen[..., 0].min() > 240 and seen[..., 1:].max() < 15


def test_palette_with_transparency():
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert opened(encoded(image, "PNG", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert opened(encoded(image, "GIF", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert opened(encoded(image, "PNG")).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_alpha_is_laid_over_white():
    image = PIL.Image.fromarray(np.array([[[0, 100, 200, 0], [0, 100, 200, 255], [0, 0, 0, 51]]], dtype=np.uint8))
    assert opened(encoded(image, "PNG")).tolist() == [[[255] * 3, [0, 100, 200], [204] * 3]]
    assert opened(encoded(image.convert("LA"), "PNG"))[0, 2].tolist() == [204] * 3
    assert opened(image.convert("RGBa"))[0, 2].tolist() == [204] * 3
    assert opened(image.convert("LA").convert("La"))[0, 2].tolist() == [204] * 3


def test_a_colour_that_stands_for_transparency():
    image = PIL.Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    assert opened(encoded(image, "PNG", transparency=(4, 5, 6))).tolist() == [[[1, 2, 3], [255] * 3]]


def test_one_bit():
    image = PIL.Image.fromarray(np.array([[0, 255, 0]], dtype=np.uint8)).convert("1")
    for kind in ("PNG", "TIFF", "BMP"):
        assert opened(encoded(image, kind))[0, :, 1].tolist() == [0, 255, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey(kind):
    image = PIL.Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16))
    assert opened(encoded(image, kind))[0].tolist() == [[v] * 3 for v in (0, 1, 1, 128, 255)]


def test_16_bit_grey_with_transparency():
    image = PIL.Image.fromarray(np.array([[0, 300, 65535]], dtype=np.uint16))
    seen = to_rgb(PIL.Image.open(io.BytesIO(encoded(image, "PNG", transparency=300))))
    assert np.asarray(seen)[0, :, 0].tolist() == [0, 255, 255]


def test_pixels_without_a_range_are_refused():
    refused(encoded(PIL.Image.new("F", (3, 3), 0.5), "TIFF"), "floating-point")
    refused(encoded(PIL.Image.fromarray(np.full((3, 3), 70000, dtype=np.int32)), "TIFF"), "32-bit")


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
def test_odd_sizes(size):
    image = noise(*size)
    assert np.array_equal(opened(encoded(image, "PNG")), np.asarray(image))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame(kind):
    frames = [PIL.Image.new("RGB", (4, 3), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (opened(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_cut_short(kind):
    data = encoded(noise(200, 200), kind)
    for end in (len(data) // 2, len(data) // 20, 20):
        refused(data[:end], "damaged|cannot|not a picture")


def test_damaged_png():
    data = bytearray(encoded(noise(200, 200), "PNG"))
    data[len(data) // 2] ^= 255
    refused(bytes(data), "damaged")


def test_what_is_no_picture():
    refused(b"", "empty")
    refused(b"%PDF-1.7 and so on", "not a picture")
    refused(b"a plain text, longer than any header" * 40, "not a picture")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not a picture")  # runs a program
    with pytest.raises(ValueError, match="not a picture"):
        Picture.of(3)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claims(width, height):
    """A PNG of a few bytes that says it is so large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_before_they_are_decoded():
    refused(claims(60000, 60000), "pixels")
    refused(claims(10000, 9000), "10000 x 9000 pixels are more than the 80000000")
    refused(claims(2**31 - 1, 2**31 - 1), "pixels")
    refused(encoded(noise(30, 20), "PNG"), "30 x 20 pixels are more than the 500", max_pixels=500)


def test_places(tmp_path):
    image = noise(9, 7)
    path = tmp_path / "one.png"
    image.save(path)
    for place in (path, str(path)):
        assert np.array_equal(opened(place), np.asarray(image))
    refused(tmp_path / "none.png", "no such picture")
    refused(tmp_path, "not a file")
    refused("/dev/zero", "not a file")
    refused("file:///etc/hostname", "only http")
    refused("a\0b", "")
    refused("data:image/png;base64,****", "base64")
    refused("data:image/png,abc", "data URL should look like")


def test_urls_are_off_unless_a_fetcher_is_handed_in():
    refused("https://example.org/a.png", "not fetched from URLs")
    refused("HTTP://example.org/a.png", "not fetched from URLs")
    image = noise(9, 7)
    asked = []

    def fetch(url):
        asked.append(url)
        return encoded(image, "PNG")

    assert np.array_equal(opened("https://example.org/a.png", fetch=fetch), np.asarray(image))
    assert asked == ["https://example.org/a.png"]

    def fails(url):
        raise ValueError("the host is private")

    refused("https://example.org/a.png", "the host is private", fetch=fails)
