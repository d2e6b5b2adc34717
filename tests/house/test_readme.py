"""What the pages say can be done: their commands parse, their links lead somewhere, their Python names exist."""

import ast
import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from house import tree

PAGES = sorted(
    {*tree.ROOT.glob("*.md"), *(tree.ROOT / "docs").rglob("*.md"), *(tree.ROOT / "benchmarks").rglob("*.md")}
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}[^\n]*\n)+")
EXAMPLE = "src/vlmlab/model/connectors/strips.py"
"""What CONTRIBUTING shows how to write."""
SHELLS = {"", "sh", "bash", "console", "shell", "text"}


def blocks(page: str, languages: set[str]) -> list[str]:
    found = [body for language, body in FENCE.findall(page) if language in languages]
    return found + (INDENTED.findall(prose(page)) if "" in languages else [])


def lines(block: str) -> Iterator[str]:
    """Commands of a block: prompts taken away, lines that end in a backslash joined."""
    for line in block.replace("\\\n", " ").splitlines():
        yield line.strip().removeprefix("$ ").strip()


def commands(page: str) -> list[list[str]]:
    """The `vlmlab ...` commands of a page, as words; comments and what follows a pipe are left out."""
    found = []
    for block in blocks(page, SHELLS):
        for line in lines(block):
            if line.startswith(("vlmlab ", ".venv/bin/vlmlab ")):
                words = shlex.split(line, comments=True)[1:]
                end = min((words.index(w) for w in ("|", ">", "&&", ";") if w in words), default=len(words))
                found.append(words[:end])
    return found


@functools.cache
def told(command: str) -> str:
    """What `vlmlab COMMAND --help` prints; empty where the answer is not about that command."""
    run = [sys.executable, "-m", "vlmlab.cli", *command.split(), "--help"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tree.ROOT)
    known = re.match(rf"usage: \S+ {re.escape(command)}(?!\S)", done.stdout)
    return done.stdout if done.returncode == 0 and known else ""


def wrong(words: list[str]) -> str:
    """What is wrong with a command: an unknown subcommand or flag; empty when all is well."""
    bare = [w for w in words if not w.startswith("-")]
    command = bare[0] if bare else ""
    if not told(command):
        return f"vlmlab has no command {command!r}"
    nested = " ".join(bare[:2])
    shown = told(command) + (told(nested) if len(bare) > 1 and re.fullmatch(r"[a-z-]+", bare[1]) else "")
    flags = [w.split("=")[0] for w in words if re.match(r"--?[A-Za-z]", w)]
    missing = [f for f in flags if not re.search(rf"(?<![\w-]){re.escape(f)}(?![\w-])", shown)]
    return f"vlmlab {command} has no {', '.join(missing)}" if missing else ""


def scripts(page: str) -> list[list[str]]:
    """What a page gives to Python, in commands and within its sentences: a script and its flags, or -m and a module."""
    shown = re.findall(r"\bpython ((?:-m )?[\w./]+)([^`\n#|]*)", page)
    return [[*what.split(), *re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)] for what, rest in shown]


def wrong_script(words: list[str]) -> str:
    """What is wrong with such a command: a script or module that is not there, or a flag that it does not know."""
    if words[0] == "-m":
        first, *rest = words[1].split(".")
        ours = [tree.ROOT / above / first for above in ("tests", "src") if (tree.ROOT / above / first).is_dir()]
        found = not ours or any(place.joinpath(*rest).with_suffix(".py").is_file() for place in ours)
        return "" if found else f"there is no module {words[1]}"
    path = tree.ROOT / words[0]
    if not path.is_file():
        return f"there is no {words[0]}"
    source = "".join(file.read_text(encoding="utf-8") for file in (path, tree.ROOT / "benchmarks" / "_bench.py"))
    known = {flag for flag in words[1:] if re.search(rf'"{flag}"|\b{flag[2:].replace("-", "_")}: ', source)}
    missing = [flag for flag in words[1:] if flag not in known]
    return f"{words[0]} has no {', '.join(missing)}" if missing else ""


