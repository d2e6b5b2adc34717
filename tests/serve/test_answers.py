"""Attack: servers that a URL leads to. Real connections, to two addresses of this machine; no network."""

import base64
import gzip
import re
import ssl
import threading
from pathlib import Path

import pytest

from processor.pictures import encoded, noise
from serve.hostile import (
    INSIDE,
    LATE,
    OUTSIDE,
    PNG,
    UNREACHABLE,
    Names,
    Server,
    answer,
    drip,
    endless,
    once,
    outside,
    pixels,
    public,
    redirect,
    refused,
    serving,
    silence,
    until,
)
from vlmlab import media
from vlmlab.serve.decoders import Bounds, Busy, Decoders
from vlmlab.serve.media import Pictures, Policy

CERTIFICATE = Path(__file__).parent / "certificate.pem"
"""With its key, made out to `pictures.example` by nobody: it protects nothing."""


@pytest.fixture(scope="module")
def decoders():
    with Decoders(Bounds(processes=1)) as made:
        yield made


@pytest.fixture
def server():
    with serving(Server()) as made:
        yield made


@pytest.fixture
def inside(server):
    """What must never be asked: the same port at an address of the inside."""
    with serving(Server(INSIDE, server.port)) as made:
        yield made
        assert not made.asked


def pictures(server, decoders, names=None, **changes):
    resolver = names or Names(pictures_example=[[OUTSIDE]])
    return Pictures(public(server.port, **changes), decoders, resolver=resolver, allowed=outside)


def url(server, path="/a.png", host="pictures.example", scheme="http"):
    return f"{scheme}://{host}:{server.port}{path}"


def test_a_picture(server, decoders):
    (picture,) = pictures(server, decoders).get([url(server, "/a.png?size=1#part")])
    assert picture.name == "picture 1" and picture.source.tobytes() == pixels(PNG)
    (asked,) = server.asked
    lines = asked.lower().splitlines()
    assert lines[0] == "get /a.png?size=1 http/1.1" and f"host: pictures.example:{server.port}" in lines
    assert "accept-encoding: identity" in lines
    assert not {line.split(":")[0] for line in lines[1:]} & {"authorization", "cookie", "referer", "origin"}


# Rebinding: a name that is harmless when it is checked, and leads inside when it is used.


def test_rebinding_between_check_and_use(server, inside, decoders):
    names = Names(pictures_example=[[OUTSIDE], [INSIDE]])
    assert pictures(server, decoders, names).get([url(server)])
    assert names.looked_up == ["pictures.example"] and len(server.asked) == 1


def test_rebinding_between_a_redirect_and_the_next(server, inside, decoders):
    names = Names(pictures_example=[[OUTSIDE], [INSIDE]])
    server.paths["/a.png"] = redirect("/b.png")
    assert refused(pictures(server, decoders, names), url(server)) == UNREACHABLE
    assert len(names.looked_up) == 2


def test_rebinding_between_two_pictures_of_a_request(server, inside, decoders):
    names = Names(pictures_example=[[OUTSIDE], [INSIDE]])
    told = refused(pictures(server, decoders, names), url(server), url(server))
    assert told == UNREACHABLE.replace("1", "2")


def test_rebinding_between_two_requests(server, inside, decoders):
    names = Names(pictures_example=[[OUTSIDE], [INSIDE]])
    one = pictures(server, decoders, names)
    assert one.get([url(server)])
    assert refused(one, url(server)) == UNREACHABLE


def test_rebinding_by_two_addresses_at_once(server, inside, decoders):
    """The first refuses the connection, and the next is tried: it too must have been checked."""
    for both in ([OUTSIDE, INSIDE], [INSIDE, OUTSIDE]):
        assert refused(pictures(server, decoders, Names(pictures_example=[both])), url(server)) == UNREACHABLE
    assert not server.asked


def test_rebinding_of_a_listed_host(server, inside, decoders):
    policy = Policy(urls="listed", hosts=("pictures.example",), ports=(server.port,))
    names = Names(pictures_example=[[INSIDE]])
    assert refused(Pictures(policy, decoders, resolver=names, allowed=outside), url(server)) == UNREACHABLE


# Redirects: every one is a URL that a stranger wrote.

