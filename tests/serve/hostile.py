"""Servers that misbehave, on this machine only, and the names that lead to them."""

import contextlib
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from processor.pictures import encoded, noise
from vlmlab import media
from vlmlab.processor.formats import decoded
from vlmlab.serve.decoders import Decoders, Refused
from vlmlab.serve.media import Pictures, Policy, is_reachable

PNG = encoded(noise(30, 20), "PNG")
LATE = "picture 1: it took longer than is allowed"
UNREACHABLE = "picture 1: its address cannot be reached safely from here"

MANY = 1_000_000
"""More pixels than most of the tests' pictures have."""

OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
"""Two addresses of this machine: one stands for the open internet, the other for the network inside."""

Behaviour = Callable[["Server"], Iterator[bytes]]


def answer(body: bytes = PNG, *, status: str = "200 OK", length: int | None = None, extra: str = "") -> bytes:
    """A whole answer of HTTP."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{extra}\r\n".encode("latin-1") + body


def once(data: bytes) -> Behaviour:
    return lambda server: iter([data])


def redirect(location: str, status: str = "302 Found") -> Behaviour:
    return once(answer(b"", status=status, extra=f"Location: {location}\r\n"))


def drip(head: bytes, drops: bytes, pause: float = 0.02) -> Behaviour:
    """First some, then the rest byte by byte."""

    def behave(server: "Server") -> Iterator[bytes]:
        yield head
        for drop in drops:
            if server.over.wait(pause):
                return
            yield bytes([drop])

    return behave


def silence(server: "Server") -> Iterator[bytes]:
    server.over.wait(20)
    yield from ()


def endless(head: bytes, some: bytes) -> Behaviour:
    """Bytes without end, or nearly: a test that is not refused ends by itself."""

    def behave(server: "Server") -> Iterator[bytes]:
        yield head
        for _ in range(200):
            if server.over.is_set():
                return
            yield some

    return behave


class Server(socketserver.ThreadingTCPServer):
    """Answers each path in its own way, and remembers what it was asked."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: str = OUTSIDE, port: int = 0, paths: dict[str, Behaviour] | None = None) -> None:
        super().__init__((address, port), _Handler)
        self.paths = paths or {}
        self.asked: list[str] = []
        self.names: list[str | None] = []
        self.over = threading.Event()
        self.port: int = self.server_address[1]

    def handle_error(self, request, client_address) -> None:
        """Clients hang up here: that is what is tested."""


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            some = self.request.recv(4096)
            if not some:
                return
            asked += some
        text = asked.decode("latin-1")
        self.server.asked.append(text)
        path = text.split()[1]
        for data in self.server.paths.get(path, once(answer()))(self.server):
            self.request.sendall(data)


@contextlib.contextmanager
def serving(server: Server, certificate: str | None = None) -> Iterator[Server]:
    """The server, running; with a certificate, over TLS."""
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda line, name, context: server.names.append(name)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Names:
    """A resolver: each name's answers in turn, the last for good. Any other name is asked in vain."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): iter_last(each) for name, each in answers.items()}
        self.looked_up: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        if host not in self.answers:
            raise socket.gaierror(-2, "Name or service not known")
        return next(self.answers[host])


def iter_last(each: list[list[str]]) -> Iterator[list[str]]:
    yield from each
    while True:
        yield each[-1]


def never(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


def outside(address: media.Address) -> bool:
    """What a server may reach, with one address of this machine in the place of the internet."""
    return str(address) == OUTSIDE or is_reachable(address)


def refused(pictures: Pictures, *references: str) -> str:
    """What a request is told that must be refused."""
    with pytest.raises(Refused) as caught:
        pictures.get(references)
    return str(caught.value)


def public(port: int = 80, **changes) -> Policy:
    """Any host of the open internet, on one port."""
    return Policy(**{"urls": "public", "ports": (port,), "seconds": 5.0} | changes)


def pixels(file: bytes) -> bytes:
    """What a picture's file decodes to in this process."""
    return decoded(file, "it").tobytes()


def until(true: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def works(decoders: Decoders) -> bool:
    return decoders.decode(PNG, "it", MANY).tobytes() == decoded(PNG, "it").tobytes()


def memory(pid: int | str, what: str) -> int:
    """Bytes of a process (`self` is this one), as the system says: `VmRSS` now, `VmHWM` at most."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))
