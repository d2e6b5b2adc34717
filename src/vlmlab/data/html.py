"""Pages of HTML as what they are read for: paragraphs and pictures in reading order, without what surrounds them.

Menus, headers, footers, share buttons and lists of links are left out by four rules, in this order: elements that never
hold text of the page; roles, and words in class names and ids, that say what an element is for; elements that are not
shown; elements most of whose words stand in links. No rule takes away an element that holds half of a page's words.
Reading is selectolax's, as browsers read: a page is never too broken.
"""

import collections
import dataclasses
import itertools
import re
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture as a page names it: its address as it stands there, and the text in its place."""

    address: str
    alt: str = ""


@dataclasses.dataclass(frozen=True)
class Page:
    """A page: its title, its language where it says so, and its paragraphs and pictures in reading order."""

    title: str
    language: str
    parts: tuple[str | Shown, ...]


def words(name: str | None) -> frozenset[str]:
    """The words of class names or an id: parted at dashes, and where a capital follows a small letter."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name or "")
    return frozenset(re.findall(r"[a-z0-9]+", parted.lower()))


NEVER = words(
    "aside button canvas dialog embed footer frame frameset iframe input map math menu nav noframes noscript object "
    "optgroup option script select style svg template textarea title video audio"
)
"""Elements that never hold text of a page."""

BLOCKS = words(
    "address article blockquote body caption center dd details div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 "
    "header hgroup hr legend li main ol p pre section summary table tbody tfoot thead tr ul"
)
"""Elements that begin a paragraph."""

ROLES = words("alert banner complementary contentinfo dialog menu menubar navigation search toolbar tooltip")

WORDS = words(
    "ad ads advert advertisement banner breadcrumb breadcrumbs comments cookie cookies footer headerlink masthead menu "
    "menubar modal nav navbar navfooter navheader navigation newsletter pager paginate pagination popup promo related "
    "relbar share sharing sidebar skip skiplink social sphinxsidebar sponsored subscribe tabs toolbar topbar"
)
"""Words of class names and ids that say an element is not the page's own text."""

# Elements that nest for as long as they are not closed; paragraphs, items and cells end where the next begins.
_NESTING = re.compile(
    r"<(/?)(?:article|b|blockquote|center|div|em|font|i|ol|section|span|strong|table|ul)\b", re.IGNORECASE
)
_DEEPEST = 4000

_LINKED = 0.7  # the share of words in links from which an element is a list of them
_SHORT = 5  # words: a link alone in a paragraph that is no longer leads elsewhere
_HALF = 0.5  # of a page's words: an element with so many is the page


def read(text: str | bytes) -> Page:
    """The page. Bytes are read in the encoding that they say they are in, or else as UTF-8.

    Raises ValueError for one whose elements nest thousands deep: reading it would take for ever.
    """
    text = text if isinstance(text, str) else _decoded(text)
    deep = itertools.accumulate(-1 if tag[1] else 1 for tag in _NESTING.finditer(text))
    if max(deep, default=0) > _DEEPEST:
        raise ValueError(f"its elements nest more than {_DEEPEST} deep")
    tree = _library().LexborHTMLParser(text)
    title = tree.css_first("title")
    root = tree.css_first("html")
    language = (root.attributes.get("lang") or "") if root is not None else ""
    name = _joined(title.text()) if title is not None else ""
    if tree.body is None:
        return Page(name, language.strip(), ())
    counted = _Words(tree.body)
    return Page(name, language.strip(), tuple(_Reader(counted).read(tree.body)))


def _decoded(data: bytes) -> str:
    for mark, kind in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(kind, errors="replace")
    said = re.search(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]+)", data[:4096], re.IGNORECASE)
    said = said or re.search(rb"<\?xml[^>]{0,100}encoding\s*=\s*[\"']([\w.:-]+)", data[:200])
    try:
        return data.decode(said[1].decode("ascii") if said else "utf-8", errors="replace")
    except LookupError:
        return data.decode("utf-8", errors="replace")


@dataclasses.dataclass
class _Count:
    """What an element holds: words, how many of them stand in links, links and pictures."""

    words: int = 0
    linked: int = 0
    links: int = 0
    pictures: int = 0


