"""Pictures from URLs: fetched when they are pictures of the open internet, refused with the reason when not."""

import base64
import http.server
import ipaddress
import socket
import threading
import time

import PIL.features
import pytest

from processor.pictures import encoded, noise
from vlmlab import media
from vlmlab.media import Limits, fetch, is_public, read_data_url

PNG = encoded(noise(30, 20), "PNG")


class Handler(http.server.BaseHTTPRequestHandler):
    """Each path behaves in its own way."""

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        name, _, rest = self.path[1:].partition("/")
        answer = getattr(self, "on_" + name.partition("?")[0], None)
        if answer is None:
            self.send_error(404)
        else:
            answer(rest)

    def send(self, body, *, length=None, **headers):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def on_picture(self, _):
        self.send(PNG)

    def on_page(self, _):
        self.send(b"<html>hello</html>", Content_Type="image/png")

    def on_empty(self, _):
        self.send(b"")

    def on_packed(self, _):
        self.send(PNG, Content_Encoding="gzip")

    def on_short(self, _):
        self.send(PNG[:100], length=len(PNG))

    def on_promised(self, _):
        self.send(b"", length=10**9)

    def on_unending(self, _):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PNG[:8])
        for _ in range(4000):
            self.wfile.write(b"x" * 1000)

    def on_hops(self, rest):
        left = int(rest)
        self.send_response(302)
        self.send_header("Location", f"/hops/{left - 1}" if left > 1 else "/picture")
        self.end_headers()

    def on_to(self, rest):
        self.send_response(301)
        if rest:
            self.send_header("Location", rest.replace("_", "/"))
        self.end_headers()

    def on_slow(self, _):
        self.send_response(200)
        self.end_headers()
        self.trickle(PNG)

    def on_slowhead(self, _):
        self.trickle(b"HTTP/1.1 200 OK\r\nX-" + b"a" * 500)

    def trickle(self, data):
        for byte in data[:300]:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.handle_error = lambda *_: None
    made.asked = []
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def get(server, path, limits=media.DEFAULT, host="pictures.example"):
    """From the test's server, which may stand for any host."""
    url = f"http://{host}:{server.server_port}/{path}"
    return fetch(url, limits, resolver=lambda host, port: ["127.0.0.1"], allowed=lambda address: True)


def test_a_picture(server):
    assert get(server, "picture") == PNG
    path, headers = server.asked[0]
    assert path == "/picture" and headers["Host"] == f"pictures.example:{server.server_port}"
    assert headers["Accept-Encoding"] == "identity" and "Authorization" not in headers and "Cookie" not in headers
    assert get(server, "picture?a=b%20c&d=é#part") == PNG
    assert server.asked[1][0] == "/picture?a=b%20c&d=%C3%A9"


def refused(reason, call, *arguments, **options):
    with pytest.raises(ValueError, match=rf"^http.*: not fetched: .*{reason}"):
        call(*arguments, **options)


def test_what_is_no_picture(server):
    for path in ("page", "empty"):
        refused("not a picture", get, server, path)
    refused("answered 404", get, server, "nothing")
    refused("packed", get, server, "packed")
    refused("ended before", get, server, "short")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_every_format_that_is_read_is_recognised(kind):
    codec = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}.get(kind)
    if codec is not None and not PIL.features.check(codec):
        pytest.skip(f"this Pillow writes no {kind}")
    assert media.looks_like_a_picture(encoded(noise(30, 20), kind))


def test_too_many_bytes(server):
    limits = Limits(bytes=100_000)
    start = time.monotonic()
    refused("more than the 100000 bytes", get, server, "promised", limits)
    refused("more than the 100000 bytes", get, server, "unending", limits)
    assert time.monotonic() - start < 5
    assert get(server, "picture", Limits(bytes=len(PNG))) == PNG
    refused("more than", get, server, "picture", Limits(bytes=len(PNG) - 1))


def test_redirects(server):
    assert get(server, "hops/3") == PNG
    refused("more than 3 redirects", get, server, "hops/4")
    refused("redirect to nowhere", get, server, "to/")
    refused("only http", get, server, "to/file:___etc_hostname")
    refused("user name", get, server, "to/http:__user:word@pictures.example_picture")


def test_every_redirect_is_checked_again(server):
    """A public host that sends one on to a private address, by number or by name."""

    def resolver(host, port):
        return {"good.example": ["127.0.0.1"], "evil.example": ["10.0.0.7"]}[host]

    def allowed(address):
        return address == ipaddress.ip_address("127.0.0.1") or is_public(address)

    for target in ("http:__169.254.169.254_latest", "http:__evil.example_picture"):
        url = f"http://good.example:{server.server_port}/to/{target}"
        refused("not on the open internet", fetch, url, resolver=resolver, allowed=allowed)
    assert len(server.asked) == 2


