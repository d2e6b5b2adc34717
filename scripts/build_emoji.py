"""Builds the embedded corpus of emoji: small pictures with short English titles, split for held-out measurement.

    mkdir raw && cd raw && npm pack @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 \\
        @iconify-json/twemoji@1.2.5 emojibase-data@17.0.0 && cd ..
    pip install resvg-py==0.5.0
    python scripts/build_emoji.py raw src/vlmlab/data/corpora/emoji

Three permissively licensed sets draw the same emoji, each in its own style; the titles are the names that Unicode gives
them. What is written:

    pictures.zip   the pictures, JPEG or PNG, not compressed again: any member is one seek and one read away
    pairs.jsonl    one record a line: file, title, category, split, keywords, author, licence, source, sha256 ...

Steps: read names and drawings, render on white, drop near-duplicates, group by title words and by picture hash, and
split whole groups. Everything is deterministic: no clock, no unseeded choice.
"""

import argparse
import collections
import dataclasses
import hashlib
import io
import json
import math
import re
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STYLES = {
    "noto": ("iconify-json-noto-1.2.9.tgz", "Google", "Apache-2.0"),
    "fluent": ("iconify-json-fluent-emoji-flat-1.2.6.tgz", "Microsoft", "MIT"),
    "twemoji": ("iconify-json-twemoji-1.2.5.tgz", "Twitter and other contributors", "CC-BY-4.0"),
}
"""Sets of emoji: the package, who drew them, and the licence of the drawings."""
NAMES = "emojibase-data-17.0.0.tgz"
CATEGORIES = {0: "faces", 1: "people", 3: "animals", 4: "food", 5: "outdoors", 6: "leisure", 7: "objects"}
"""Unicode's groups of emoji. Left out: parts of emoji (2), signs (8) and flags (9), to be known rather than seen."""
SIDE = 128
"""Pixels of the longest side of a stored picture."""
NEAR = 4
"""Two pictures whose hashes differ in at most this many of 64 bits count as the same picture when splitting."""
SAME = 3
"""Two pictures whose hashes and colours are this close are one picture: the second is dropped."""
TEST, VALIDATION = 350, 150
"""Wanted numbers of held-out pictures; whole groups are taken, and only those that may be."""
KNOWN = 6
"""In how many pictures of the training split every head noun of a held-out group stays, at least."""
HELD_OUT = frozenset({"faces", "people", "outdoors"})
"""Categories with held-out pictures: those with enough things drawn again and again under different titles."""
LARGEST_HELD_OUT = 36
"""Groups with more pictures than this stay in the training split: faces that differ in little but the mouth."""

SMALL = frozenset(["a", "an", "the"])
"""Words that do not make two titles different things."""
PREPOSITIONS = frozenset(
    ["of", "in", "on", "with", "for", "at", "to", "from", "by", "and", "under", "over", "behind", "into", "without"]
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


# ------------------------------------------------------------------------------------------------- names and drawings


def unpacked(package: Path, name: str) -> Any:
    """A JSON file of an npm package."""
    with tarfile.open(package) as archive:
        member = archive.extractfile(f"package/{name}")
        assert member is not None
        return json.load(member)


def title_of(label: str) -> str:
    """Unicode's name of an emoji as a title in lower-case words.

    Empty for names that list things (a family), for mirrored drawings, and for one gesture nobody wants in a demo.
    """
    if re.search(r"[\"“”,#]|^family:|: facing right$|^middle finger$", label):
        return ""
    label = label.replace("’", "").replace(": ", " with ").replace("-", " ")
    label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return " ".join(re.sub(r"[^a-z]+", " ", label).split())


def read_pairs(raw: Path, counts: collections.Counter[str]) -> Iterator[Pair]:
    """Every named emoji in every set that has it, without skin tones, in Unicode's order. `data` is its SVG."""
    names = unpacked(raw / NAMES, "en/data.json")
    for style, (package, author, licence) in STYLES.items():
        icons, codes = unpacked(raw / package, "icons.json"), unpacked(raw / package, "chars.json")
        for name in names:
            icon = codes.get(name["hexcode"].lower().replace("-fe0f", ""))
            if name.get("group") not in CATEGORIES or icon not in icons["icons"]:
                continue
            counts["drawings"] += 1
            title = title_of(name["label"])
            if not 2 <= len(title) <= 48 or len(title.split()) > 6:
                counts["no usable title"] += 1
                continue
            found = icons["icons"][icon]
            width, height = (found.get(side, icons.get(side, 16)) for side in ("width", "height"))
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{found["body"]}</svg>'
            category, keywords = CATEGORIES[name["group"]], sorted(name.get("tags", []))
            yield Pair(f"{style}/{icon}", title, category, keywords, author, licence, svg.encode())


# ---------------------------------------------------------------------------------------------------------- pictures


def drawn(svg: bytes) -> Image.Image:
    """The drawing at twice the size."""
    import resvg_py

    with Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg.decode(), width=2 * SIDE)))) as picture:
        return picture.convert("RGBA")


def render(picture: Image.Image) -> Image.Image:
    """The drawing on white, cropped to what is drawn plus a margin, `SIDE` pixels long."""
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


