"""Attack: pictures that unpack to far more than they are. And the good ones, which must come out as they do here."""

import struct
import zlib

import pytest

from processor.pictures import encoded, noise
from serve.hostile import MANY, PNG, memory, works
from serve.kinds import good
from vlmlab.processor.formats import decoded
from vlmlab.serve.decoders import Bounds, Decoders, Refused


@pytest.fixture(scope="module")
def decoders():
    with Decoders(Bounds(processes=1)) as made:
        yield made
        assert made.replaced == 0


@pytest.mark.parametrize("name", good())
def test_decoded_elsewhere_as_here(decoders, name):
    data = good()[name]
    here, there = decoded(data, "it"), decoders.decode(data, "it", 10 * MANY)
    assert (there.mode, there.size) == ("RGB", here.size)
    assert there.tobytes() == here.tobytes()


def test_reasons_are_those_of_here_without_the_decoders_own_words(decoders):
    for data in (b"", b"nothing", PNG[:60], encoded(noise(300, 200), "JPEG")[:999], encoded(noise(9, 9), "TIFF")[:99]):
        with pytest.raises(ValueError) as here:
            decoded(data, "picture 7")
        with pytest.raises(Refused) as there:
            decoders.decode(data, "picture 7", MANY)
        assert str(here.value).startswith(str(there.value)) and "0x" not in str(there.value)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = zlib.compress(bytes(100))) -> bytes:
    """A grey PNG that says it is so large, with more chunks before its pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def patched(data: bytes, at: int, kind: str, *values: int) -> bytes:
    return data[:at] + struct.pack(kind, *values) + data[at + struct.calcsize(kind) :]


def tiff(width: int, height: int) -> bytes:
    """Little-endian, uncompressed, one strip that is not there."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height)]
    entries += [(279, 4, width * height & 0xFFFFFFFF)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + bytes(4)


def vp8x(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size + encoded(noise(9, 9), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg2000(width: int, height: int) -> bytes:
    data = encoded(noise(40, 30), "JPEG2000")
    at = data.index(b"ihdr") + 4
    data = patched(data, at, ">II", height, width)
    siz = data.index(b"\xff\x51") + 6
    return patched(data, siz, ">II", width, height)


def avif(width: int, height: int) -> bytes:
    data = encoded(noise(40, 30), "AVIF")
    return patched(data, data.index(b"ispe") + 8, ">II", width, height)


ZEROS = zlib.compress(bytes(200 * MANY), 9)
"""200 MB in 200 kB."""

BOMBS = {
    "a PNG of 60,000 by 60,000": lambda: png(60_000, 60_000),
    "a PNG of four billion squared": lambda: png(2**31 - 1, 2**31 - 1),
    "a PNG of one long row": lambda: png(2**31 - 1, 1),
    "a PNG just over the limit": lambda: png(1001, 1000),
    "a PNG with more pixels than it says": lambda: png(10, 10, data=ZEROS),
    "a PNG with text that unpacks to 200 MB": lambda: png(10, 10, (b"zTXt", b"Comment\0\0" + ZEROS)),
    "a PNG with international text of 200 MB": lambda: png(10, 10, (b"iTXt", b"Comment\0\1\0\0\0" + ZEROS)),
    "a PNG with a colour profile of 200 MB": lambda: png(10, 10, (b"iCCP", b"sRGB\0\0" + ZEROS)),
    "a PNG with a thousand texts": lambda: png(10, 10, *[(b"zTXt", b"C\0\0" + zlib.compress(bytes(10**6)))] * 1000),
    "a GIF of 65,535 by 65,535": lambda: patched(encoded(noise(9, 9), "GIF"), 6, "<HH", 65535, 65535),
    "a GIF with a frame larger than itself": lambda: (
        lambda data: patched(data, data.index(b"\x2c", 13 + 3 * 128) + 5, "<HH", 60_000, 60_000)
    )(encoded(noise(9, 9).quantize(128), "GIF")),
    "a BMP of 40,000 by 40,000": lambda: patched(encoded(noise(9, 9), "BMP"), 18, "<ii", 40_000, 40_000),
    "a BMP of negative height": lambda: patched(encoded(noise(9, 9), "BMP"), 18, "<ii", 40_000, -40_000),
    "a JPEG of 65,535 by 65,535": lambda: (
        lambda data: patched(data, data.index(b"\xff\xc0") + 5, ">HH", 65535, 65535)
    )(encoded(noise(40, 30), "JPEG")),
    "a TIFF of 60,000 by 60,000": lambda: tiff(60_000, 60_000),
    "a WebP of 16,384 by 16,384": lambda: vp8x(16_384, 16_384),
    "a JPEG 2000 of 60,000 by 60,000": lambda: jpeg2000(60_000, 60_000),
    "an AVIF of 9,000 by 9,000": lambda: avif(9_000, 9_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_go_off(decoders, name):
    """Whether it is refused or read as the little picture it holds, it takes no more memory than that."""
    works(decoders)
    (pid,) = decoders.pids()
    before = memory(pid, "VmHWM")
    data = BOMBS[name]()
    try:
        image = decoders.decode(data, "it", MANY)
    except Refused as error:
        assert "longer" not in str(error) and "memory" not in str(error)
    else:
        assert image.width * image.height <= MANY
    assert decoders.pids() == [pid]
    assert memory(pid, "VmHWM") - before < (32 << 20) + 3 * len(data)
    assert works(decoders)


def test_bombs_that_say_their_size_are_refused_for_it(decoders):
    for name in BOMBS:
        if " by " in name or "over the limit" in name:
            with pytest.raises(Refused, match="more than the 1000000 pixels allowed"):
                decoders.decode(BOMBS[name](), "it", MANY)
