"""Sizes we watch and do not fail on: `make house`.

When one of them grows, ask what the thing is really two of; never split it to please the number.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "vlmlab"


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> list[tuple[int, str]]:
    """Length and place of every function of a file, its docstring included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            found.append((length, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"))
    return found


def main() -> None:
    source, tests = sorted(SOURCE.rglob("*.py")), sorted((ROOT / "tests").rglob("*.py"))
    model = {path: lines(path) for path in source if path.is_relative_to(SOURCE / "model")}
    print(f"the core, src/vlmlab/model: {sum(model.values()):,} lines (aim: 1,100 or less, one sitting)")
    for path, length in sorted(model.items(), key=lambda item: -item[1])[:8]:
        print(f"  {length:5d}  {path.relative_to(SOURCE / 'model')}")

    written, tested = sum(map(lines, source)), sum(map(lines, tests))
    print(f"source {written:,} lines, tests {tested:,}: {tested / max(written, 1):.2f} (aim: 0.6 or more)")

    watched = [*source, *tests, *sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
    long_files = sorted(((lines(path), str(path.relative_to(ROOT))) for path in watched), reverse=True)
    long_functions = sorted((found for path in watched for found in functions(path)), reverse=True)
    for title, found, limit in (("files", long_files, 400), ("functions", long_functions, 60)):
        over = [(length, place) for length, place in found if length > limit]
        print(f"{title} over {limit} lines: {len(over) or 'none'}; the longest is {found[0][0]}, {found[0][1]}")
        for length, place in over:
            print(f"  {length:5d}  {place}")


if __name__ == "__main__":
    main()
