"""`vlmlab data get NAME`: corpora that Debian packages, fetched with apt and written as lines for the `jsonl` source.

    FOLDER/train.jsonl  validation.jsonl  test.jsonl   one sample a line (see vlmlab/data/sources/jsonl.py)
    FOLDER/pictures/    FOLDER/vlmlab-origin.json      what it came from

Nothing is installed: the packages are downloaded as the user, checked by apt against the archive's signature, and
unpacked into a scratch folder. Their licences are those of the packages; they are not part of vlmlab.
"""

import dataclasses
import hashlib
import html.parser
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlmlab.data import nsfw

ORIGIN = "vlmlab-origin.json"
PICTURES = "pictures"

Line = tuple[str, dict[str, Any], list[Path]]
"""What decides its split, the sample (its `images` still to come), and its pictures' files."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus that can be fetched: Debian packages, and how their files become samples."""

    what: str
    licence: str
    megabytes: int
    packages: tuple[str, ...]
    read: Callable[[Path], Iterator[Line]]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that a filter needs, and what makes its folder."""

    what: str
    licence: str
    megabytes: int
    get: Callable[[Path], Path]


def stamps(root: Path) -> Iterator[Line]:
    """Tux Paint's stamps: a picture beside a text file whose first line says what it is."""
    for path in sorted(root.glob("usr/share/tuxpaint/stamps/**/*.txt")):
        picture = path.with_suffix(".png")
        said = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if picture.is_file() and said and said[0].strip():
            title = said[0].strip()
            asked = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": title}]
            yield title.casefold(), {"messages": turns}, [picture]


def manual(root: Path) -> Iterator[Line]:
    """GIMP's manual: pages of text with their pictures in reading order, as documents."""
    for path in sorted(root.glob("usr/share/gimp/2.0/help/en/*.html")):
        page = Page(path.parent)
        page.feed(path.read_text(encoding="utf-8", errors="replace"))
        text = page.text()
        if page.pictures and len(text.split()) >= 30:
            yield path.name, {"text": text}, page.pictures


