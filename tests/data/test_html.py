"""Pages of HTML: what is on the page stays, in reading order; what surrounds it goes. The truth is known."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmlab.data import html
from vlmlab.data.html import Shown


def parts(body, **keys):
    return list(html.read(f"<html><body>{body}</body></html>", **keys).parts)


PROSE = "The kite rose over the field while the wind held, and all of us watched it grow small. "


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("<h1>Kites</h1><p>They   fly\n high.</p>", ["Kites", "They fly high."]),
        ("<p>one<img src='a.png' alt=' A  kite '>two</p>", ["one", Shown("a.png", "A kite"), "two"]),
        ("<p>a <b>bold</b> <i>word</i>, <a href='x'>linked</a> here and on</p>", ["a bold word, linked here and on"]),
        ("loose text<div>in a box</div>more", ["loose text", "in a box", "more"]),
        ("<p>first<br>second</p>", ["first\nsecond"]),
        ("<pre>  a\n    b  \n</pre>", ["  a\n    b"]),
        ("<ul><li>one</li><li>two</li></ul>", ["one", "two"]),
        ("<table><tr><th>Name</th><td>7</td></tr><tr><td>x</td></tr></table>", ["Name 7", "x"]),
        ("<figure><img src=a.png><figcaption>A kite.</figcaption></figure>", [Shown("a.png"), "A kite."]),
        ("<p>soft&shy;ened &amp; <!-- not this --> done</p>", ["softened & done"]),
        ("<p>***</p><p>&nbsp;</p><p>kept</p>", ["kept"]),
        ("<img src=tiny.gif data-src=' big.jpg '>", [Shown("big.jpg")]),
        ("<img alt='nothing to show'>", []),
        ("<p>unclosed <div>and nested</p> wrong", ["unclosed", "and nested", "wrong"]),
    ],
)
def test_reading_order(body, wanted):
    assert parts(body) == wanted


AROUND = [
    "<nav>gone <p>gone</p></nav>",
    "<script>gone()</script>",
    "<style>.gone { }</style>",
    "<noscript>gone</noscript>",
    "<header><p>gone</p></header>",
    "<footer>gone</footer>",
    "<aside>gone</aside>",
    "<svg><text>gone</text><title>gone</title></svg>",
    "<select><option>gone</option></select>",
    "<template><p>gone</p></template>",
    "<div role='navigation'>gone</div>",
    "<div class='site-footer dark'>gone</div>",
    "<div id='pageSidebar'>gone</div>",
    "<div class='cookie-banner'>gone</div>",
    "<div hidden>gone</div>",
    "<p aria-hidden='true'>gone</p>",
    "<p style='color: red; display:none'>gone</p>",
    "<ul><li><a href=1>gone</a></li><li><a href=2>gone too</a></li></ul>",
    "<p><a href='next.html'>gone: next</a></p>",
    "<div><span><a href=1>gone</a> | <a href=2>gone</a></span></div>",
]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("first", [True, False])
def test_what_surrounds_a_page_goes(around, first):
    text = [f"<p>{PROSE}</p>", "<article><header><h2>Stays</h2></header></article>"]
    body = "".join([around, *text] if first else [*text, around])
    assert parts(body) == [PROSE.strip(), "Stays"]


@pytest.mark.parametrize(
    "body",
    [
        f"<div class='nav sidebar'><p>{PROSE}</p></div>",  # an unfortunate name for all there is
        f"<header><p>{PROSE}</p></header>",
        f"<form><p>{PROSE}</p></form>",  # some pages stand in one as a whole
        f"<p class='navy shadow'>{PROSE}</p>",
        f"<p>{PROSE}</p><p>See <a href=x>the manual of kites</a> and <a href=y>ours</a> for how to fold them.</p>",
        f"<p>{PROSE}</p><p><a href=x>A headline that is a link, and says more than a button</a></p>",
        f"<p>{PROSE}</p><p><a href=x><img src=a.png></a> <a href=y>larger</a></p>",
    ],
)
def test_what_belongs_to_it_stays(body):
    found = parts(body)
    assert found[0] == PROSE.strip()
    assert len(found) == 1 or any(word in str(found[1:]) for word in ("ours", "headline", "a.png"))


def test_title_and_language():
    page = html.read("<html lang=' de '><head><title> Drachen\n steigen </title></head><body>x<title>no</title></body>")
    assert (page.title, page.language, page.parts) == ("Drachen steigen", "de", ("x",))
    assert html.read("") == html.Page("", "", ())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>Käse</p>".encode(), "Käse"),
        (b"<meta charset=iso-8859-1><p>K\xe4se</p>", "Käse"),
        ("<meta http-equiv='Content-Type' content='text/html; charset=koi8-r'><p>мир</p>".encode("koi8-r"), "мир"),
        ("<?xml version='1.0' encoding='latin-1'?><p>Käse</p>".encode("latin-1"), "Käse"),
        (b"\xef\xbb\xbf<p>K\xc3\xa4se</p>", "Käse"),
        ("<p>Käse</p>".encode("utf-16"), "Käse"),
        (b"<meta charset=no-such-thing><p>K\xc3\xa4se</p>", "Käse"),
        (b"<p>K\xff\xfese</p>", "K\ufffd\ufffdse"),
    ],
)
def test_encodings(data, text):
    assert html.read(data).parts == (text,)


def made_page(generator):
    """A page as sites make them: paragraphs and pictures of its own in some boxes, with menus and the like around."""
    truth, pieces, words = [], [], iter(range(10_000))

    def sentence(count):
        return " ".join(f"word{next(words)}" for _ in range(count))

    for number in range(generator.randint(3, 9)):
        if generator.random() < 0.3:
            truth.append(Shown(f"pictures/{number}.jpg"))
            pieces.append(f"<img src='pictures/{number}.jpg'>")
        else:
            text = sentence(generator.randint(12, 60))
            truth.append(text)
            tag = generator.choice(["p", "div", "li", "h2", "blockquote", "section"])
            pieces.append(f"<{tag}>{text}</{tag}>")
    inner = "".join(pieces)
    for _ in range(generator.randint(0, 4)):
        box = generator.choice(["div", "main", "article", "section", "center"])
        inner = f"<{box} class='{generator.choice(['content', 'page wide', 'x1'])}'>{inner}</{box}>"
    before = "".join(generator.sample(AROUND, generator.randint(0, 4)))
    after = "".join(generator.sample(AROUND, generator.randint(0, 4)))
    return f"<!doctype html><html><head><title>t</title></head><body>{before}{inner}{after}</body></html>", truth


def test_made_pages_are_read_exactly():
    for seed in range(150):
        text, truth = made_page(random.Random(seed))
        assert list(html.read(text).parts) == truth, f"page {seed}"


@given(st.text(alphabet="<>/='\"aimgprsc &;!-\n", max_size=80))
def test_anything_is_a_page(text):
    for part in html.read(text).parts:
        assert part if isinstance(part, str) else part.address


def test_pages_nest_as_deep_as_can_be_read():
    assert parts("<div>" * 3000 + "<p>the bottom of it</p>") == ["the bottom of it"]
    assert parts("<div>x</div>" * 5000)[0] == "x"
    with pytest.raises(ValueError, match="nest more than 4000 deep"):
        html.read("<DIV class=x>" * 100_000)
