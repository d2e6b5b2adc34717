"""Pictures from elsewhere, safely: data URLs, and http(s) URLs that cannot reach into one's own network."""

import base64
import contextlib
import dataclasses
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence

MAX_BYTES = 32 << 20
"""The most bytes a picture's file may have."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
Admit = Callable[[str, int], bool]

AGENT = "vlmlab (a picture for a vision-language model)"
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_LONGEST = 8192
"""Letters that a URL may have."""
_TRIED = 4
"""Addresses of a host that are tried: a name must not send us knocking at a thousand doors."""

UNREACHABLE = "its address cannot be reached safely from here"
"""All that a stranger is told of a URL to which no connection was made, whatever the reason."""
LATE = "it took longer than is allowed"
"""What a stranger is told when the time is up."""

# How the files of pictures begin. What begins otherwise is not handed on, whatever its server calls it.
_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  ",
)
_BRANDS = (b"avif", b"avis", b"mif1", b"heic", b"heix")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Public by the standard library's reckoning, which differs between versions, and yet the inside of a cloud or a relay:
# protocol assignments, 6to4 relays, the address where Azure's platform answers, and a block for documentation.
_INSIDE = [
    ipaddress.ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "3fff::/20")
]
# An address that ends like this carries an IPv4 address through a tunnel inside a site (ISATAP); one bit may be set.
_ISATAP, _ISATAP_BIT = 0x00005EFE, 0x02000000


@dataclasses.dataclass(frozen=True)
class Limits:
    """What fetching one picture may cost: seconds in all, redirects and name look-ups included, bytes, redirects."""

    seconds: float = 15.0
    bytes: int = MAX_BYTES
    redirects: int = 3


DEFAULT = Limits()


class NotFetched(ValueError):
    """A URL's picture was not fetched.

    The message names the URL and what was found, for whoever runs the program. `told` is as much of it as a stranger
    may hear: the same for every address that is refused, unknown or silent.
    """

    def __init__(self, message: str, told: str) -> None:
        super().__init__(message)
        self.told = told


class _Unreachable(ValueError):
    """No connection was made."""


def resolve(host: str, port: int) -> list[str]:
    """The numeric addresses of a host, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet, and no tunnel into anything else.

    False for loopback, private, link-local (where clouds keep their metadata), shared, reserved and multicast
    addresses. An IPv6 address that stands for an IPv4 address (mapped, 6to4, NAT64) is what that one is; Teredo's and
    ISATAP's are refused.
    """
    if any(address in block for block in _INSIDE):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address.is_site_local or address.teredo is not None:
            return False
        if (int(address) >> 32) & 0xFFFFFFFF & ~_ISATAP_BIT == _ISATAP:
            return False
        stands_for = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            stands_for = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if stands_for is not None:
            return is_public(stands_for)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def fetch(
    url: str,
    limits: Limits = DEFAULT,
    *,
    resolver: Resolve = resolve,
    allowed: Callable[[Address], bool] = is_public,
    admits: Admit = lambda host, port: True,
) -> bytes:
    """The bytes of the picture at an http(s) URL.

    `admits` says whether a host and port may be asked at all. The host is looked up once, every address it has must be
    `allowed`, and the connection goes to an address that was checked; each redirect is checked in the same way. No
    proxies, no credentials, no cookies. What does not begin as a picture's file does is refused. Raises NotFetched.
    """
    end = time.monotonic() + limits.seconds
    shown = "".join(c if c.isprintable() else "?" for c in url[:200]) + ("..." if len(url) > 200 else "")
    try:
        place = url
        for _ in range(limits.redirects + 1):
            body, place = _get(place, end, limits, resolver, allowed, admits)
            if body is not None:
                if not looks_like_a_picture(body):
                    raise ValueError("what the server sent is not a picture")
                return body
        raise ValueError(f"more than {limits.redirects} redirects")
    except (ValueError, OSError, http.client.HTTPException) as error:
        late = isinstance(error.__cause__ or error, TimeoutError) or time.monotonic() >= end
        reason = f"it took longer than {limits.seconds:g} seconds" if late else str(error) or type(error).__name__
        if isinstance(error, _Unreachable):
            told = UNREACHABLE
        elif late:
            told = LATE
        else:
            told = str(error) if isinstance(error, ValueError) else "the connection broke"
        raise NotFetched(f"{shown}: not fetched: {reason}", told) from None


def _get(
    url: str,
    end: float,
    limits: Limits,
    resolver: Resolve,
    allowed: Callable[[Address], bool],
    admits: Admit,
) -> tuple[bytes | None, str]:
    """One request: the body, or None and the URL to go on to."""
    scheme, host, port, target = _parts(url)
    if not admits(host, port):
        raise ValueError("its host or port is not among those that pictures are fetched from")
    connection = _connected(scheme, host, port, end, resolver, allowed)
    try:
        connection.putrequest("GET", target, skip_accept_encoding=True)
        for name, value in (("Accept", "image/*"), ("Accept-Encoding", "identity"), ("User-Agent", AGENT)):
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        if answer.status in _REDIRECTS:
            following = answer.getheader("Location")
            if not following:
                raise ValueError("a redirect to nowhere")
            return None, urllib.parse.urljoin(url, following)
        if answer.status != 200:
            raise ValueError(f"the server answered {answer.status}")
        return _body(answer, end, limits.bytes), url
    finally:
        connection.close()


def _connected(
    scheme: str, host: str, port: int, end: float, resolver: Resolve, allowed: Callable[[Address], bool]
) -> "_Connection":
    """A connection that stands, to an address that was checked. Raises _Unreachable, from what went wrong."""
    try:
        connection = _Connection(scheme, host, port, _addresses(host, port, end, resolver, allowed)[:_TRIED], end)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise _Unreachable(str(error) or type(error).__name__) from error
    return connection


def _parts(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, and what to ask the host for. Raises ValueError for what is no plain http(s) URL."""
    if len(url) > _LONGEST:
        raise ValueError(f"a URL has no more than {_LONGEST} letters")
    if any(c <= " " or c == "\x7f" or c == "\\" for c in url):
        raise ValueError("a URL holds no spaces, control characters or backslashes")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
        url.encode()
    except ValueError:
        raise ValueError("the URL cannot be read") from None
    if parts.scheme not in _PORTS:
        raise ValueError("only http and https URLs are fetched")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user name in it is not fetched")
    host = host_name(parts.hostname or "")
    target = urllib.parse.quote(parts.path or "/", safe="/%:=&?~#+!$,;'@()*[]")
    if parts.query:
        target += "?" + urllib.parse.quote(parts.query, safe="/%:=&?~#+!$,;'@()*[]")
    return parts.scheme, host, port or _PORTS[parts.scheme], target