class _Words:
    """What each element of a page holds."""

    def __init__(self, body: "LexborNode") -> None:
        self.counts: dict[int, _Count] = collections.defaultdict(_Count)
        # From the last node to the first: an element comes after all that is inside it.
        for node in reversed([*body.traverse(include_text=True)]):
            own = self.counts[node.mem_id]
            if node.tag == "-text":
                own.words = len(re.findall(r"\w+", node.text_content or ""))
            elif node.tag in NEVER:
                continue
            elif node.tag == "a" and node.attributes.get("href"):
                own.linked, own.links = own.words, own.links + 1
            elif node.tag == "img":
                own.pictures = 1
            if node.mem_id != body.mem_id and node.parent is not None:
                above = self.counts[node.parent.mem_id]
                above.words += own.words
                above.linked += own.linked
                above.links += own.links
                above.pictures += own.pictures
        self.total = self.counts[body.mem_id].words

    def is_page(self, node: "LexborNode") -> bool:
        """Whether an element holds half of all words, or more."""
        return self.total > 0 and self.counts[node.mem_id].words >= _HALF * self.total

    def is_list_of_links(self, node: "LexborNode") -> bool:
        """Whether most words of an element are links: several of them, or one that is all there is and short."""
        own = self.counts[node.mem_id]
        if node.tag not in BLOCKS or own.pictures:
            return False
        if own.links > 1:
            return own.linked > _LINKED * own.words
        return 0 < own.words == own.linked <= _SHORT


class _Reader:
    """Walks a page from its beginning to its end."""

    def __init__(self, counted: _Words) -> None:
        self.counted = counted
        self.parts: list[str | Shown] = []
        self.pending: list[str] = []

    def read(self, body: "LexborNode") -> list[str | Shown]:
        """The paragraphs and pictures inside an element."""
        # A list in place of recursion: pages nest deeper than Python does. None closes the paragraph of an element.
        waiting: list[tuple[LexborNode | None, bool]] = [(body, False)]
        while waiting:
            node, verbatim = waiting.pop()
            if node is None:
                self._close(verbatim)
                continue
            if node.tag == "-text":
                text = node.text_content or ""
                self.pending.append(text if verbatim else re.sub(r"\s+", " ", text))
            elif node.tag == "img":
                self._picture(node)
            elif node.tag == "br":
                self.pending.append("\n")
            elif node.is_element_node and not self._left_out(node):
                inside = verbatim or node.tag == "pre"
                if node.tag in BLOCKS:
                    self._close(verbatim)
                    waiting.append((None, inside))
                elif node.tag in ("td", "th"):
                    self.pending.append(" ")
                children = [*node.iter(include_text=True)]
                waiting += [(child, inside) for child in reversed(children)]
        self._close(False)
        return self.parts

    def _left_out(self, node: "LexborNode") -> bool:
        counted, told = self.counted, node.attributes
        if node.tag in NEVER:
            return True
        if counted.is_page(node):
            return False
        named = words(told.get("class")) | words(told.get("id"))
        above = node.parent.tag if node.parent is not None else ""
        return bool(
            (told.get("role") or "").strip().lower() in ROLES
            or named & WORDS
            or (node.tag == "header" and above == "body")
            or "hidden" in told
            or (told.get("aria-hidden") or "").strip().lower() == "true"
            or re.search(r"display\s*:\s*none|visibility\s*:\s*hidden", told.get("style") or "")
            or counted.is_list_of_links(node)
        )

    def _picture(self, node: "LexborNode") -> None:
        told = node.attributes
        # Pages that load pictures late keep their addresses elsewhere, with a small one in their place.
        address = next((told[key] for key in ("data-src", "data-original", "src") if told.get(key)), None)
        if address:
            self._close(False)
            self.parts.append(Shown(address.strip(), _joined(told.get("alt") or "")))

    def _close(self, verbatim: bool) -> None:
        """End the paragraph, if there is one that says something."""
        text = "".join(self.pending)
        self.pending.clear()
        if verbatim:
            text = "\n".join(line.rstrip() for line in text.expandtabs(4).split("\n")).strip("\n")
        else:
            text = "\n".join(line for line in map(_joined, text.split("\n")) if line)
        if any(letter.isalnum() for letter in text):
            self.parts.append(text)


def _joined(text: str) -> str:
    return " ".join(text.replace("\u00ad", "").split())


def _library() -> ModuleType:
    # Imported here: only those who build documents need it.
    try:
        import selectolax.lexbor
    except ModuleNotFoundError:
        raise ValueError("reading HTML needs `selectolax`: pip install 'vlmlab[data]'") from None
    library: ModuleType = selectolax.lexbor
    return library
