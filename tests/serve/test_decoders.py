"""Attack: a picture that takes its decoder down. It may fall; the server and the next picture must not notice."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL.features
import PIL.Image
import pytest

from processor.pictures import encoded, noise
from serve.hostile import MANY, PNG, until, works
from serve.kinds import turned
from vlmlab.processor.formats import decoded
from vlmlab.serve import media as serve_media
from vlmlab.serve.decoder import ANSWER, MEMORY, PICTURE, QUESTION, REFUSED
from vlmlab.serve.decoders import Bounds, Busy, Decoders, Refused


@pytest.fixture
def frail():
    """One process, one more picture may wait."""
    with Decoders(Bounds(processes=1, waiting=1, seconds=20.0)) as made:
        yield made


def endless_jpeg(scans: int = 100_000) -> bytes:
    """A progressive JPEG whose last scan comes again and again: some bytes each, and work for all of its blocks."""
    data = encoded(PIL.Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def test_a_picture_that_takes_for_ever():
    with Decoders(Bounds(processes=1, seconds=1.0)) as made:
        with pytest.raises(Refused, match=r"^picture 3: decoding it takes longer than 1 seconds; make it smaller"):
            made.decode(endless_jpeg(), "picture 3", 10 * MANY)
        assert made.replaced == 1 and works(made)


def test_a_process_that_nobody_waits_for_ends_by_itself(frail):
    """Its server is gone, say, while it computes: the system stops it."""
    (process,) = frail._all
    assert works(frail)
    data = endless_jpeg()
    process.line.sendall(QUESTION.pack(10 * MANY, 1, len(data)) + data)
    assert process.popen.wait(60) == -signal.SIGXCPU
    assert works(frail)


def test_a_process_that_hangs():
    with Decoders(Bounds(processes=1, seconds=1.0)) as made:
        assert works(made)
        os.kill(made.pids()[0], signal.SIGSTOP)
        with pytest.raises(Refused, match="longer than"):
            made.decode(PNG, "it", MANY)
        assert made.replaced == 1 and works(made)


def test_a_picture_that_takes_too_much_memory():
    with Decoders(Bounds(processes=1, memory=64 << 20)) as made:
        works(made)
        (pid,) = made.pids()
        with pytest.raises(Refused, match=r"^it: decoding it takes more memory than is allowed; make it"):
            made.decode(encoded(PIL.Image.new("I;16", (3000, 3000)), "PNG"), "it", 10 * MANY)
        assert made.replaced == 1 and made.pids() != [pid] and works(made)


def test_the_largest_picture_that_a_policy_allows_fits():
    """The dearest kinds, at as many bytes a pixel as a policy reckons with."""
    pixels = 2_000 * 2_000
    with Decoders(Bounds(processes=1, memory=serve_media._BYTES_A_PIXEL * pixels)) as made:
        assert works(made)
        for image, options in (
            (PIL.Image.new("I;16", (2000, 2000), 9), {"transparency": 9}),
            (PIL.Image.new("RGBA", (2000, 2000)), {}),
            (PIL.Image.new("LA", (2000, 2000)), {}),
            (PIL.Image.new("P", (2000, 2000)), {"transparency": 0}),
        ):
            assert made.decode(encoded(image, "PNG", **options), "it", pixels).size == (2000, 2000)
        for kind in ("JPEG", "WEBP", "AVIF", "TIFF", "JPEG2000", "GIF", "BMP"):
            if PIL.features.check({"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}.get(kind, "zlib")):
                data = turned(PIL.Image.new("RGB", (2000, 2000)), kind, 6) if kind == "JPEG" else None
                data = data or encoded(PIL.Image.new("RGB", (2000, 2000)), kind)
                assert made.decode(data, "it", pixels).size == (2000, 2000)
        assert made.replaced == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_process_that_crashes(frail, number):
    assert works(frail)
    (process,) = frail._all
    process.popen.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        told = threads.submit(frail.decode, PNG, "it", MANY)
        until(lambda: not process.sound)  # it has been asked
        process.popen.send_signal(number)
        process.popen.send_signal(signal.SIGCONT)
        with pytest.raises(Refused, match=r"^it: it could not be decoded$"):
            told.result(20)
    assert frail.replaced == 1 and works(frail)


def test_a_process_that_dies_while_idle_costs_no_picture(frail):
    assert works(frail)
    (process,) = frail._all
    process.popen.kill()
    process.popen.wait()
    assert works(frail) and frail.replaced == 1


def test_what_cannot_be_queued_is_turned_away(frail):
    """One is decoded, one waits, and the third is told at once; both that were taken get their own picture."""
    assert works(frail)
    (pid,) = frail.pids()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as threads:
        files = [encoded(noise(20, 20, seed), "PNG") for seed in (1, 2)]
        taken = [threads.submit(frail.decode, file, "it", MANY) for file in files]
        until(lambda: not frail._gate._places._value)
        with pytest.raises(Busy, match="too many pictures to decode at once"):
            frail.decode(PNG, "it", MANY)
        os.kill(pid, signal.SIGCONT)
        assert [each.result(20).tobytes() for each in taken] == [decoded(file, "it").tobytes() for file in files]
    assert works(frail) and frail.replaced == 0


def test_a_turn_that_does_not_come_in_time(frail):
    assert works(frail)
    (pid,) = frail.pids()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        taken = threads.submit(frail.decode, PNG, "it", MANY)
        until(lambda: not frail._idle)
        with pytest.raises(Busy, match="before this one"):
            frail.decode(PNG, "it", MANY, time.monotonic() + 0.1)
        os.kill(pid, signal.SIGCONT)
        assert taken.result(20)
    assert works(frail)


def test_many_at_once_each_get_their_own():
    files = [encoded(noise(30 + seed, 20, seed), "PNG") for seed in range(24)]
    with Decoders(Bounds(processes=2, waiting=24)) as made, ThreadPoolExecutor(12) as threads:
        there = list(threads.map(lambda file: made.decode(file, "it", MANY).tobytes(), files * 4))
    assert there == [decoded(file, "it").tobytes() for file in files] * 4


class Lying:
    """Stands in the place of a process that hostile bytes have taken over."""

    def __init__(self, decoders: Decoders, said: bytes) -> None:
        assert works(decoders)
        (process,) = decoders._all
        process.line.close()
        process.line, self.line = socket.socketpair()
        threading.Thread(target=self.lie, args=(said,), daemon=True).start()

    def lie(self, said: bytes) -> None:
        with self.line as line:
            line.recv(QUESTION.size, socket.MSG_WAITALL)
            line.recv(len(PNG), socket.MSG_WAITALL)
            line.sendall(said)


LIES = {
    "more pixels than allowed": ANSWER.pack(PICTURE, 1001, 1000, 3 * 1001 * 1000) + bytes(99),
    "a length that is not its size": ANSWER.pack(PICTURE, 10, 10, 299) + bytes(299),
    "a length beyond all memory": ANSWER.pack(PICTURE, 10, 10, 2**63) + bytes(300),
    "no pixels": ANSWER.pack(PICTURE, 0, 10, 0),
    "sides that overflow": ANSWER.pack(PICTURE, 2**32 - 1, 2**32 - 1, 3),
    "a reason without end": ANSWER.pack(REFUSED, 0, 0, 2**40),
    "another kind": ANSWER.pack(200, 1, 1, 3) + bytes(3),
    "ready again": ANSWER.pack(0, 0, 0, 0),
    "half an answer": ANSWER.pack(PICTURE, 10, 10, 300)[:5],
    "half a picture": ANSWER.pack(PICTURE, 10, 10, 300) + bytes(150),
    "nothing": b"",
}


@pytest.mark.parametrize("said", LIES.values(), ids=LIES)
def test_a_process_that_lies(frail, said):
    Lying(frail, said)
    with pytest.raises(Refused, match=r"^it: it could not be decoded$"):
        frail.decode(PNG, "it", MANY)
    assert frail.replaced == 1 and works(frail)


def test_a_process_that_lies_in_words(frail):
    reason = b"no\x1b[2J\r\npicture\0" + b"\xff" + b"a" * 1000
    Lying(frail, ANSWER.pack(REFUSED, 0, 0, len(reason)) + reason)
    with pytest.raises(Refused) as caught:
        frail.decode(PNG, "it", MANY)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_memory_said_short_is_told_as_such(frail):
    Lying(frail, ANSWER.pack(MEMORY, 0, 0, 0))
    with pytest.raises(Refused, match="more memory"):
        frail.decode(PNG, "it", MANY)
    assert works(frail)


def test_a_process_holds_nothing_of_the_server(monkeypatch):
    """No secret of its environment, no open file, no torch."""
    monkeypatch.setenv("VLMLAB_API_KEY", "the-secret")
    with io.BytesIO(), socket.create_server(("127.0.0.1", 0)), Decoders(Bounds(processes=1)) as made:
        assert works(made)
        (pid,) = made.pids()
        about = Path(f"/proc/{pid}")
        assert b"the-secret" not in (about / "environ").read_bytes()
        assert sorted(each.name for each in (about / "fd").iterdir()) == ["0", "1", "2"]
        assert "torch" not in (about / "maps").read_text(encoding="ascii")
        assert os.getsid(pid) != os.getsid(0)  # Ctrl-C at a terminal does not reach it


CONFINED = """
import socket, subprocess
from vlmlab.serve import decoder
decoder.prepare()
decoder.confine(64 << 20)
for attempt in (lambda: open("/etc/hostname"), lambda: socket.socket(), lambda: bytearray(100 << 20),
                lambda: open(2, "wb", buffering=0, closefd=False).write(b"x")):
    try:
        attempt()
        print("did")
    except (OSError, MemoryError) as error:
        print(type(error).__name__)
