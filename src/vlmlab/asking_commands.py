"""`vlmlab ask`, `chat` and `complete`: commands that let a model write. Whatever is heavy is imported inside them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from vlmlab.commands import Device, Number, Words, adapter_folder, best_device, model_folder, torch_dtype
from vlmlab.quantize_command import configured, speed_up

if TYPE_CHECKING:
    from vlmlab.generate.engine import Engine

WEB = ("http://", "https://", "data:")


@dataclasses.dataclass(frozen=True)
class Asking:
    """What every command that lets a model write has in common."""

    model: Annotated[str, arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: nano, the model in the box)")] = ""
    """Whom to ask: a model's folder, a run's, a name on the hub, or nano."""
    adapter: Annotated[str, arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: none)")] = ""
    """An adapter to let act in it, in PEFT's files: its folder, a run's, or a name on the hub. Alone, in its base."""
    max_new_tokens: int = 256
    """The most tokens an answer may have."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; 1 draws tokens as likely as the model finds them."""
    seed: int = 0
    """Of what is drawn."""
    split: bool = False
    """Read each picture in four parts and as a whole: slower, sees small print."""
    device: Device = ""
    """Where to compute."""
    dtype: Number = "auto"
    """The kind of numbers to compute with; auto is as stored."""
    quantize: Annotated[
        Literal["", "int8", "int4", "nf4"], arg(metavar="int8|int4|nf4", help_behavior_hint="(default: as stored)")
    ] = ""
    """Hold the decoder's weights in few bits; see vlmlab quantize for a folder of them, and for awq."""


Asked = Annotated[Asking, arg(name="", prefix_name=False)]


def ask(inputs: Annotated[Words, arg(metavar='IMAGE... "QUESTION"', help_behavior_hint="")], asking: Asked) -> None:
    """Ask a model about pictures. Pictures are paths or URLs; the question comes last.

    Examples:
      vlmlab ask photo.jpg "What is this?"
      vlmlab ask before.jpg after.jpg "What has changed?" --model HuggingFaceM4/idefics2-8b --split
      vlmlab ask photo.jpg "What is this?" --model HuggingFaceM4/idefics2-8b --adapter runs/finetune

    Args:
        inputs: Pictures, then the question.
    """
    if not inputs:
        raise ValueError('nothing to ask: write vlmlab ask photo.jpg "What is this?"')
    *pictures, question = inputs
    if question.startswith(WEB) or _is_file(question):
        raise ValueError(f'the question is missing, {question} is a picture: vlmlab ask {question} "What is this?"')
    _check_pictures(pictures)
    engine = _engine(asking)
    from vlmlab.batch import Sample

    parts = [{"type": "image", "path": place} for place in pictures] + [{"type": "text", "text": question}]
    _write(engine, Sample.from_messages([{"role": "user", "content": parts}]), asking)


def complete(
    text: Annotated[Positional[str], arg(metavar="TEXT")],
    images: Annotated[Words, arg(metavar="[IMAGE...]", help_behavior_hint="")],
    asking: Asked,
) -> None:
    """Go on writing a text, as base models do. Each <image> in it is the next of the pictures.

    Examples:
      vlmlab complete "<image>In this image," photo.jpg --model HuggingFaceM4/idefics2-8b-base
      vlmlab complete "Two drawings:<image><image> The first shows" a.png b.png

    Args:
        text: What to go on from.
        images: A picture (path or URL) for each <image>.
    """
    _check_pictures(images)
    from vlmlab.batch import Sample

    sample = Sample.from_text(text, list(images))
    _write(_engine(asking), sample, asking)


def chat(asking: Asked) -> None:
    """Talk with a model in the terminal. A picture's path or URL, anywhere in a message, shows it the picture.

    In the conversation: /help, /reset forgets it, /quit or Ctrl-D ends it; Ctrl-C stops an answer.

    Examples:
      vlmlab chat
      vlmlab chat --model HuggingFaceM4/idefics2-8b-chatty --temperature 0.7
    """
    engine = _engine(asking)
    from vlmlab import terminal

    terminal.converse(lambda sample: _stream(engine, sample, asking))


def _base_of(adapter: str) -> str:
    from vlmlab.hub import adapters
    from vlmlab.hub.load import locate

    return adapters.base_of(locate(adapter))


def _engine(asking: Asking) -> "Engine":
    """The model to ask; see docs/models/nano.md for the one that is asked when none is named."""
    adapter = adapter_folder(asking.adapter)
    name = asking.model or (_base_of(adapter) if adapter else "nano")
    if asking.max_new_tokens < 1 or not asking.temperature >= 0:
        raise ValueError("--max-new-tokens must be 1 or more, --temperature 0 or more")
    from vlmlab import media
    from vlmlab.generate.engine import Engine
    from vlmlab.hub.load import load

    where = asking.device or best_device()
    dtype = torch_dtype(asking.dtype)
    quantizer = configured(asking.quantize).build() if asking.quantize else None
    model, processor = load(
        model_folder(name), device=where, dtype=dtype, fetch=media.fetch, adapter=adapter, quantize=quantizer
    )
    speed_up(model)
    return Engine(model, processor)


def _stream(engine: "Engine", sample: Any, asking: Asking) -> Any:
    from vlmlab.generate.decoding import greedy
    from vlmlab.generate.decoding import sample as sampling
    from vlmlab.processor.processor import Options

    decoding = sampling.Config(temperature=asking.temperature) if asking.temperature else greedy.Config()
    options = Options(split=True) if asking.split else None
    return engine.stream(sample, asking.max_new_tokens, decoding, seed=asking.seed, options=options)


def _write(engine: "Engine", sample: Any, asking: Asking) -> None:
    """Print an answer as it comes."""
    first = True
    for piece in _stream(engine, sample, asking):
        print(piece.lstrip() if first else piece, end="", flush=True)
        first = first and not piece.strip()
    print()


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _check_pictures(places: Sequence[str]) -> None:
    """Raise ValueError for a picture that is not there, before a model is loaded for it."""
    for place in places:
        if not place.startswith(WEB) and not _is_file(place):
            raise ValueError(f"{place}: no such picture")


ASKING: dict[str, Callable[..., None]] = {"ask": ask, "chat": chat, "complete": complete}
