"""The command line: words become a command's arguments, and whatever goes wrong becomes one line."""

import contextlib
import difflib
import functools
import importlib.metadata
import inspect
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from vlmlab.asking_commands import ASKING
from vlmlab.commands import COMMANDS, Stopped
from vlmlab.data_commands import DATA
from vlmlab.eval_command import EVALUATING
from vlmlab.plan_command import plan
from vlmlab.quantize_command import quantize
from vlmlab.safety_commands import SAFETY
from vlmlab.serve_command import serve
from vlmlab.study_command import study

OVERVIEW = """usage: vlmlab [-h] [--version] [--traceback] {{{names}}} ...

An open workbench for vision-language models of the Idefics2 family: use, train, measure, decide.

{commands}

Examples:
  vlmlab demo
  vlmlab ask photo.jpg "What is this?"
  vlmlab train recipes/nano/demo.toml stage.steps=50

vlmlab COMMAND --help tells more. --traceback, anywhere, shows where an error arose.
"""

ALL: dict[str, Callable[..., None]] = {
    **ASKING,
    "serve": serve,
    **COMMANDS,
    "plan": plan,
    "quantize": quantize,
    **EVALUATING,
    **SAFETY,
    "study": study,
}
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
"""How many kernels oneDNN keeps, and torch beside it: one for each number of rows of each product. At the thousand that
is theirs by default a process grows by 470 MB on a CPU while pictures and texts come in all sizes; 256 are 110 MB, and
more than a step needs (`benchmarks/kept_kernels.py`). Variables of the environment, read when torch is first used: a
command does that later.
"""

OF_DATA = "Fetch and build corpora, say what they hold, filter them."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process by default). Returns the exit status; wrong input is one line and 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    told = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    for variable, most in KERNELS.items():
        os.environ.setdefault(variable, most)
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
            error,
            ValueError | FileExistsError | FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError,
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
    table = ALL
    if name == "data":
        if not rest or rest[0] in ("-h", "--help"):
            print(_overview_of_data())
            return 0 if rest else 2
        name, rest, table = rest[0], rest[1:], DATA
    if name not in table:
        known = list(table) if table is DATA else [*table, "data"]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(known)}"
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
            told = _description(function)
            return tyro.cli(keep, prog=program, description=told, args=_gathered(words), config=config)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise Stopped(0, "") from None
        told = _first_words(said.getvalue()) or "the arguments cannot be read"
        raise Stopped(2, f"{told}; see {program} --help") from None


def _gathered(words: list[str]) -> list[str]:
    """Words with all overrides of dotted keys, `data.split=test`, at the place of the first: options may part them."""
    dotted = [word for word in words if re.match(r"\w+(\.[\w-]+)+=", word)]
    if not dotted:
        return words
    first = words.index(dotted[0])
    return words[:first] + dotted + [word for word in words[first:] if word not in dotted]


def _first_words(box: str) -> str:
    """What stands in a box below its title, up to the first rule; without box-drawing letters a rule follows it."""
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", row) for row in box.splitlines()[1:]]
    bare = [" ".join(row.strip().strip("│|╭╮╰╯+").split()) for row in rows]
    bare = list(itertools.dropwhile(lambda row: not row.strip("─-"), bare))
    rule = next((at for at, row in enumerate(bare) if not row.strip("─-")), len(bare))
    return " ".join(row for row in bare[:rule] if row)


def _description(function: Callable[..., None]) -> str:
    return inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0].strip()


def _overview() -> str:
    told = {name: _first_sentence(function) for name, function in ALL.items()} | {"data": OF_DATA}
    width = max(map(len, told)) + 2
    lines = [f"  {name:{width}}{sentence}" for name, sentence in told.items()]
    return OVERVIEW.format(names=",".join(told), commands="\n".join(lines)).rstrip()


def _overview_of_data() -> str:
    width = max(map(len, DATA)) + 2
    listed = "\n".join(f"  {name:{width}}{_first_sentence(function)}" for name, function in DATA.items())
    return (
        f"usage: vlmlab data [-h] {{{','.join(DATA)}}} ...\n\n{OF_DATA}\n\n{listed}\n\n"
        "Examples:\n  vlmlab data get emoji\n  vlmlab data stats emoji"
    )


def _first_sentence(function: Callable[..., None]) -> str:
    line = (function.__doc__ or "").splitlines()[0]
    return re.split(r"(?<=\.) ", line)[0]


def _fail(told: str, status: int) -> int:
    if told:
        print(f"vlmlab: {told}" if status else told, file=sys.stderr)
    return status


def _said(error: Exception) -> str:
    if isinstance(error, FileExistsError) and error.filename:  # a folder is wanted where something else is
        return f"{error.filename}: it is there already, and is no folder"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