def host_name(host: str) -> str:
    """The one spelling of a host's name: small letters of ASCII, no dot at its end. Raises ValueError for none."""
    host = host.lower().rstrip(".")
    if not host.isascii():
        try:
            host = host.encode("idna").decode().rstrip(".")  # other dots than ours have become ours
        except UnicodeError:
            raise ValueError("the host's name is not valid") from None
    if not host or "%" in host:
        raise ValueError("the URL names no host")
    return host


def _body(answer: http.client.HTTPResponse, end: float, most: int) -> bytes:
    """All of an answer, as it came. Raises ValueError when it is too long, packed, or cut short."""
    if answer.getheader("Content-Encoding", "identity").lower() != "identity":
        raise ValueError("the server sent it packed, unasked")
    if (answer.length or 0) > most:
        raise ValueError(f"it has more than the {most} bytes allowed")
    body = bytearray()
    while some := answer.read1(1 << 16):
        body += some
        if len(body) > most:
            raise ValueError(f"it has more than the {most} bytes allowed")
        _left(end)
    _left(end)
    if answer.length:
        raise ValueError("the connection ended before the picture did")
    return bytes(body)


def looks_like_a_picture(body: bytes) -> bool:
    """Whether a file begins as a picture's does, in a format that is read; what it is called is not asked."""
    webp = body[:4] == b"RIFF" and body[8:12] == b"WEBP"
    boxed = body[4:8] == b"ftyp" and body[8:12] in _BRANDS
    bitmap = body[:2] == b"BM" and body[6:10] == b"\0\0\0\0"
    return webp or boxed or bitmap or body.startswith(_SIGNATURES)


