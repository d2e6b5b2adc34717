"""Attack: name something else than a picture, or a picture in a way that is read in two ways."""

import base64
import urllib.parse

import PIL.Image
import pytest

from processor.pictures import encoded, noise
from serve.hostile import PNG, never, pixels, public, refused
from vlmlab.serve.decoders import Bounds, Decoders
from vlmlab.serve.media import Pictures, Policy


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="module")
def pictures():
    with Decoders(Bounds(processes=1)) as decoders:
        yield Pictures(public(), decoders, resolver=never)


@pytest.fixture
def a_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    return path


# `{path}` is a picture that is there and could be read.
ELSEWHERE = {
    "a path": "{path}",
    "a path with a dot": "./{path}",
    "a file": "file://{path}",
    "a file, short": "file:{path}",
    "a file on this machine": "file://localhost{path}",
    "a file, in capitals": "FILE://{path}",
    "a path after a web scheme": "http:{path}",
    "a path after a space": " {path}",
    "a path by home": "~/a.png",
    "this process": "/proc/self/environ",
    "a device": "/dev/zero",
    "a share": "\\\\127.0.0.1\\pictures\\a.png",
    "without a scheme": "//127.0.0.1/a.png",
    "ftp": "ftp://127.0.0.1/a.png",
    "gopher": "gopher://127.0.0.1:6379/_INFO",
    "dict": "dict://127.0.0.1:11211/stats",
    "ldap": "ldap://127.0.0.1/",
    "tftp": "tftp://127.0.0.1/a.png",
    "ssh": "sftp://127.0.0.1{path}",
    "an archive": "jar:file://{path}!/a.png",
    "php": "php://filter/resource={path}",
    "a program": "javascript:alert(1)",
    "a view": "view-source:http://127.0.0.1/",
    "a blob": "blob:http://127.0.0.1/7a",
    "another library's scheme": "s3://bucket/a.png",
    "a name of the hub": "hf://a/b/c.png",
    "two schemes": "url:file://{path}",
    "a web scheme without a host": "http:a.png",
    "a web scheme with one slash": "http:/127.0.0.1/a.png",
    "a space before": " http://127.0.0.1/a.png",
    "a line before": "\nhttp://127.0.0.1/a.png",
    "a mark of byte order before": "\ufeffhttp://127.0.0.1/a.png",
    "wide letters": "ｈｔｔｐ://127.0.0.1/a.png",
    "nothing": "",
    "a zero": "\0",
    "plain base64": base64.b64encode(PNG).decode(),
}


@pytest.mark.parametrize("reference", ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_is_no_reference(pictures, a_file, reference):
    told = refused(pictures, reference.format(path=a_file))
    assert told == "picture 1: only data URLs and http(s) URLs name a picture here"


def test_a_data_url(pictures):
    for url in (data_url(PNG), data_url(PNG).replace("data:", "DaTa:"), data_url(PNG, "image/png;charset=x")):
        (picture,) = pictures.get([url])
        assert isinstance(picture.source, PIL.Image.Image)
        assert (picture.name, picture.source.mode, picture.source.size) == ("picture 1", "RGB", (30, 20))
        assert picture.source.tobytes() == pixels(PNG)


def test_what_a_data_url_is_called_is_not_asked(pictures):
    for kind in ("image/jpeg", "text/html", "application/octet-stream", "", "image/svg+xml"):
        assert pictures.get([data_url(PNG, kind)])


def test_data_urls_need_no_permission():
    with Pictures(Policy(decoding=Bounds(processes=1)), resolver=never) as made:
        assert made.get([data_url(PNG)])


PPM = encoded(noise(30, 20), "PPM")
INVALID = {
    "not base64": ("data:image/png," + urllib.parse.quote(PNG), "should look like"),
    "no comma": ("data:image/png;base64", "should look like"),
    "nothing after the scheme": ("data:", "should look like"),
    "base64 somewhere else": ("data:;base64;a=b," + base64.b64encode(PNG).decode(), "should look like"),
    "letters of no base64": (data_url(PNG)[:-8] + "????????", "not valid base64"),
    "no padding": (data_url(PNG).rstrip("=")[:-1], "not valid base64"),
    "letters beyond ASCII": (data_url(PNG)[:-4] + "éééé", "not valid base64"),
    "half a letter": (data_url(PNG)[:-4] + "\ud800" * 4, "not valid base64"),
    "spaces inside": (data_url(PNG).replace("A", " A"), "not valid base64"),
    "percent codes": (urllib.parse.quote(data_url(PNG), safe=":;,/"), "not valid base64"),
    "nothing": ("data:image/png;base64,", "not a picture"),
    "a page": (data_url(b"<html><img src=file:///etc/hostname>", "image/png"), "not a picture"),
    "a drawing": (data_url(b'<?xml version="1.0"?><svg><image href="http://127.0.0.1/"/></svg>'), "not a picture"),
    "a drawing program's": (data_url(b"8BPS\0\1" + bytes(60)), "not a picture"),
    "PostScript": (data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "not a picture"),
    "PostScript in DOS": (data_url(b"\xc5\xd0\xd3\xc6" + bytes(60)), "not a picture"),
    "a metafile": (data_url(b"\xd7\xcd\xc6\x9a" + bytes(60)), "not a picture"),
    "a film": (data_url(b"\0\0\0\x18ftypisom" + bytes(60)), "not a picture"),
    "an icon": (data_url(encoded(noise(32, 32), "ICO")), "not a picture"),
    "a bare map of pixels": (data_url(PPM), "not a picture"),
    "another URL": (data_url(b"http://127.0.0.1/a.png"), "not a picture"),
    "a beginning only": (data_url(b"\x89PNG\r\n\x1a\n"), "picture 1: "),
    "half a picture": (data_url(encoded(noise(300, 200), "JPEG")[:3000], "image/jpeg"), "damaged, or cut short$"),
}


@pytest.mark.parametrize(("reference", "why"), INVALID.values(), ids=INVALID)
def test_a_data_url_that_is_refused(pictures, reference, why):
    with pytest.raises(ValueError, match=why) as caught:
        pictures.get([reference])
    assert str(caught.value).startswith("picture 1: ") and "0x" not in str(caught.value)


def test_a_data_url_of_just_as_many_bytes_as_are_allowed(pictures):
    data = encoded(noise(30, 20), "PNG")
    for padding in range(3):  # as base64 counts, three bytes are four letters
        whole = data + bytes(padding)
        for bound, good in ((len(whole), True), (len(whole) - 1, False)):
            limited = Pictures(Policy(bytes=bound), pictures.decoders)
            if good:
                assert limited.get([data_url(whole)])
            else:
                assert refused(limited, data_url(whole)) == f"picture 1: the data URL holds more than {bound} bytes"


def test_the_picture_that_is_refused_is_named(pictures):
    assert refused(pictures, data_url(PNG), data_url(PNG), "file:///a").startswith("picture 3: ")


def test_no_pictures(pictures):
    assert pictures.get([]) == []
