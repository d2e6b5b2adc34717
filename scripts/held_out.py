"""Two corpora that no stage of nano has seen, for docs/models/nano.toml: stamps by name, and lines of PDF files.

    apt-get download tuxpaint-stamps-default texlive-latex-base-doc    # Debian 12: 2022.06.04-1, 2022.20230122-3
    for file in *.deb; do dpkg-deb -x $file debian; done
    python scripts/held_out.py debian/usr/share/tuxpaint/stamps debian/usr/share/doc held-out

Writes held-out/{stamps,pdf-lines}/{train,test}: pictures with a metadata.csv, which the source `pairs` reads. The train
half is there to know the most frequent answer by. Stamps are drawings and cut-out photos (GPL-2; they are
read here, not shipped), on white; a caption's stamps are all in one half. A line is up to three words as they stand on
a page, on a white square; the halves share no file. The same bytes every time.
"""

import argparse
import csv
import hashlib
import io
import random
import re
from pathlib import Path

import pypdfium2
from PIL import Image

from vlmlab.writing import write_bytes, write_text

LINE, SIDE, SCALE = 3, 168, 2.0  # words; pixels; pixels a point, at which ten-point letters are twenty pixels high


def half(name: str) -> str:
    """The half that a caption, or a file, belongs to."""
    return ("train", "test")[hashlib.sha256(name.encode()).digest()[0] % 2]


def on_white(image: Image.Image) -> Image.Image:
    """A picture whose transparent parts are white."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def stamps(folder: Path, most: int) -> dict[str, list[tuple[Image.Image, str]]]:
    """Stamps with their English captions, by half."""
    found: dict[str, list[tuple[Image.Image, str]]] = {"train": [], "test": []}
    for path in sorted(folder.rglob("*.png")):
        told = path.with_suffix(".txt")
        title = told.read_text(encoding="utf-8").splitlines()[0].strip() if told.is_file() else ""
        if title and not path.stem.endswith("_mirror"):
            with Image.open(path) as image:
                small = on_white(image)
                small.thumbnail((448, 448))
            found[half(title)].append((small, title))
    return {name: random.Random(name).sample(some, min(most, len(some))) for name, some in found.items()}


def lines(folder: Path, most: int) -> dict[str, list[tuple[Image.Image, str]]]:
    """A line of each of some pages of each PDF file, by half."""
    found: dict[str, list[tuple[Image.Image, str]]] = {"train": [], "test": []}
    for path in sorted(folder.rglob("*.pdf")):
        generator = random.Random(path.name)
        document = pypdfium2.PdfDocument(path)
        for number in sorted(generator.sample(range(len(document)), min(4, len(document)))):
            line = _line(document[number], generator)
            if line is not None:
                found[half(path.name)].append(line)
        document.close()
    return {name: random.Random(name).sample(some, min(most, len(some))) for name, some in found.items()}


def _line(page: pypdfium2.PdfPage, generator: random.Random) -> tuple[Image.Image, str] | None:
    """A few words that stand beside each other on a page, as they look; None where there are none."""
    text = page.get_textpage()
    told = text.get_text_range()
    words = list(re.finditer(r"[A-Za-z][A-Za-z'-]*[.,;:]?(?=\s)", told))
    width, height = page.get_size()
    for _ in range(30 if words else 0):
        first = generator.randrange(len(words))
        some = words[first : first + generator.randint(1, LINE)]
        said = told[some[0].start() : some[-1].end()]
        boxes = [text.get_charbox(at) for at in range(some[0].start(), some[-1].end()) if not told[at].isspace()]
        left, bottom = (min(box[side] for box in boxes) for side in (0, 1))
        right, top = (max(box[side] for box in boxes) for side in (2, 3))
        crop = (left - 2, bottom - 3, width - right - 2, height - top - 3)
        one_line = "\n" not in said and "\r" not in said and 5 <= top - bottom <= 14 and right - left < 140
        if not (one_line and said.isascii() and 4 <= len(said) <= 24 and "  " not in said and min(crop) > 0):
            continue
        image = page.render(scale=SCALE, crop=crop).to_pil().convert("RGB")
        square = Image.new("RGB", (max(SIDE, image.width + 8),) * 2, "white")
        square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
        return square, said
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stamps", type=Path, help="the folder of Tux Paint's stamps")
    parser.add_argument("pdfs", type=Path, help="a folder of PDF files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, default=200, help="of each half")
    args = parser.parse_args()
    for name, made in (("stamps", stamps(args.stamps, args.most)), ("pdf-lines", lines(args.pdfs, args.most))):
        for part, pairs in made.items():
            table = io.StringIO()
            rows = csv.writer(table, lineterminator="\n")
            rows.writerow(["file_name", "text"])
            for number, (image, title) in enumerate(pairs):
                file = io.BytesIO()
                image.save(file, "PNG")
                write_bytes(args.out / name / part / f"{number:03d}.png", file.getvalue())
                rows.writerow([f"{number:03d}.png", title])
            write_text(args.out / name / part / "metadata.csv", table.getvalue())
            print(f"{args.out / name / part}: {len(pairs)} pictures")


if __name__ == "__main__":
    main()
