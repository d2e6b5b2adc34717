"""`vlmlab chat`: a conversation in the terminal."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from vlmlab.batch import Message, Picture, Sample

HELP = """Write a message and press Enter. A picture's path or URL in it shows the model that picture.
/reset forgets the conversation, /help shows this, /quit (or Ctrl-D) ends it; Ctrl-C stops an answer."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def converse(answer: Callable[[Sample], Iterator[str]], console: Console | None = None) -> None:
    """Talk until the user ends it. `answer` streams what the model says to a conversation.

    Pictures that cannot be opened, and conversations that have grown too long, are told and forgotten.
    """
    console = console or Console(highlight=False)
    console.print(f"[dim]{HELP}[/]")
    turns: list[Message] = []
    while True:
        try:
            line = console.input("[bold]you[/] > ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not line:
            continue
        if line.startswith("/") and not Path(line.split()[0]).exists():
            if line in ("/quit", "/exit"):
                return
            if line == "/reset":
                turns = []
                console.print("[dim]forgotten[/]")
            else:
                console.print(f"[dim]{HELP}[/]")
            continue
        asked = [*turns, message(line)]
        try:
            said = _say(answer(Sample(tuple(asked))), console)
        except ValueError as error:
            console.print(f"{error}", style="red", markup=False)
            continue
        turns = [*asked, Message("assistant", (said,))]


def message(line: str) -> Message:
    """A line as the user's turn: paths of pictures that exist, and URLs, become pictures, in place."""
    parts: list[str | Picture] = []
    words: list[str] = []
    for quoted, bare in re.findall(r"""["']([^"']+)["']|(\S+)""", line):
        word = quoted or bare
        if is_picture(word):
            if words:
                parts.append(" ".join(words))
                words = []
            parts.append(Picture.of(word))
        else:
            words.append(f'"{quoted}"' if quoted else bare)
    if words:
        parts.append(" ".join(words))
    return Message("user", tuple(parts))


def is_picture(word: str) -> bool:
    """Whether a word names a picture: an http(s) URL, or a file that exists under a picture's usual suffix."""
    if word.startswith(("http://", "https://")):
        return True
    return word.lower().endswith(SUFFIXES) and Path(word).expanduser().is_file()


def _say(pieces: Iterator[str], console: Console) -> str:
    """Print an answer as it comes; Ctrl-C ends it there. Returns what was said."""
    console.print("[bold]model[/] > ", end="")
    said = ""
    try:
        for piece in pieces:
            shown = piece if said else piece.lstrip()
            said += shown
            console.out(shown, end="", highlight=False)
    except KeyboardInterrupt:
        console.print(" [dim](stopped)[/]", end="")
    console.print()
    return said