def test_the_time_limit_is_for_everything(server):
    for path in ("slow", "slowhead"):
        start = time.monotonic()
        refused("longer than 0.5 seconds", get, server, path, Limits(seconds=0.5))
        assert time.monotonic() - start < 3

    def sleepy(host, port):
        time.sleep(5)
        return ["127.0.0.1"]

    start = time.monotonic()
    refused("longer than 0.3 seconds", fetch, "http://a.example/", Limits(seconds=0.3), resolver=sleepy)
    assert time.monotonic() - start < 3


def test_a_server_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://a.example:{silent.getsockname()[1]}/"
        options = {"resolver": lambda host, port: ["127.0.0.1"], "allowed": lambda address: True}
        refused("longer than 0.3 seconds", fetch, url, Limits(seconds=0.3), **options)


def test_the_host_is_looked_up_once_and_its_address_used(server):
    """A name that turns private at the second look (rebinding) is never looked at twice."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    url = f"http://a.example:{server.server_port}/picture"
    asked = []

    def resolver(host, port):
        asked.append(host)
        return next(answers)

    assert fetch(url, resolver=resolver, allowed=lambda address: str(address) == "127.0.0.1") == PNG
    assert asked == ["a.example"]


def test_one_private_address_among_several_is_enough():
    options = {"resolver": lambda host, port: ["93.184.216.34", "10.0.0.1"]}
    refused(r"not on the open internet \(10.0.0.1\)", fetch, "http://a.example/x.png", **options)


def test_the_certificate_is_asked_for_by_name(server, monkeypatch):
    names = []

    class Plain:
        def wrap_socket(self, sock, server_hostname):
            names.append(server_hostname)
            return sock

    monkeypatch.setattr(media.ssl, "create_default_context", Plain)
    url = f"https://pictures.example:{server.server_port}/picture"
    assert fetch(url, resolver=lambda host, port: ["127.0.0.1"], allowed=lambda address: True) == PNG
    assert names == ["pictures.example"]


def test_https_without_a_certificate(server):
    url = f"https://pictures.example:{server.server_port}/picture"
    refused("", fetch, url, Limits(seconds=5.0), resolver=lambda host, port: ["127.0.0.1"], allowed=lambda a: True)
    assert not server.asked


PRIVATE = [
    *["127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"],
    *["0.1.2.3", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.0.192", "198.18.0.1", "203.0.113.5"],
    *["100.100.100.200", "168.63.129.16", "192.88.99.1"],
    *[
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "100::1",
    ],
    *["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:168.63.129.16", "::127.0.0.1", "2002:7f00:1::", "2002:a00:1::1"],
    *["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2001:0:808:808::f7f7:f7f7"],
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_of_the_open_internet(address):
    assert not is_public(ipaddress.ip_address(address))
    if "%" not in address:
        host = f"[{address}]" if ":" in address else address
        refused("not on the open internet", fetch, f"http://{host}/a.png")
    refused("not on the open internet", fetch, "http://a.example/a.png", resolver=lambda host, port: [address])


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_open_internet(address):
    assert is_public(ipaddress.ip_address(address))


def never(host, port):
    raise AssertionError(f"{host} was looked up")


@pytest.mark.parametrize(
    "host",
    [
        *["2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "127.1", "127.0.0.01", "127.0.0.0x1"],
        *["127.0.0.1.", "１２７.0.0.1", "127。0。0。1", "0", "0x"],
    ],
)
def test_odd_spellings_of_addresses(host):
    refused("odd spelling|not on the open internet", fetch, f"http://{host}/a.png", resolver=never)


def test_the_machine_itself_by_name():
    for host in ("localhost", "localhost.", "LOCALHOST"):
        refused("not on the open internet|not known", fetch, f"http://{host}/a.png")


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://user@a.example/", "user name"),
        ("http://93.184.216.34@127.0.0.1/", "user name"),
        ("http://:@a.example/", "user name"),
        ("http:///a.png", "no host"),
        ("http://./a.png", "no host"),
        ("http://[fe80::1%25eth0]/", ""),
        ("http://[::1/", ""),
        ("http://a.example:99999/", ""),
        ("http://a.example/\r\nHost: b", "no spaces"),
        ("http://a.example\\@b/", "backslashes"),
        ("http://a b/", "no spaces"),
    ],
)
def test_urls_that_are_not_plain(url, reason):
    refused(reason, fetch, url, resolver=never)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://a.example/x", "gopher://a/", "a.png", "//a.example/x", ""]
)
def test_other_schemes(url):
    with pytest.raises(ValueError, match="only http and https"):
        fetch(url, resolver=never)


def test_hosts_that_are_not_known():
    def unknown(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    refused("a.example is not known", fetch, "http://a.example/", resolver=unknown)
    refused("is not known", fetch, "http://a.example/", resolver=lambda host, port: [])


def test_data_urls():
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert read_data_url(url) == PNG
    for bad in ("data:image/png;base64", "data:image/png,abc", "http://a", "data:;base64,?"):
        with pytest.raises(ValueError, match="data URL"):
            read_data_url(bad)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_data_url(url, max_bytes=10)