BARRED = {
    "to an address of the inside": "http://127.0.0.2:{port}/a.png",
    "to metadata": "http://169.254.169.254/latest/meta-data/",
    "to a name of the inside": "http://inside.example:{port}/a.png",
    "to a name nobody knows": "http://unknown.example:{port}/a.png",
    "to an odd spelling": "http://2130706434:{port}/a.png",
    "to v6": "http://[::1]:{port}/a.png",
    "to a mapped address": "http://[::ffff:127.0.0.2]:{port}/a.png",
    "without a scheme": "//127.0.0.2:{port}/a.png",
    "to a user": "http://user@127.0.0.2:{port}/a.png",
    "to another port": "http://pictures.example:22/",
    "to a file": "file:///etc/hostname",
    "to ftp": "ftp://pictures.example/a.png",
    "to gopher": "gopher://127.0.0.2:{port}/_GET",
    "to data": "data:image/png;base64,AAAA",
    "to nowhere": "",
    "to half a v6": "http://[::1/",
    "with a backslash": "http:\\\\127.0.0.2:{port}/",
    "with a tab": "http://127.0.0.2\t:{port}/",
    "with wide digits": "http://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.2:{port}/",
}


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_inside_by_any_status(server, inside, decoders, status):
    server.paths["/a.png"] = redirect(f"http://127.0.0.2:{server.port}/a.png", status)
    assert refused(pictures(server, decoders), url(server)) == UNREACHABLE
    assert len(server.asked) == 1


@pytest.mark.parametrize("location", BARRED.values(), ids=BARRED)
def test_a_redirect(server, inside, decoders, location):
    names = Names(pictures_example=[[OUTSIDE]], inside_example=[[INSIDE]])
    server.paths["/a.png"] = redirect(location.format(port=server.port))
    told = refused(pictures(server, decoders, names), url(server))
    assert told.startswith("picture 1: ") and "127" not in told and "inside" not in told
    assert len(server.asked) == 1


def test_redirects_that_are_followed(server, decoders):
    server.paths |= {"/a.png": redirect("/b"), "/b": redirect("c"), "/c": redirect(url(server, "/d"))}
    assert pictures(server, decoders).get([url(server)])
    assert [asked.split()[1] for asked in server.asked] == ["/a.png", "/b", "/c", "/d"]


def test_redirects_without_end(server, decoders):
    server.paths["/a.png"] = redirect("/a.png")
    assert refused(pictures(server, decoders), url(server)) == "picture 1: more than 3 redirects"
    assert len(server.asked) == 4


def test_redirects_can_be_refused(server, decoders):
    server.paths["/a.png"] = redirect("/b.png")
    assert "redirects" in refused(pictures(server, decoders, redirects=0), url(server))
    assert len(server.asked) == 1


def test_a_redirect_off_the_list(server, decoders):
    policy = Policy(urls="listed", hosts=("pictures.example",), ports=(server.port,))
    names = Names(pictures_example=[[OUTSIDE]], other_example=[[OUTSIDE]])
    server.paths["/a.png"] = redirect(url(server, host="other.example"))
    told = refused(Pictures(policy, decoders, resolver=names, allowed=outside), url(server))
    assert "not among those" in told and names.looked_up == ["pictures.example"]


def test_a_cookie_is_not_carried_on(server, decoders):
    server.paths["/a.png"] = once(
        answer(b"", status="302 Found", extra="Location: /b.png\r\nSet-Cookie: a=b; Domain=example\r\n")
    )
    assert pictures(server, decoders).get([url(server)])
    assert "cookie" not in server.asked[1].lower() and "referer" not in server.asked[1].lower()


# Time. What drips would be a good picture in the end: only a limit for all of it can refuse it.

SLOW = {
    "a body that drips": drip(answer(b"", length=len(PNG)), PNG),
    "a head that drips": drip(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 100 + b"\r\n" + answer().split(b"\r\n", 1)[1]),
    "a status that drips": drip(b"", b"HTTP/1.1 200 " + b"OK" * 50 + b"\r\n" + answer().split(b"\r\n", 1)[1]),
    "chunks that drip": drip(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"".join(b"1\r\n" + PNG[at : at + 1] + b"\r\n" for at in range(len(PNG))) + b"0\r\n\r\n",
    ),
    "silence": silence,
    "silence after the head": lambda server: (
        part for parts in (iter([answer(b"", length=9)]), silence(server)) for part in parts
    ),
    "promises to continue without end": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000),
}


