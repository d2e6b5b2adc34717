"""`vlmlab verify`: the model cards' own examples on real weights, against the answers that the cards print.

The pictures are fetched from where the cards took them, or read from a folder that holds them under the same names.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vlmlab.batch import Picture, Sample
from vlmlab.generate.engine import Engine
from vlmlab.hub.load import load, locate
from vlmlab.writing import write_text

PLACE = "https://cdn.britannica.com/"
LIBERTY = PLACE + "61/93061-050-99147DCE/Statue-of-Liberty-Island-New-York-Bay.jpg"
CHICAGO = PLACE + "59/94459-050-DBA42467/Skyline-Chicago.jpg"
BRIDGE = PLACE + "68/170868-050-8DDE8263/Golden-Gate-Bridge-San-Francisco.jpg"

NEW_YORK = "In this image, we can see the city of New York, and more specifically the Statue of Liberty."


@dataclasses.dataclass(frozen=True)
class Case:
    """An example of a model card. `text` is a plain document; without it, `questions` and `answers` are a chat.

    `card` is the answer that the card prints, whole or its beginning; `limit` is how many tokens are written here.
    """

    name: str
    pictures: tuple[str, ...]
    card: str
    limit: int
    text: str = ""
    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def sample(self, pictures: Sequence[Picture]) -> Sample:
        """The example with its pictures: one before each question, or at the marks of the text."""
        if self.text:
            return Sample.from_text(self.text, pictures)
        messages = []
        for number, question in enumerate(self.questions):
            parts = [{"type": "image"}, {"type": "text", "text": question}]
            messages.append({"role": "user", "content": parts})
            if number < len(self.answers):
                messages.append({"role": "assistant", "content": self.answers[number]})
        return Sample.from_messages(messages, pictures)


BASE = (
    Case(
        "idefics2-8b-base, first example",
        (LIBERTY, CHICAGO),
        "we can see the city of Chicago, and more specifically the skyscrapers of the city.",
        48,
        text=f"<image>{NEW_YORK}<image>In this image,",
    ),
    Case(
        "idefics2-8b-base, second example",
        (BRIDGE,),
        "The Golden Gate Bridge is a suspension bridge spanning the Golden Gate, the one-mile-wide (1.6 km) strait "
        "connecting San Francisco Bay and the Pacific Ocean. The structure links the American city of San Francisco, "
        "California — the northern tip of the San Francisco Peninsula — to Marin County, carrying both U.S. Route 101 "
        "and California State Route 1 across the strait.",
        100,
        text="In which city is that bridge located?<image>",
    ),
)

INSTRUCT = (
    Case(
        "idefics2-8b, the conversation",
        (LIBERTY, CHICAGO),
        "In this image we can see buildings, trees, lights, water and sky.",
        48,
        questions=("What do we see in this image?", "And how about this image?"),
        answers=(NEW_YORK,),
    ),
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a case: `same` counts the characters on which both agree, from the first."""

    case: Case
    written: str
    same: int
    hashes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether the shorter of the two texts is the beginning of the longer, and something was written."""
        shorter = min(len(self.written.strip()), len(self.case.card.strip()))
        return shorter > 0 and self.same >= shorter


def verify(
    folder: str,
    out: Path,
    fetch: Callable[[str], bytes] | None = None,
    pictures: Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    cases: Sequence[Case] | None = None,
) -> bool:
    """Run the examples that fit the weights in `folder` and write a certificate. Returns whether all agree.

    Weights that know `<end_of_utterance>` are asked as a chat, others as a base model. Raises ValueError when a picture
    cannot be had.
    """
    model, processor = load(folder, device=device, dtype=dtype)
    chats = processor.tokenizer.token_to_id(processor.config.end_of_utterance) in processor.ends
    engine = Engine(model, processor)
    outcomes = []
    for case in (INSTRUCT if chats else BASE) if cases is None else cases:
        encoded = [_bytes(place, fetch, pictures) for place in case.pictures]
        sample = case.sample([Picture(data, _name(place)) for data, place in zip(encoded, case.pictures, strict=True)])
        written = engine.generate([sample], max_new_tokens=case.limit)[0]
        hashes = tuple(hashlib.sha256(data).hexdigest() for data in encoded)
        outcomes.append(Outcome(case, written, _same(written.strip(), case.card.strip()), hashes))
    agrees = all(outcome.agrees for outcome in outcomes)
    certificate = {
        "agrees": agrees,
        "made_by": {
            "vlmlab": importlib.metadata.version("vlmlab"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name() if model.device.type == "cuda" else platform.processor() or "cpu",
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "weights": {"from": folder, "files": {p.name: p.stat().st_size for p in sorted(locate(folder).glob("*.*"))}},
        "cases": [_plain(outcome) for outcome in outcomes],
    }
    write_text(out, json.dumps(certificate, indent=1, ensure_ascii=False) + "\n")
    return agrees


def _plain(outcome: Outcome) -> dict[str, object]:
    case = outcome.case
    return {
        "name": case.name,
        "agrees": outcome.agrees,
        "asked": case.text or list(case.questions),
        "card": case.card,
        "written": outcome.written,
        "same_characters": outcome.same,
        "pictures": dict(zip(case.pictures, outcome.hashes, strict=True)),
    }


def _same(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _name(place: str) -> str:
    return place.rpartition("/")[2]


def _bytes(place: str, fetch: Callable[[str], bytes] | None, pictures: Path | None) -> bytes:
    if pictures is not None:
        path = pictures / _name(place)
        if not path.is_file():
            raise ValueError(f"{pictures} lacks {path.name}, a picture of the model card's example ({place})")
        return path.read_bytes()
    if fetch is None:
        raise ValueError(f"{place} is not fetched here; give a folder that holds {_name(place)}")
    return fetch(place)