def absent(page: str) -> list[str]:
    """Files of this repository that a page's sentences name and that are not there."""
    named = re.findall(r"`((?:src|scripts|benchmarks|recipes|studies|tests|docs)/[\w./-]+\.\w+)`", prose(page))
    return sorted(name for name in set(named) - {EXAMPLE} if not (tree.ROOT / name).exists())


def prose(page: str) -> str:
    return FENCE.sub("", page)


def links(page: str) -> list[str]:
    """Targets of links and pictures that are not on the web."""
    told = re.sub(r"`[^`]*`", "", prose(page))  # what is quoted as code links nowhere
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)", told) + re.findall(r"(?:src|href)=\"([^\"]+)\"", told)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: str) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(path: Path, link: str) -> bool:
    file, _, anchor = link.partition("#")
    target = path.parent / file if file else path
    if not target.exists() or not target.resolve().is_relative_to(tree.ROOT):
        return True
    return bool(anchor) and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8"))


def test_there_is_a_front_page():
    front = (tree.ROOT / "README.md").read_text(encoding="utf-8")
    assert {words[0] for words in commands(front)} >= {"ask", "chat", "train", "look"}
    assert "make demo" in front and "make test" in front


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(tree.ROOT)))
def test_a_page_keeps_its_word(path):
    page = path.read_text(encoding="utf-8")
    tree.none_of([f"{path.name}: {shlex.join(words)}: {wrong(words)}" for words in commands(page) if wrong(words)])
    tree.none_of([f"{path.name} links to {link}" for link in links(page) if broken(path, link)])
    tree.none_of([f"{path.name}: {wrong_script(words)}" for words in scripts(page) if wrong_script(words)])
    tree.none_of([f"{path.name} names {name}, which is not there" for name in absent(page)])
    targets = set(re.findall(r"^([a-z][a-z-]*):", (tree.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = {w for block in blocks(page, SHELLS) for line in lines(block) for w in re.findall(r"^make ([a-z-]+)", line)}
    tree.none_of([f"{path.name}: make {target}: no such target" for target in asked - targets])
    for block in blocks(page, {"python"}):
        ast.parse(block)


def test_python_examples_use_names_that_exist():
    import vlmlab

    for path in PAGES:
        for block in blocks(path.read_text(encoding="utf-8"), {"python"}):
            for name in re.findall(r"\bvlmlab\.([A-Za-z_]\w*)(?=\()", block):
                assert hasattr(vlmlab, name), f"{path.name}: vlmlab.{name}"


def test_what_is_wrong_is_found(tmp_path):
    page = "# A page\n```sh\n$ vlmlab train x.toml \\\n  --nonsense  # why\nmake demo\n```\n[a](gone.md) [b](#a-page) [c](https://x.org)\n"
    assert commands(page) == [["train", "x.toml", "--nonsense"]]
    assert "nonsense" in wrong(commands(page)[0])
    assert "no command" in wrong(["trian", "x.toml"])
    assert links(page) == ["gone.md", "#a-page"]
    (tmp_path / "page.md").write_text(page, encoding="utf-8")
    assert broken(tmp_path / "page.md", "gone.md")
    assert "a-page" in anchors(page)
    assert commands("Text:\n\n    vlmlab ask x\n\nMore.\n") == [["ask", "x"]]
    assert absent("See `src/gone.py` and `src/vlmlab/cli.py`.") == ["src/gone.py"]
    shown = "Say `python benchmarks/quantize.py --peer --pear`, `python scripts/gone.py`, `python -m house.gone`."
    assert [wrong_script(words) for words in scripts(shown)] == [
        "benchmarks/quantize.py has no --pear",
        "there is no scripts/gone.py",
        "there is no module house.gone",
    ]