@pytest.mark.parametrize("behaviour", SLOW.values(), ids=SLOW)
def test_a_server_that_is_slow(server, decoders, behaviour):
    server.paths["/a.png"] = behaviour
    told = refused(pictures(server, decoders, seconds=0.5), url(server))
    assert told == LATE


def test_the_time_is_for_all_redirects_together(server, decoders):
    server.paths |= {
        f"/{at}": drip(answer(b"", status="302 Found", extra=f"Location: /{at + 1}\r\n")[:-2], b"\r\n", 0.08)
        for at in range(4)
    }
    told = refused(pictures(server, decoders, seconds=0.3, redirects=9), url(server, "/0"))
    assert told in (UNREACHABLE, LATE)
    assert len(server.asked) < 4


def test_the_time_is_for_all_pictures_of_a_request(server, decoders):
    server.paths["/a.png"] = drip(answer()[:-8], answer()[-8:], 0.05)
    told = refused(pictures(server, decoders, seconds=1.0), *[url(server)] * 4)
    assert told[9:] in (LATE[9:], UNREACHABLE[9:])  # whatever it was in the middle of
    assert not told.startswith("picture 1:")


# Size, and whether it is what it says.

FALSE = {
    "a length beyond the limit": (once(answer(length=10**12)), "more than the 50000 bytes"),
    "a length smaller than the body": (once(answer(length=40)), "not a picture in a format that can be read"),
    "a length greater than the body": (once(answer(length=len(PNG) + 1)), "ended before"),
    "a negative length": (once(answer(b"x" * 60_000, length=-5)), "more than the 50000 bytes"),
    "no length and no end": (endless(b"HTTP/1.1 200 OK\r\n\r\n" + PNG, b"x" * 1000), "more than the 50000 bytes"),
    "chunks without end": (
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
        "more than the 50000 bytes",
    ),
    "chunks and a small length": (
        endless(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"3e8\r\n" + b"x" * 1000 + b"\r\n",
        ),
        "more than the 50000 bytes",
    ),
    "a chunk of negative size": (
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n" + b"x" * 60_000),
        "",
    ),
    "a chunk cut short": (
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + PNG),
        "the connection broke",
    ),
    "packed, unasked": (once(answer(gzip.compress(PNG), extra="Content-Encoding: gzip\r\n")), "packed"),
    "a bomb, packed": (once(answer(gzip.compress(bytes(10**7)), extra="Content-Encoding: gzip\r\n")), "packed"),
    "packed with brotli": (once(answer(extra="Content-Encoding: br\r\n")), "packed"),
    "packed, and silent about it": (once(answer(gzip.compress(PNG))), "not a picture"),
    "a head without end": (endless(b"HTTP/1.1 200 OK\r\n", b"X-A: a\r\n" * 100), "the connection broke"),
    "a line without end": (endless(b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 10_000), "the connection broke"),
    "no HTTP": (once(b"220 inside.example ESMTP\r\n"), "the connection broke"),
    "nothing": (once(b""), "the connection broke"),
    "an empty picture": (once(answer(b"")), "not a picture"),
    "a page that is called a picture": (once(answer(b"<html>", extra="Content-Type: image/png\r\n")), "not a picture"),
    "a drawing that can ask for more": (once(answer(b'<svg xmlns="http://www.w3.org/2000/svg"/>')), "not a picture"),
    "a document": (once(answer(b"%PDF-1.7\n")), "not a picture"),
    "PostScript": (once(answer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")), "not a picture"),
    "an archive": (once(answer(b"PK\x03\x04" + bytes(60))), "not a picture"),
    "a list of keys": (once(answer(b'{"AccessKeyId": "x", "SecretAccessKey": "y"}')), "not a picture"),
    "a picture after a page": (once(answer(b"<html>" + PNG)), "not a picture"),
    "only a picture's beginning": (once(answer(PNG[:8])), "picture 1: "),
    "an error that is a picture": (once(answer(status="404 Not Found")), "the server answered 404"),
    "a failure": (once(answer(status="500 secret of the inside")), "the server answered 500$"),
    "a part": (once(answer(status="206 Partial Content")), "answered 206"),
    "nothing new": (once(answer(status="304 Not Modified")), "answered 304"),
    "another protocol": (once(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n" + PNG), "answered 101"),
}


@pytest.mark.parametrize(("behaviour", "why"), FALSE.values(), ids=FALSE)
def test_a_server_that_lies(server, decoders, behaviour, why):
    server.paths["/a.png"] = behaviour
    told = refused(pictures(server, decoders, bytes=50_000), url(server))
    assert told.startswith("picture 1: ") and "0x" not in told and "inside" not in told
    assert re.search(why, told), told


def test_a_picture_that_is_called_a_page(server, decoders):
    server.paths["/a.png"] = once(answer(extra="Content-Type: text/html\r\n"))
    assert pictures(server, decoders).get([url(server)])


def test_a_picture_of_just_as_many_bytes_as_are_allowed(server, decoders):
    assert pictures(server, decoders, bytes=len(PNG)).get([url(server)])
    assert "more than" in refused(pictures(server, decoders, bytes=len(PNG) - 1), url(server))


def test_bytes_of_all_pictures_of_a_request(server, decoders):
    enough = pictures(server, decoders, bytes_in_all=2 * len(PNG))
    assert len(enough.get([url(server)] * 2)) == 2
    data = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for references in ([url(server)] * 3, [data, url(server), data], [data, data, url(server)], [data] * 3):
        assert refused(enough, *references).startswith("picture 3: ")


def test_pixels_of_all_pictures_of_a_request(server, decoders):
    enough = pictures(server, decoders, pixels_in_all=1500)
    assert len(enough.get([url(server)] * 2)) == 2
    assert refused(enough, *[url(server)] * 3) == "picture 3: more than the 300 pixels allowed; make it smaller first"


def test_too_many_pictures_are_refused_before_the_first(server, decoders):
    told = refused(pictures(server, decoders, pictures=2), *[url(server)] * 3)
    assert told == "3 pictures are more than the 2 a request may have"
    assert not server.asked


def test_a_picture_of_too_many_pixels(server, decoders):
    server.paths["/a.png"] = once(answer(encoded(noise(300, 200), "PNG")))
    assert "more than the 59999" in refused(pictures(server, decoders, pixels=59_999), url(server))
    assert pictures(server, decoders, pixels=60_000).get([url(server)])


def test_more_fetches_than_are_allowed_are_turned_away(server, decoders):
    """One waits for a silent server, one waits for its turn, and the third is told at once."""
    server.paths["/a.png"] = silence
    one = pictures(server, decoders, fetches=1, waiting=1, seconds=20.0)
    told = []
    threads = []
    for _ in range(2):
        threads.append(threading.Thread(target=lambda: told.append(refused(one, url(server)))))
        threads[-1].start()
    until(lambda: not one._gate._places._value)
    with pytest.raises(Busy, match="too many pictures to fetch"):
        one.get([url(server)])
    server.over.set()
    for thread in threads:
        thread.join()
    assert told == ["picture 1: the connection broke"] * 2


# TLS: the name that was asked for, whatever the address.


@pytest.fixture
def trusting(monkeypatch):
    real = ssl.create_default_context
    monkeypatch.setattr(media.ssl, "create_default_context", lambda: real(cafile=CERTIFICATE))


@pytest.fixture
def secret():
    with serving(Server(), str(CERTIFICATE)) as made:
        yield made


def test_a_certificate_for_the_name_that_was_asked(secret, decoders, trusting):
    assert pictures(secret, decoders).get([url(secret, scheme="https")])
    assert secret.names == ["pictures.example"]


def test_a_certificate_for_another_name(secret, decoders, trusting):
    names = Names(other_example=[[OUTSIDE]])
    told = refused(pictures(secret, decoders, names), url(secret, host="other.example", scheme="https"))
    assert told == UNREACHABLE and not secret.asked


def test_a_certificate_of_nobody(secret, decoders):
    assert refused(pictures(secret, decoders), url(secret, scheme="https")) == UNREACHABLE
    assert not secret.asked


def test_a_server_without_a_certificate(server, decoders, trusting):
    assert refused(pictures(server, decoders, seconds=0.3), url(server, scheme="https")) == UNREACHABLE
    assert not any(asked.startswith("GET") for asked in server.asked)
