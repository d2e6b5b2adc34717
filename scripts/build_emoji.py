"""Builds the embedded Open Clip Art corpus: small pictures with short English titles, split for held-out measurement.

    apt-get download openclipart-png openclipart-svg      # Debian, version 0.18
    for package in openclipart-*.deb; do dpkg-deb -x "$package" unpacked; done
    python scripts/build_openclipart.py unpacked/usr/share/openclipart src/vlmlab/data/corpora/openclipart

The drawings are public domain. Each SVG carries its title, keywords, author and licence (Dublin Core); the PNG of the
same relative path is its picture. What is written:

    pictures.tar   the pictures, JPEG or PNG, uncompressed archive: any member is one seek and one read away
    pairs.jsonl    one record a line: file, title, category, split, keywords, author, licence, source, sha256, offset ...
    PROVENANCE.md  where it came from, the rules, and the counts

Steps: read the metadata, keep what is marked public domain, settle a title, render on white, drop near-duplicates, group
by title words and by picture hash, and split whole groups. Everything is deterministic: no clock, no unseeded choice.
Titles no rule can settle (foreign words, misspelt words, junk) are settled by hand in `openclipart_titles.tsv`.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import html
import io
import json
import math
import re
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

PACKAGES = "openclipart-svg and openclipart-png 1:0.18+dfsg-19 (Debian)"
SIDE = 160
"""Pixels of the longest side of a stored picture."""
NEAR = 6
"""Two pictures whose hashes differ in at most this many of 64 bits count as the same picture when splitting."""
SAME = 3
"""Two pictures whose hashes and colours are this close are one picture: the second is dropped."""
TEST, VALIDATION = 330, 150
"""Wanted numbers of held-out pictures; whole groups are taken, so the result is at least this."""
CHOICES = 10

DC = "{http://purl.org/dc/elements/1.1/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"

SKIPPED_FOLDERS = ("shapes", "special", "logos", "buttons", "computer/buttons", "signs_and_symbols/flags",
                   "recreation/games/cards", "signs_and_symbols/led", "unsorted/duplicates",
                   "people/clothing/pantyhose")  # fmt: skip
"""Gradients, patterns, stars, text, flags and card decks: pictures that their title does not describe."""
SKIPPED_PARTS = ("-theme",)
"""Icon themes: their names are those of programs and actions."""

CATEGORIES = [
    ("animals/", "animals"), ("food/fruit/", "plants"), ("food/vegetables/", "plants"), ("plants/", "plants"),
    ("food/", "food"), ("containers/", "food"), ("people/", "people"), ("recreation/", "leisure"),
    ("decorations/", "leisure"), ("transportation/roadsigns/", "signs"), ("transportation/aiga-symbols/", "signs"),
    ("transportation/", "outdoors"), ("tools/", "office"), ("buildings/furniture/", "office"), ("buildings/", "outdoors"),
    ("education/", "office"), ("office/", "office"), ("science/", "office"), ("computer/icons/hotel_icon", "signs"), ("computer/", "computers"),
    ("electronics/", "computers"), ("signs_and_symbols/", "signs"), ("geography/", "maps"), ("unsorted/", "various"),
]  # fmt: skip
"""The first beginning of a path that matches names the drawing's category."""
TRAINED_ONLY = frozenset({"signs", "maps"})
"""Categories that are never held out: conventional signs and outlines of countries, to be known rather than seen."""
KNOWN = {"test": 2, "validation": 1}
"""In how many groups of the training split every head noun of a held-out group stays, at least."""
LARGEST_HELD_OUT = 16
"""Groups with more pictures than this (every house, every ice cream cone) stay in the training split."""

SERIES = re.compile(
    r"^(clip ?art by|aiga|various cliparts|etiquette icons|.*road signs$|blueberry|r16|australian maps|map symbols"
    r"|homes clipart|plastik|lemon svg|part of the flat|gold-theme|chess pieces$|pc connectors$|sallite$"
    r"|.*theme$|.*iconset|.*icon set$|menu clip art|boating rules|moons$|people$|advertising$|balloons-aj$)",
    re.IGNORECASE,
)
"""Titles given to a whole series, or left over from a template: here the file's name says what is drawn."""

