"""Public things say what they are, and tensors in signatures carry their axes."""

import ast
import os
import re
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from house import tree
from vlmlab.batch import Images

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SHAPED = {name for name in dir(jaxtyping) if hasattr(getattr(jaxtyping, name), "dtypes")}


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    """Public definitions of a module or class, and those of public classes inside."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            if not any(ast.unparse(d).endswith("overload") for d in node.decorator_list):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)
        elif isinstance(node, ast.If | ast.Try):
            yield from public(node.body)


def undocumented(module: ast.Module) -> list[tuple[ast.AST, str]]:
    found: list[tuple[ast.AST, str]] = [] if ast.get_docstring(module) or not module.body else [(module, "the module")]
    for node in public(module.body):
        if len((ast.get_docstring(node) or "").split()) < 2:
            found.append((node, node.name))
    return found


def annotations(module: ast.Module) -> Iterator[ast.expr]:
    """Annotations of parameters, results and class fields."""
    for node in ast.walk(module):
        if isinstance(node, ast.arg) and node.annotation:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns:
            yield node.returns
        elif isinstance(node, ast.ClassDef):
            yield from (field.annotation for field in node.body if isinstance(field, ast.AnnAssign))


def shaped(node: ast.AST) -> bool:
    """Whether this is `Float[Tensor, "..."]` or a sibling."""
    return isinstance(node, ast.Subscript) and ast.unparse(node.value).removeprefix("jaxtyping.") in SHAPED


def bare(annotation: ast.AST) -> Iterator[ast.AST]:
    """Where `Tensor` stands in an annotation without its axes."""
    if shaped(annotation) or ast.unparse(annotation).startswith("Callable["):
        return
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield from bare(ast.parse(annotation.value, mode="eval").body)
    elif ast.unparse(annotation) in ("Tensor", "torch.Tensor"):
        yield annotation
    else:
        for child in ast.iter_child_nodes(annotation):
            yield from bare(child)


def axes(module: ast.Module) -> Iterator[tuple[ast.Subscript, str]]:
    """The axis string of every shaped annotation, in signatures and elsewhere."""
    for node in ast.walk(module):
        if shaped(node):
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
            if len(parts) == 2 and isinstance(parts[1], ast.Constant):
                yield node, parts[1].value


def legend(docstring: str) -> set[str]:
    """The letters that a docstring explains: a letter, a space, and a word."""
    return set(re.findall(r"(?<![\w'])([a-z]) +[a-z]", docstring))


LETTERS = legend(ast.get_docstring(tree.parsed(tree.SOURCE / "batch.py")) or "")


def wrong_axes(module: ast.Module) -> list[tuple[ast.AST, str]]:
    known = LETTERS | legend(ast.get_docstring(module) or "")
    found: list[tuple[ast.AST, str]] = []
    for node, text in axes(module):
        if re.fullmatch(r"\w", text):
            found.append((node, f'"{text}": one axis needs a leading space'))
        for letter in re.findall(r"(?<!\w)[a-zA-Z](?!\w)", text):
            if letter not in known:
                found.append(
                    (node, f'"{text}": {letter} is neither in the legend of batch.py nor in the module docstring')
                )
    return found


def collect(check, folder: str = "") -> list[str]:
    return [f"{tree.place(p, node)} {told}" for p in tree.sources(folder) for node, told in check(tree.parsed(p))]


def bare_tensors(module: ast.Module) -> list[tuple[ast.AST, str]]:
    return [(a, ast.unparse(a)) for a in annotations(module) if list(bare(a))]


def future_annotations(module: ast.Module) -> list[tuple[ast.AST, str]]:
    return [
        (node, "from __future__ import annotations hides annotations from jaxtyping")
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]


def test_public_things_have_docstrings():
    tree.none_of(collect(undocumented))


def test_tensors_of_the_model_carry_their_axes():
    tree.none_of(collect(bare_tensors, "model"))


def test_axes_are_those_of_the_legend():
    assert set("btnplcvdhkw") <= LETTERS
    tree.none_of(collect(wrong_axes))


def test_annotations_are_real():
    tree.none_of(collect(future_annotations))


@pytest.mark.skipif("VLMLAB_NO_TYPECHECK" in os.environ, reason="the checks were turned off by hand")
def test_shapes_are_checked_while_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError):
        Images(torch.zeros(4), torch.tensor([[2, 2]]))


@pytest.mark.parametrize(
    ("check", "code", "count"),
    [
        (undocumented, "def shown(): pass", 2),
        (
            undocumented,
            '"""A module."""\nclass Shown:\n  """Has a word."""\n  def part(self): pass\n  def _own(self): pass',
            1,
        ),
        (bare_tensors, 'def f(x: Tensor, y: "torch.Tensor | None", z: Float[Tensor, " p"]) -> list[Tensor]: ...', 3),
        (bare_tensors, "class C:\n  field: Tensor", 1),
        (wrong_axes, 'def f(x: Float[Tensor, "p"], y: Float[Tensor, " p"], z: Int[Tensor, "b t"]): ...', 1),
        (wrong_axes, 'def f(x: Float[Tensor, "b y"]): ...', 1),
        (wrong_axes, '"""With y years."""\ndef f(x: Float[Tensor, "b *y 2 dim"]): ...', 0),
        (future_annotations, "from __future__ import annotations", 1),
    ],
)
def test_the_checks_find_what_they_name(check, code, count):
    assert len(check(ast.parse(code))) == count
