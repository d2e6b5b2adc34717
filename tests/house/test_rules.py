"""What the code of vlmlab never does, and what no file of the repository says."""

import ast
import io
import re
import tokenize
from collections.abc import Callable

import pytest

from house import tree

Found = list[tuple[ast.AST, str]]

# Each exception says why; one that no longer exists in the code fails the test too.
ALLOWED = {
    ("component.py", "getattr(module, 'Config', None)"): "a module without `Config` is no plug-in: the error says so",
    ("batch.py", "getattr(value, 'filename', '')"): "PIL sets it on opened files only",
    ("component.py", "module.PLUGIN(self, *args, **keywords)"): "a factory: it knows no plug-in's constructor",
}


def calls(module: ast.AST) -> list[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called."""
    return [(node, ast.unparse(node.func)) for node in ast.walk(module) if isinstance(node, ast.Call)]


def keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), "")


def default_getattr(module: ast.Module) -> Found:
    return [(call, ast.unparse(call)) for call, name in calls(module) if name == "getattr" and len(call.args) == 3]


def passed_through(module: ast.Module) -> Found:
    found: Found = []
    for function in tree.functions(module):
        if function.args.kwarg:
            own = function.args.kwarg.arg
            for call, _ in calls(function):
                if any(k.arg is None and ast.unparse(k.value) == own for k in call.keywords):
                    found.append((call, ast.unparse(call)))
    return found


def runs_data(module: ast.Module) -> Found:
    """Calls that can run code out of a string or a file."""
    unpickling = re.compile(r"(.*\.)?(c?pickle|cloudpickle|dill|joblib|marshal|shelve)\.(load|loads|open|Unpickler)")
    found: Found = []
    for call, name in calls(module):
        bad = name in ("eval", "exec", "compile", "__import__") or unpickling.fullmatch(name)
        bad = bad or (name == "torch.load" and keyword(call, "weights_only") != "True")
        bad = bad or (name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") not in ("", "False"))
        bad = bad or name in ("yaml.load", "yaml.unsafe_load", "os.system", "os.popen")
        if bad or keyword(call, "shell") == "True":
            found.append((call, ast.unparse(call)))
    imported = (
        n for n in ast.walk(module) if isinstance(n, ast.ImportFrom) and n.module in ("pickle", "marshal", "dill")
    )
    return found + [(node, ast.unparse(node)) for node in imported]


def environment(module: ast.Module) -> Found:
    named = (n for n in ast.walk(module) if isinstance(n, ast.Attribute | ast.ImportFrom | ast.Name))
    return [
        (node, ast.unparse(node))
        for node in named
        if re.search(r"\b(os\.environ\b|os\.getenv\b|from os import .*(environ|getenv))", ast.unparse(node))
    ]


def swallowed(module: ast.Module) -> Found:
    """Errors of any kind that are caught and forgotten."""
    found: Found = []
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            wide = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            silent = all(isinstance(s, ast.Pass | ast.Continue) or ast.unparse(s) == "..." for s in node.body)
            if node.type is None or (wide and silent):
                found.append((node, "an error of any kind is caught and forgotten"))
    for call, name in calls(module):
        if name.endswith("suppress") and {ast.unparse(a) for a in call.args} & {"Exception", "BaseException"}:
            found.append((call, ast.unparse(call)))
    return found


def name_tests(module: ast.Module) -> Found:
    """`config.name == "perceiver"`, `"llama" in model.name`: behaviour that hangs on a name."""
    found: Found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = any(isinstance(s, ast.Attribute) and s.attr == "name" for s in sides)
            texts = any(isinstance(c, ast.Constant) and isinstance(c.value, str) for s in sides for c in ast.walk(s))
            if named and texts:
                found.append((node, ast.unparse(node)))
    return found


RULES: list[tuple[Callable[[ast.Module], Found], str, str]] = [
    # the rule, the folder it holds in, and a line that breaks it
    (default_getattr, "", "getattr(config, 'width', 64)"),
    (passed_through, "", "def f(**kwargs): return g(1, **kwargs)"),
    (runs_data, "", "eval(text)"),
    (runs_data, "", "torch.load(path)"),
    (runs_data, "", "pickle.loads(data)"),
    (runs_data, "", "np.load(path, allow_pickle=True)"),
    (runs_data, "", "from pickle import loads"),
    (runs_data, "", "subprocess.run(line, shell=True)"),
    (environment, "model", "os.environ['DEVICE']"),
    (environment, "model", "from os import environ"),
    (swallowed, "", "try: f()\nexcept Exception: pass"),
    (swallowed, "", "try: f()\nexcept: g()"),
    (swallowed, "", "with contextlib.suppress(Exception): f()"),
    (name_tests, "model", "if config.name == 'perceiver': pass"),
    (name_tests, "processor", "if 'split' in strategy.name: pass"),
]


@pytest.mark.parametrize(("rule", "folder"), sorted({(r, f) for r, f, _ in RULES}, key=str))
def test_the_code_keeps(rule, folder):
    broken = []
    for path in tree.sources(folder):
        for node, told in rule(tree.parsed(path)):
            if (str(path.relative_to(tree.SOURCE)), told) not in ALLOWED:
                broken.append(f"{tree.place(path, node)} {told}")
    tree.none_of(broken)


def test_every_exception_is_still_needed():
    found = {
        (str(path.relative_to(tree.SOURCE)), told)
        for rule, folder, _ in RULES
        for path in tree.sources(folder)
        for _, told in rule(tree.parsed(path))
    }
    assert set(ALLOWED) - found == set()


@pytest.mark.parametrize(("rule", "code"), [(rule, code) for rule, _, code in RULES])
def test_a_broken_rule_is_found(rule, code):
    assert rule(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "getattr(module, name)",
        "def f(**values): return dict(values)",
        "def f(values): return g(**values)",
        "model.eval(); torch.compile(model); torch.load(path, weights_only=True)",
        "try: f()\nexcept OSError: pass",
        "if path.name in names: pass",
    ],
)
def test_good_code_is_left_alone(code):
    assert [told for rule in {r for r, _, _ in RULES} for _, told in rule(ast.parse(code))] == []


# What a line of any file must not hold. Written so that this file does not break its own rule.
UNFINISHED = re.compile(r"\b(?:T[O]DO|FIX[M]E|X[X]X)")
MACHINE = re.compile(r"(?<![\w.:}$*])/(?:work|root|home|Users|opt|tmp|mnt|farm)/\w")
REGISTRY = re.compile(
    r"(?:find-links|index-url)[ =]+['\"]?(?:https?:|file:|/)|pypi[.]org/simple|download[.]pytorch[.]org"
)
UNCODED = re.compile(r"#\s*(?:type: ignore(?!\[)|noqa(?!: ?[A-Z]))")


def test_no_file_is_unfinished_or_tied_to_one_machine():
    broken = [
        f"{tree.place(path, number)} {line.strip()[:120]}"
        for path, text in tree.texts()
        for number, line in enumerate(text.splitlines(), 1)
        if UNFINISHED.search(line) or MACHINE.search(line) or REGISTRY.search(line)
    ]
    tree.none_of(broken)


def uncoded(text: str) -> list[tuple[int, str]]:
    comments = (t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT)
    return [(token.start[0], token.string) for token in comments if UNCODED.search(token.string)]


def test_every_ignored_error_is_named():
    python = ((path, text) for path, text in tree.texts() if path.suffix == ".py")
    tree.none_of([f"{tree.place(path, n)} {told}" for path, text in python for n, told in uncoded(text)])


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (UNFINISHED, "# T" + "ODO: later", True),
        (UNFINISHED, "a list of todos", False),
        (MACHINE, "open('/" + "tmp/x')", True),
        (MACHINE, "https://example.org/home/page", False),
        (MACHINE, "photos/home/dog.jpg", False),
        (REGISTRY, "--index-url=" + "https://example.org", True),
        (UNCODED, "x = 1  # type: ign" + "ore", True),
        (UNCODED, "x = 1  # type: ignore[assignment]", False),
        (UNCODED, "x = 1  # no" + "qa", True),
        (UNCODED, "x = 1  # noqa: E501", False),
    ],
)
def test_the_patterns_find_what_they_name(pattern, text, found):
    assert bool(pattern.search(text)) == found