class Page(html.parser.HTMLParser):
    """The text of an HTML page with `<image>` where its pictures stand, and the files of those pictures.

    Navigation, scripts and pictures that are not there are left out.
    """

    SKIPPED = ("head", "script", "style", "nav")
    BREAKS = ("p", "div", "li", "h1", "h2", "h3", "h4", "tr", "dt", "dd", "br", "pre", "title")

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.parts: list[str] = []
        self.pictures: list[Path] = []
        self.hidden = self.verbatim = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """A tag opens: pictures become marks, blocks new lines."""
        known = dict(attributes)
        navigation = tag == "div" and (self.hidden or (known.get("class") or "").startswith("nav"))
        if tag in self.SKIPPED or navigation:
            self.hidden += 1
        elif tag == "img" and not self.hidden:
            source = known.get("src") or ""
            picture = self.folder / source
            if "://" not in source and picture.suffix.lower() in (".png", ".jpg", ".jpeg") and picture.is_file():
                self.parts.append("<image>")
                self.pictures.append(picture)
        self.verbatim += tag == "pre"
        if tag in self.BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """A tag closes."""
        if self.hidden and tag in (*self.SKIPPED, "div"):
            self.hidden -= 1
        self.verbatim -= tag == "pre"
        if tag in self.BREAKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        """Text between tags. A page that writes `<image>` itself is not ours to misread."""
        if not self.hidden:
            data = data if self.verbatim else data.replace("\n", " ")
            self.parts.append(data.replace("<image>", "< image>"))

    def text(self) -> str:
        """The page's text: spaces joined, one line for each block."""
        lines = [" ".join(line.split()) for line in "".join(self.parts).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


CORPORA: dict[str, Corpus] = {
    "tuxpaint-stamps": Corpus(
        "785 small pictures, each with a sentence that says what it is",
        "GPL-2",
        161,
        ("tuxpaint-stamps-default",),
        stamps,
    ),
    "gimp-help": Corpus(
        "about 520 pages of GIMP's manual with their screenshots in reading order",
        "GFDL-1.2-or-later",
        50,
        ("gimp-help-en", "gimp-help-common"),
        manual,
    ),
}

MODELS: dict[str, Model] = {
    nsfw.NAME: Model(
        "what the filter nsfw asks: a classifier of unsafe pictures",
        nsfw.LICENCE,
        nsfw.MEGABYTES,
        nsfw.get,
    ),
}

SHIPPED = {"emoji": "4,000 freely licensed emoji with their names; ships with vlmlab, nothing to fetch"}


def listing() -> str:
    """The corpora, a line each."""
    lines = [f"{name:18}{what}" for name, what in SHIPPED.items()]
    lines += [f"{name:18}{c.what} ({c.megabytes} MB, {c.licence}; through apt)" for name, c in CORPORA.items()]
    lines += [f"{name:18}{m.what} ({m.megabytes} MB, {m.licence}; through npm)" for name, m in MODELS.items()]
    return "\n".join(lines)


def default_cache() -> Path:
    """Where corpora are kept: `vlmlab/data` in $XDG_CACHE_HOME, which is ~/.cache where it is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmlab" / "data"


def get(name: str, cache: Path | None = None) -> str:
    """Fetch a corpus, unless it is there already. Returns what it is and how to train on it.

    Raises ValueError for an unknown name, a system without apt, and a download that fails.
    """
    if name in SHIPPED:
        return f"{name}: {SHIPPED[name]}. In a recipe: data.name={name}"
    folder = (cache or default_cache()).expanduser() / name
    if name in MODELS:
        return f"{MODELS[name].get(folder)}: {MODELS[name].what} ({MODELS[name].licence})."
    if name not in CORPORA:
        raise ValueError(f"no corpus {name!r}; known: {', '.join([*SHIPPED, *CORPORA, *MODELS])}")
    if not (folder / ORIGIN).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent) as scratch:
            root, made = Path(scratch) / "root", Path(scratch) / name
            versions = download(CORPORA[name].packages, root)
            write(name, root, made, versions)
            shutil.rmtree(folder, ignore_errors=True)
            made.replace(folder)
    held = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    counts = ", ".join(f"{count} {split}" for split, count in held["samples"].items())
    path = folder / "{split}.jsonl"
    return f"{folder}: {counts} samples ({held['licence']}).\nIn a recipe: data.name=jsonl data.path={path}"


def download(packages: tuple[str, ...], root: Path) -> dict[str, str]:
    """Download Debian packages and unpack them into `root`. Returns each file's name and hash."""
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise ValueError(
            f"this corpus comes through {missing[0]}, which is not on this system (Debian or Ubuntu has it)"
        )
    root.mkdir()
    found = {}
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        done = subprocess.run(
            ["apt-get", "download", *packages], cwd=scratch, capture_output=True, text=True, check=False
        )
        if done.returncode:
            told = next(
                (line for line in done.stderr.splitlines() if line.startswith("E:")), done.stderr.strip()[-200:]
            )
            raise ValueError(
                f"apt-get download {' '.join(packages)} failed ({told}); try apt-get update, see to the network"
            )
        for path in sorted(Path(scratch).glob("*.deb")):
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            subprocess.run(["dpkg-deb", "-x", str(path), str(root)], check=True, capture_output=True)
    return found


def write(name: str, root: Path, folder: Path, versions: dict[str, str]) -> None:
    """Write the samples of unpacked packages as lines and pictures, split by what they say.

    One in ten is for tests and one in twenty for validation; samples that say the same are never on two sides.
    """
    corpus = CORPORA[name]
    (folder / PICTURES).mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for key, sample, pictures in corpus.read(root):
        places = [_keep(picture, folder) for picture in pictures]
        lines[split_of(key)].append(json.dumps({**sample, "images": places}, ensure_ascii=False))
    for split, some in lines.items():
        (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in some), encoding="utf-8")
    origin = {
        "made by": f"vlmlab data get {name}",
        "licence": corpus.licence,
        "packages": versions,
        "samples": {split: len(some) for split, some in lines.items()},
    }
    (folder / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


def split_of(key: str) -> str:
    """The split of what is said: the same on every machine."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    return "test" if share < 0.1 else "validation" if share < 0.15 else "train"


def _keep(picture: Path, folder: Path) -> str:
    """Copy a picture under the hash of its bytes, once however often it is shown."""
    data = picture.read_bytes()
    place = f"{PICTURES}/{hashlib.sha256(data).hexdigest()[:20]}{picture.suffix.lower()}"
    if not (folder / place).exists():
        (folder / place).write_bytes(data)
    return place
