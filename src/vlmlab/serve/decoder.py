"""A process that decodes pictures for another, and can do little else: `decoders.py` starts it and speaks with it.

It asks and answers over the socket it is given as its input. Before it reads the first picture it has imported all that
decoding needs, and gives up the right to open anything: no file, no socket, no more memory than it was allowed. Nothing
but bytes of known length goes over the socket, and nothing in them is executed.
"""

import io
import math
import resource
import socket
import struct
import sys
import time
from pathlib import Path

import PIL.features
import PIL.Image

from vlmlab.processor.formats import decoded

QUESTION = struct.Struct(">QQQ")
"""Pixels allowed, seconds of computing allowed, bytes that follow: the picture's file."""

ANSWER = struct.Struct(">BIIQ")
"""What it is, width, height, bytes that follow: RGB pixels row by row, or a reason in UTF-8."""

READY, PICTURE, REFUSED, MEMORY = range(4)
"""What an answer is; after `MEMORY` the process ends."""

NAME = "picture"
"""What reasons call every picture; who asked knows its name."""

_SAMPLES = {"BMP": "", "GIF": "", "JPEG": "jpg", "JPEG2000": "jpg_2000", "PNG": "zlib", "TIFF": ""}
_SAMPLES |= {"WEBP": "webp", "AVIF": "avif"}


def main() -> None:
    """Prepare, say so, and answer until nobody asks. The one argument is how many bytes decoding may take."""
    line = socket.socket(fileno=sys.stdin.fileno())
    try:
        prepare()
        confine(int(sys.argv[1]))
    except Exception as error:  # whatever it is, who started this process should hear it
        answer(line, REFUSED, f"{type(error).__name__}: {error}".encode(errors="replace"))
        return
    answer(line, READY)
    while head := receive(line, QUESTION.size):
        pixels, seconds, length = QUESTION.unpack(head)
        try:
            data = receive(line, length)
            _allow_seconds(seconds)
            one(line, bytes(data), pixels)
        except MemoryError:
            answer(line, MEMORY)
            return


def prepare() -> None:
    """Decode a little of everything, so that whatever is imported late is there."""
    PIL.Image.init()
    if PIL.features.check("avif"):
        from PIL import AvifImagePlugin  # younger than the oldest Pillow that will do

        # More threads would each take address space, which is limited, and other processes have the other cores.
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    image = PIL.Image.new("RGB", (16, 16), (90, 30, 60))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for kind, codec in _SAMPLES.items():
        if not codec or PIL.features.check(codec):
            file = io.BytesIO()
            image.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {}))
            decoded(file.getvalue(), NAME)
    for mode in ("I;16", "LA", "CMYK"):
        decoded(PIL.Image.new(mode, (4, 4)), NAME)


def confine(memory: int) -> None:
    """Limit this process for good: `memory` bytes more than it has now, no new file or socket, no file written."""
    size = Path("/proc/self/statm")
    if size.exists():  # elsewhere than on Linux the limit of address space is not kept
        most = int(size.read_text(encoding="ascii").split()[0]) * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # What is open stays open; whatever would be opened now would get a number beyond the last that is allowed.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _allow_seconds(seconds: int) -> None:
    """Have the system end this process when it has computed for so long from now, even if nobody waits for it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + seconds, hard))


def one(line: socket.socket, data: bytes, pixels: int) -> None:
    """Decode a picture and answer. Raises MemoryError where there is too little."""
    # Some decoders take memory for the whole picture as they read its header: Pillow itself refuses before they do.
    # It does so at more than twice the number it is told.
    PIL.Image.MAX_IMAGE_PIXELS = (pixels + 1) // 2
    try:
        image = decoded(data, NAME, pixels)
    except ValueError as error:
        if isinstance(error.__cause__, MemoryError):
            raise MemoryError from None
        answer(line, REFUSED, reason(error).encode(errors="replace"))
    else:
        answer(line, PICTURE, image.tobytes(), image.size)


def reason(error: ValueError) -> str:
    """What a stranger may hear: without a decoder's own words, which can hold addresses of this process's memory."""
    text = str(error)
    return text if error.__cause__ is None else text.removesuffix(f": {error.__cause__}")


def answer(line: socket.socket, kind: int, payload: bytes = b"", size: tuple[int, int] = (0, 0)) -> None:
    """Send an answer whole."""
    line.sendall(ANSWER.pack(kind, *size, len(payload)))
    line.sendall(payload)


def receive(line: socket.socket, length: int) -> bytearray:
    """So many bytes; none when the other side has gone. Raises MemoryError where there is no room for them."""
    data = bytearray(length)
    view = memoryview(data)
    while len(view):
        some = line.recv_into(view)
        if not some:
            return bytearray()
        view = view[some:]
    return data


if __name__ == "__main__":
    main()