FILLER = frozenset(["a", "an", "the", "icon", "icons", "clipart", "clip", "art", "cliparts", "svg", "png", "sign", "symbol", "symbols", "silhouette", "contour", "remix", "revisited", "drawing", "illustration", "picture", "image", "sketch", "example", "vector", "bw", "aiga", "stylized", "simple", "cartoon", "version", "style", "isolated", "generic", "black", "white", "colour", "color", "grey", "gray", "outline", "lineart"])  # fmt: skip
"""Words that do not make two titles different things."""
EDGE = frozenset(["icon", "icons", "clipart", "cliparts", "svg", "png", "aiga", "remix", "revisited", "illustration", "picture", "image", "vector", "bw", "b", "w", "by", "aj", "ganson", "ger", "left", "right", "new", "final", "r", "v", "contour", "clip", "art", "hotel", "example", "and", "of", "in", "the"])  # fmt: skip
"""Words dropped from either end of a title (a leading article or `left` stays when nothing else would)."""
LEADING_KEPT = frozenset(["left", "right", "new", "clip", "art", "hotel", "the"])
PREPOSITIONS = frozenset(
    [
        "of",
        "in",
        "on",
        "with",
        "for",
        "at",
        "to",
        "from",
        "by",
        "and",
        "under",
        "over",
        "behind",
        "into",
        "against",
        "around",
        "without",
    ]
)


@dataclasses.dataclass
class Pair:
    """One drawing on its way into the corpus."""

    source: str
    title: str
    category: str
    keywords: list[str]
    author: str
    licence: str
    data: bytes = b""
    suffix: str = ""
    size: tuple[int, int] = (0, 0)
    hashes: tuple[int, int] = (0, 0)
    colour: np.ndarray | None = None
    group: int = -1
    split: str = "train"


# ---------------------------------------------------------------------------------------------------------- metadata


def text_of(element: ElementTree.Element) -> str:
    """All text below `element`, entities and doubled encodings undone, spaces folded."""
    text = html.unescape(html.unescape("".join(element.itertext())))
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    return " ".join(text.split())


def first(root: ElementTree.Element, tag: str) -> str:
    """The first text that stands under `tag`, or an empty one."""
    return next((text_of(element) for element in root.iter(tag)), "")


def licence_of(root: ElementTree.Element) -> str:
    """The licence that the drawing's metadata names; empty when it names none or more than one kind."""
    names = {element.get(RDF + "resource") or "" for element in root.iter() if element.tag.endswith("}license")}
    names = {name for name in names if name}
    if names and all(re.search(r"public ?domain", name, re.IGNORECASE) for name in names):
        return sorted(names)[-1]
    return ""


def plain(text: str) -> str:
    """`text` in lower-case ASCII words: CamelCase opened, accents, digits, brackets and punctuation gone."""
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    text = re.sub(r"\([^)]*\)|<[^>]*>|\S+@\S+|https?:\S+|\b\w+\.(svg|png)\b", " ", text)
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    text = re.sub(r"'s\b", "s", text.lower())
    return " ".join(re.sub(r"[^a-z]+", " ", text).split())


def trimmed(words: list[str], author: str) -> list[str]:
    """`words` without the author's name at the end and without filler at either end."""
    names = {name for name in plain(author).split() if len(name) > 1}
    while len(words) > 1 and (words[-1] in EDGE or words[-1] in names or len(words[-1]) == 1):
        words = words[:-1]
    while len(words) > 1 and (words[0] in EDGE - LEADING_KEPT or words[0] in ("a", "an", "some") or len(words[0]) == 1):
        words = words[1:]
    return words


def stem_words(stem: str, author: str) -> list[str]:
    """The words of a file's name; names end in a cut-off author (`lizard_guillaume_boitel_`), which goes."""
    names = [name for name in plain(author).split() if len(name) > 1]
    words = plain(stem.replace("_", " ")).split()
    for place in range(1, len(words)):
        if any(name.startswith(words[place]) or words[place].startswith(name) for name in names[:1] if words[place]):
            words = words[:place]
            break
    return trimmed(words, author)


