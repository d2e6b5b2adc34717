"""`vlmlab verify`: real weights, the model card's own prompts, and a certificate of what came out.

What the tests cannot do without the released weights, their owner can: equal answers say that weights, tokenizer,
pictures and arithmetic are all as published.
"""

import datetime
import hashlib
import importlib.metadata
import itertools
import platform
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vlmlab.batch import Sample
from vlmlab.hub import files
from vlmlab.hub.load import load, locate
from vlmlab.model.vlm import VLM
from vlmlab.processor.decode import Fetch
from vlmlab.processor.processor import Processor

Generate = Callable[[VLM, Processor, Sample, int], str]
"""The greedy answer of a model to a sample, in at most so many tokens."""

NEW_TOKENS = 500
PACKAGES = ("vlmlab", "torch", "tokenizers", "safetensors", "pillow", "numpy")


def card() -> dict[str, Any]:
    """The model card's examples: addresses of its pictures, prompts of the base and the instructed model, answers."""
    return tomllib.loads(Path(__file__).with_name("card.toml").read_text(encoding="utf-8"))


def verify(
    folder: Path | str,
    generate: Generate,
    pictures: Path | str | None = None,
    fetch: Fetch | None = None,
    out: Path | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    examples: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the card's prompts on a checkpoint and compare with what the card prints; the certificate, as plain data.

    The pictures are files in the folder `pictures`, named as on the card, else fetched. A model that knows no
    `<end_of_utterance>` gets the base model's prompts, any other the instructed one's. `examples` replaces the card's.
    With `out`, the certificate is written there as JSON. Raises ValueError that names a picture that is missing.
    """
    given = card() if examples is None else examples
    place = locate(folder)
    seen = {name: _picture(name, url, pictures, fetch) for name, url in given["pictures"].items()}
    model, processor = load(place, device, dtype)
    end = processor.tokenizer.token_to_id(processor.config.end_of_utterance)
    kind = "base" if end is None or end >= processor.vocabulary else "instruct"
    results = []
    for example in given[kind]:
        started = time.monotonic()
        got = generate(model, processor, _sample(example, [seen[name] for name in example["pictures"]]), NEW_TOKENS)
        seconds = round(time.monotonic() - started, 3)
        results.append({**example, **compare(example["expected"], got), "seconds": seconds})
    certificate = {
        "verified": all(result["equal"] for result in results),
        "checkpoint": str(folder),
        "kind": kind,
        "results": results,
        "pictures": {name: _hash(data) for name, data in seen.items()},
        "files": {path.name: _hash_file(path) for path in sorted(place.iterdir()) if path.is_file()},
        "device": _device(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "platform": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if out is not None:
        files.write_json(Path(out), certificate)
    return certificate


def compare(expected: str, got: str) -> dict[str, Any]:
    """Whether two answers are equal but for space around them, and how many characters from the start are."""
    expected, got = expected.strip(), got.strip()
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(expected, got, strict=False))
    return {"got": got, "equal": got == expected, "equal_characters": sum(1 for _ in alike)}


def _sample(example: Mapping[str, Any], pictures: list[bytes]) -> Sample:
    if "text" in example:
        return Sample.from_text(example["text"], pictures)
    messages = []
    for at, turn in enumerate(example["turns"]):
        text = turn.removeprefix("<image>")
        image = [{"type": "image"}] if text != turn else []
        content = [*image, {"type": "text", "text": text}]
        messages.append({"role": "assistant" if at % 2 else "user", "content": content})
    return Sample.from_messages(messages, pictures)


def _picture(name: str, url: str, folder: Path | str | None, fetch: Fetch | None) -> bytes:
    if folder is not None:
        path = Path(folder) / name
        if path.is_file():
            return path.read_bytes()
        if fetch is None:
            raise ValueError(f"{folder} has no {name}: save the picture of {url} there, or allow fetching it")
    if fetch is None:
        raise ValueError(f"the card's pictures are needed: name a folder that holds {name} ({url}), or allow fetching")
    return fetch(url)


def _device(model: VLM) -> str:
    cuda = model.device.type == "cuda"
    return torch.cuda.get_device_name(model.device) if cuda else f"{model.device.type} ({platform.machine()})"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