"""


def test_a_process_can_open_nothing_and_grow_no_further(tmp_path):
    with (tmp_path / "out").open("wb") as out:
        run = [sys.executable, "-c", CONFINED]
        path = os.pathsep.join(place for place in sys.path if place)
        done = subprocess.run(run, stdout=subprocess.PIPE, stderr=out, text=True, env={"PYTHONPATH": path})
    assert done.stdout.split() == ["OSError", "OSError", "MemoryError", "OSError"]


def test_a_process_ends_with_the_server():
    script = (
        "import os, signal\nfrom vlmlab.serve.decoders import Bounds, Decoders\n"
        "made = Decoders(Bounds(processes=2))\nprint(*made.pids(), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = os.pathsep.join(place for place in sys.path if place)
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, env={"PYTHONPATH": path})
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_closing_ends_the_processes_and_turns_pictures_away():
    made = Decoders(Bounds(processes=2))
    assert works(made)
    pids = made.pids()
    made.close()
    assert not any(alive(pid) for pid in pids) and made.pids() == []
    with pytest.raises(Busy, match="closing"):
        made.decode(PNG, "it", MANY)
    made.close()


def test_closing_turns_away_what_is_being_decoded(frail):
    assert works(frail)
    (process,) = frail._all
    process.popen.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        told = threads.submit(frail.decode, PNG, "it", MANY)
        until(lambda: not process.sound)
        frail.close()
        with pytest.raises(Busy, match="closing"):
            told.result(10)


def test_a_process_that_cannot_start_is_said(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("true"))  # ends at once
        made = Decoders(Bounds(processes=1))
        with contextlib.closing(made), pytest.raises(RuntimeError, match="did not start"):
            made.decode(PNG, "it", MANY)


def test_after_a_process_that_could_not_start_another_is_tried(monkeypatch):
    made = Decoders(Bounds(processes=1))
    with contextlib.closing(made):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", shutil.which("true"))
            with contextlib.suppress(RuntimeError):  # unless it had started already
                made.decode(PNG, "it", MANY)
        assert works(made)


@pytest.mark.parametrize("changes", [{"processes": 0}, {"waiting": -1}, {"seconds": 0.0}, {"memory": 1000}])
def test_bounds_that_cannot_be(changes):
    with pytest.raises(ValueError, match="decoding needs"):
        Bounds(**changes)