def read_titles(path: Path) -> dict[str, str]:
    """The settled titles: `found title <tab> title`, or nothing after the tab for a title to drop."""
    lines = (line.rstrip("\n").split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {line[0]: (line[1] if len(line) > 1 else "") for line in lines if line[0] and not line[0].startswith("#")}


def category_of(source: str) -> str:
    """The category of a drawing, by its folder."""
    return next((name for folder, name in CATEGORIES if source.startswith(folder)), "")


def found_title(root: ElementTree.Element, source: str, author: str) -> str:
    """The title before settling: the metadata's, or the file's name where the metadata names only a series."""
    title = first(root, DC + "title").split(" - RPG map")[0]
    if re.search(r" - (body part|clothing|music|food)$", title):
        title = title.rsplit(" - ", 1)[0]
    words = trimmed(plain(title).split(), author)
    if not words or SERIES.match(title):
        words = stem_words(Path(source).stem, author)
    return " ".join(words)


def read_pairs(root: Path, settled: dict[str, str], counts: collections.Counter[str]) -> Iterator[Pair]:
    """Every drawing with a title, a category, a picture and a public-domain mark, in the order of their paths."""
    for path in sorted((root / "svg").rglob("*.svg")):
        source = path.relative_to(root / "svg").as_posix()
        counts["drawings"] += 1
        if source.startswith(tuple(folder + "/" for folder in SKIPPED_FOLDERS)) or any(
            p in source for p in SKIPPED_PARTS
        ):
            counts["skipped folders"] += 1
            continue
        if path.is_symlink():
            counts["links to another drawing"] += 1
            continue
        tree = ElementTree.parse(path).getroot()
        licence = licence_of(tree)
        if not licence or not (root / "png" / source).with_suffix(".png").is_file():
            counts["no public-domain mark or no picture"] += 1
            continue
        creator = next((text_of(agent) for agent in tree.iter(DC + "creator")), "")
        found = found_title(tree, source, creator)
        title = settled.get(found, found).removeprefix("hotel icon ")
        if not title or not 3 <= len(title) <= 48 or len(title.split()) > 6:
            counts["no usable title"] += 1
            continue
        keywords = sorted(
            {" ".join(text_of(li).lower().split()) for s in tree.iter(DC + "subject") for li in s.iter(RDF + "li")}
        )
        keywords = [word for word in keywords if word and not word.startswith("hash") and word != "unsorted"]
        yield Pair(source, title, category_of(source), keywords, re.sub(r"\s*[<(\[]?\S+@\S+", "", creator), licence)


# ---------------------------------------------------------------------------------------------------------- pictures


def render(path: Path) -> Image.Image:
    """The drawing on white, cropped to what is drawn plus a margin, at most `SIDE` pixels long."""
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    marked = np.asarray(picture.convert("L")) < 250
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    if len(rows) == 0:
        raise ValueError("empty picture")
    margin = max(2, round(0.03 * max(picture.size)))
    left, upper = max(columns[0] - margin, 0), max(rows[0] - margin, 0)
    right, lower = min(columns[-1] + margin + 1, picture.width), min(rows[-1] + margin + 1, picture.height)
    picture = picture.crop((left, upper, right, lower))
    scale = SIDE / max(picture.size)
    return picture.resize([max(16, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)


def encode(picture: Image.Image) -> tuple[bytes, str]:
    """The smaller of a 40-colour PNG and a JPEG; flat drawings favour the first, shaded ones the second."""
    flat, shaded = io.BytesIO(), io.BytesIO()
    picture.quantize(40, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(flat, "PNG", optimize=True)
    picture.save(shaded, "JPEG", quality=72, optimize=True)
    if len(flat.getvalue()) <= len(shaded.getvalue()):
        return flat.getvalue(), "png"
    return shaded.getvalue(), "jpg"


def square(picture: Image.Image) -> Image.Image:
    """The picture in the middle of a white square."""
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def bits(values: np.ndarray) -> int:
    """64 truth values as one number."""
    return int.from_bytes(np.packbits(values.ravel()).tobytes(), "big")


def hashes_of(picture: Image.Image) -> tuple[int, int]:
    """The difference hash (neighbours in a 9 x 8 thumbnail) and the perceptual hash (low cosine frequencies)."""
    grey = picture.convert("L")
    small = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS), dtype=np.int16)
    wide = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    steps = np.arange(32)
    cosine = np.cos(math.pi * steps[:8, None] * (2 * steps + 1) / 64)
    low = cosine @ wide @ cosine.T
    return bits(small[:, 1:] > small[:, :-1]), bits(low > np.median(low))


def distance(one: int, other: int) -> int:
    """Number of differing bits."""
    return (one ^ other).bit_count()


# ------------------------------------------------------------------------------------------------------------ groups


def folded(word: str) -> str:
    """A word without its plural ending."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("oes", "o")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + instead
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def words_of(title: str) -> frozenset[str]:
    """The content words of a title, plurals folded, order and filler forgotten: equal sets mean the same thing."""
    words = [folded(word) for word in title.split() if word not in PREPOSITIONS]
    return frozenset([word for word in words if word not in FILLER] or words)


def head_of(title: str) -> str:
    """The head noun, roughly: the last word before the first preposition, plural folded."""
    words = title.split()
    stop = next((place for place, word in enumerate(words) if place and word in PREPOSITIONS), len(words))
    left = [word for word in words[:stop] if word not in FILLER] or words[:stop]
    return folded(left[-1])


def components(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest member of the connected group of each of `count` items."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for one, other in links:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(item) for item in range(count)]


def without_duplicates(pairs: list[Pair]) -> list[Pair]:
    """The first of every set of pictures that look the same, whatever they are called."""
    kept: list[Pair] = []
    for pair in pairs:
        assert pair.colour is not None
        for other in kept:
            assert other.colour is not None
            if (
                all(distance(a, b) <= SAME for a, b in zip(pair.hashes, other.hashes, strict=True))
                and float(np.abs(pair.colour - other.colour).mean()) < 12
            ):
                break
        else:
            kept.append(pair)
    return kept


def set_groups(pairs: list[Pair]) -> None:
    """Groups that no split may cut: same title words, or pictures whose hashes are near."""
    links: list[tuple[int, int]] = []
    by_words: dict[frozenset[str], int] = {}
    for index, pair in enumerate(pairs):
        links.append((by_words.setdefault(words_of(pair.title), index), index))
    for kind in (0, 1):
        codes = [pair.hashes[kind] for pair in pairs]
        links += [
            (a, b) for a in range(len(codes)) for b in range(a + 1, len(codes)) if distance(codes[a], codes[b]) <= NEAR
        ]
    for pair, group in zip(pairs, components(len(pairs), links), strict=True):
        pair.group = group


def set_splits(pairs: list[Pair]) -> None:
    """Deals whole groups out in the order of a hash of each group's first drawing.

    What is held out is a new title of a thing that training has seen: each head noun of a held-out group stays in some
    other groups of the training split (`KNOWN` says in how many).
    """
    groups: dict[int, list[Pair]] = collections.defaultdict(list)
    for pair in pairs:
        groups[pair.group].append(pair)
    heads = {number: {head_of(pair.title) for pair in group} for number, group in groups.items()}
    trained = collections.Counter(head for some in heads.values() for head in some)
    deck = sorted(groups, key=lambda number: hashlib.sha256(groups[number][0].source.encode()).hexdigest())
    for split, wanted in (("test", TEST), ("validation", VALIDATION)):
        for number in deck:
            group = groups[number]
            if (
                wanted > 0
                and group[0].split == "train"
                and len(group) <= LARGEST_HELD_OUT
                and not TRAINED_ONLY.intersection(pair.category for pair in group)
                and all(trained[head] > KNOWN[split] for head in heads[number])
            ):
                wanted -= len(group)
                trained.subtract(heads[number])
                for pair in group:
                    pair.split = split


# ------------------------------------------------------------------------------------------------------------ output


def write(pairs: list[Pair], folder: Path) -> None:
    """Writes the archive and its index. Members are named by number and suffix; times and owners are zero."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {head_of(pair.title) for pair in pairs if pair.split == "train"}
    records = []
    with tarfile.open(folder / "pictures.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, pair in enumerate(pairs):
            member = tarfile.TarInfo(f"{number:04d}.{pair.suffix}")
            member.size = len(pair.data)
            offset = archive.offset + 512
            archive.addfile(member, io.BytesIO(pair.data))
            records.append({
                "file": member.name, "title": pair.title, "category": pair.category, "split": pair.split,
                "head": head_of(pair.title), "head_in_train": head_of(pair.title) in trained, "group": pair.group,
                "width": pair.size[0], "height": pair.size[1], "offset": offset, "bytes": len(pair.data),
                "keywords": pair.keywords, "author": pair.author, "licence": pair.licence, "source": pair.source,
                "sha256": hashlib.sha256(pair.data).hexdigest(),
            })  # fmt: skip
    lines = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records)
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the embedded Open Clip Art corpus.")
    parser.add_argument("unpacked", type=Path, help="folder that holds svg/ and png/ of the two Debian packages")
    parser.add_argument("out", type=Path, help="folder to write pictures.tar, pairs.jsonl and PROVENANCE.md into")
    parser.add_argument("--titles", type=Path, default=Path(__file__).with_name("openclipart_titles.tsv"))
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    pairs = []
    for pair in read_pairs(options.unpacked, read_titles(options.titles), counts):
        try:
            picture = render((options.unpacked / "png" / pair.source).with_suffix(".png"))
        except (OSError, ValueError, Image.DecompressionBombError):
            counts["picture unreadable or empty"] += 1
            continue
        pair.size = picture.size
        pair.data, pair.suffix = encode(picture)
        whole = square(picture)
        pair.hashes = hashes_of(whole)
        pair.colour = np.asarray(whole.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)
        pairs.append(pair)
    unique = without_duplicates(pairs)
    counts["near-duplicate pictures"] = len(pairs) - len(unique)
    set_groups(unique)
    set_splits(unique)
    write(unique, options.out)
    counts["kept"] = len(unique)
    for name, count in [*counts.items(), *collections.Counter(pair.split for pair in unique).items()]:
        print(f"{count:6d} {name}")


if __name__ == "__main__":
    main()