def picture_of(pair: Pair) -> None:
    """Renders and encodes a pair's picture, and what it is compared by. Raises ValueError for an empty one."""
    picture = render(drawn(pair.data))
    pair.size = picture.size
    pair.data, pair.suffix = encode(picture)
    whole = square(picture)
    pair.hashes = hashes_of(whole)
    pair.colour = np.asarray(whole.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)


# ------------------------------------------------------------------------------------------------------------ groups


def folded(word: str) -> str:
    """A word without its plural ending."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("oes", "o")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + instead
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def words_of(title: str) -> frozenset[str]:
    """The content words of a title, plurals folded, order forgotten: equal sets mean the same thing."""
    words = [folded(word) for word in title.split() if word not in PREPOSITIONS]
    return frozenset([word for word in words if word not in SMALL] or words)


def head_of(title: str) -> str:
    """The head noun, roughly: the last word before the first preposition, plural folded."""
    words = title.split()
    stop = next((place for place, word in enumerate(words) if place and word in PREPOSITIONS), len(words))
    return folded(words[:stop][-1])


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
    codes = [np.array([pair.hashes[kind] for pair in pairs], dtype=np.uint64) for kind in (0, 1)]
    colours = np.stack([pair.colour for pair in pairs])
    kept: list[int] = []
    for index in range(len(pairs)):
        before = np.array(kept, dtype=int)
        same = np.ones(len(before), dtype=bool)
        for code in codes:
            same &= np.bitwise_count(code[before] ^ code[index]) <= SAME
        near = before[same]
        if not (np.abs(colours[near] - colours[index]).mean(axis=(1, 2, 3)) < 12).any():
            kept.append(index)
    return [pairs[index] for index in kept]


def set_groups(pairs: list[Pair]) -> None:
    """Groups that no split may cut: same title words, or pictures whose hashes are near."""
    links: list[tuple[int, int]] = []
    by_words: dict[frozenset[str], int] = {}
    for index, pair in enumerate(pairs):
        links.append((by_words.setdefault(words_of(pair.title), index), index))
    for kind in (0, 1):
        codes = np.array([pair.hashes[kind] for pair in pairs], dtype=np.uint64)
        for index in range(len(codes)):
            near = np.flatnonzero(np.bitwise_count(codes[index + 1 :] ^ codes[index]) <= NEAR)
            links += [(index, index + 1 + int(other)) for other in near]
    for pair, group in zip(pairs, components(len(pairs), links), strict=True):
        pair.group = group


def set_splits(pairs: list[Pair]) -> None:
    """Deals whole groups out in the order of a hash of each group's first drawing.

    What is held out is a new title of a thing that training has seen: each head noun of a held-out group stays in at
    least `KNOWN` pictures of the training split.
    """
    groups: dict[int, list[Pair]] = collections.defaultdict(list)
    for pair in pairs:
        groups[pair.group].append(pair)
    heads = {number: collections.Counter(head_of(pair.title) for pair in group) for number, group in groups.items()}
    trained = collections.Counter(head_of(pair.title) for pair in pairs)
    deck = sorted(groups, key=lambda number: hashlib.sha256(groups[number][0].source.encode()).hexdigest())
    for split, wanted in (("test", TEST), ("validation", VALIDATION)):
        for number in deck:
            group = groups[number]
            if (
                wanted > 0
                and group[0].split == "train"
                and len(group) <= LARGEST_HELD_OUT
                and HELD_OUT.issuperset(pair.category for pair in group)
                and all(trained[head] - count >= KNOWN for head, count in heads[number].items())
            ):
                wanted -= len(group)
                trained.subtract(heads[number])
                for pair in group:
                    pair.split = split


# ------------------------------------------------------------------------------------------------------------ output


def write(pairs: list[Pair], folder: Path) -> None:
    """Writes the archive and its index. Members are named by number and suffix; all have one date."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_STORED) as archive:
        for number, pair in enumerate(pairs):
            member = zipfile.ZipInfo(f"{number:04d}.{pair.suffix}", (1980, 1, 1, 0, 0, 0))
            archive.writestr(member, pair.data)
            records.append({
                "file": member.filename, "title": pair.title, "category": pair.category, "split": pair.split,
                "head": head_of(pair.title), "group": pair.group, "width": pair.size[0], "height": pair.size[1],
                "offset": member.header_offset + 30 + len(member.filename), "bytes": len(pair.data),
                "keywords": pair.keywords, "author": pair.author, "licence": pair.licence, "source": pair.source,
                "sha256": hashlib.sha256(pair.data).hexdigest(),
            })  # fmt: skip
    lines = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records)
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the embedded corpus of emoji.")
    parser.add_argument("raw", type=Path, help="folder with the four npm packages")
    parser.add_argument("out", type=Path, help="folder to write pictures.zip and pairs.jsonl into")
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    pairs = list(read_pairs(options.raw, counts))
    for pair in pairs:
        picture_of(pair)
    kept = without_duplicates(pairs)
    counts["near-duplicate pictures"] = len(pairs) - len(kept)
    set_groups(kept)
    set_splits(kept)
    write(kept, options.out)
    counts["kept"] = len(kept)
    for name, count in [*counts.items(), *collections.Counter(pair.split for pair in kept).items()]:
        print(f"{count:6d} {name}")


if __name__ == "__main__":
    main()