def _addresses(host: str, port: int, end: float, resolver: Resolve, allowed: Callable[[Address], bool]) -> list[str]:
    """The checked addresses of a host. One that is not allowed is enough to refuse the host."""
    try:
        numeric = [str(ipaddress.ip_address(host))]
    except ValueError:
        if _odd_number(host):
            raise _Unreachable(f"{host} is an odd spelling of an address; only plain ones are read") from None
        numeric = []
    found = numeric or _looked_up(host, port, end, resolver)
    if not found:
        raise _Unreachable(f"the host {host} is not known")
    for text in found:
        if not allowed(ipaddress.ip_address(text)):
            raise _Unreachable(f"{host} is not on the open internet ({text})")
    return found


def _looked_up(host: str, port: int, end: float, resolver: Resolve) -> list[str]:
    """What the resolver says, waited for no longer than the time that is left: it knows no limit of its own."""
    found: list[str] = []

    def look() -> None:
        try:
            found.extend(resolver(host, port))
        except (OSError, UnicodeError):
            found.clear()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_left(end))
    if thread.is_alive():
        raise TimeoutError
    return found


def _odd_number(host: str) -> bool:
    """Whether the system's resolver might read a name as a number: 2130706433, 0x7f.1, 0177.0.0.1, 127.1."""
    last = host.rsplit(".", 1)[-1].lower()
    return last.isdigit() or (last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:]))


class _Connection(http.client.HTTPConnection):
    """A connection to addresses that have been checked; the host's name goes into the headers and the certificate."""

    def __init__(self, scheme: str, host: str, port: int, addresses: Sequence[str], end: float) -> None:
        super().__init__(host, port, timeout=_left(end))
        self.scheme, self.addresses, self.end = scheme, addresses, end
        self.default_port = _PORTS[scheme]
        self.line: socket.socket | None = None
        self.alarm: threading.Timer | None = None

    def connect(self) -> None:
        """The first address that answers. When the time is up the line is cut, whatever it is in the middle of."""
        for at, address in enumerate(self.addresses, 1):
            try:
                self.sock = socket.create_connection((address, self.port), _left(self.end))
                break
            except TimeoutError:
                raise
            except OSError:
                if at == len(self.addresses):
                    raise
        self.line = self.sock.dup()
        self.alarm = threading.Timer(_left(self.end), _cut, (self.line,))
        self.alarm.daemon = True
        self.alarm.start()
        if self.scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def close(self) -> None:
        """Hang up."""
        super().close()
        if self.alarm is not None:
            self.alarm.cancel()
        if self.line is not None:
            self.line.close()


def _cut(line: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was hung up meanwhile
        line.shutdown(socket.SHUT_RDWR)


def _left(end: float) -> float:
    """Seconds until the end. Raises TimeoutError when there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def read_data_url(url: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a `data:...;base64,...` URL. Raises ValueError when it is no such URL, or too large."""
    head, found, body = url.partition(",")
    if not found or not head[:5].lower() == "data:" or not head.endswith(";base64"):
        raise ValueError("a data URL should look like data:image/png;base64,...")
    too_many = f"the data URL holds more than {max_bytes} bytes"
    if len(body) * 3 // 4 > max_bytes + 3:
        raise ValueError(too_many)
    try:
        data = base64.b64decode(body, validate=True)
    except ValueError as error:  # base64's own error is one, and letters outside ASCII are another
        raise ValueError(f"the data URL is not valid base64: {error}") from None
    if len(data) > max_bytes:
        raise ValueError(too_many)
    return data
