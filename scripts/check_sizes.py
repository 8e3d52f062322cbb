"""Checks that files stay under 500 lines and functions under 70."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
NOT_A_FUNCTION = re.compile(r"^\s*(namespace|class|struct|enum|union|extern)\b")


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """(name, first line, lines) of each function, docstring not counted."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            skipped = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield node.name, node.lineno, (node.end_lineno or 0) - node.lineno + 1 - skipped


def cpp_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """(opening line, first line, lines) of blocks that are not types or namespaces.

    Relies on clang-format: a body ends at a brace indented as its opening line.
    """
    lines = text.splitlines()
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if indent > 2 or not line.endswith("{") or NOT_A_FUNCTION.match(line):
            continue
        close = " " * indent + "}"
        for end in range(number + 1, len(lines)):
            if lines[end].startswith(close):
                yield line.strip(), number + 1, end - number + 1
                break


def main() -> int:
    tracked = subprocess.run(
        ["git", "ls-files"],  # noqa: S607 - whichever git is on the path
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    faults = []
    for name in tracked:
        path = ROOT / name
        if path.suffix not in {".py", ".h", ".cc", ".js"} or not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > FILE_LINES_MAX:
            faults.append(f"{name}: {lines} lines, limit {FILE_LINES_MAX}")
        functions = python_functions if path.suffix == ".py" else cpp_functions
        if path.suffix == ".js":
            continue
        for function, line, length in functions(text):
            if length > FUNCTION_LINES_MAX:
                faults.append(
                    f"{name}:{line}: {function} has {length} lines, limit {FUNCTION_LINES_MAX}"
                )
    sys.stdout.write("\n".join(faults) + "\n" if faults else "sizes hold\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
