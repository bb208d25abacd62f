"""How long a module and a function may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

LONGEST_MODULE = 500
LONGEST_FUNCTION = 60


def test_modules_are_short(root: Path) -> None:
    """No module of the library is longer than 500 lines."""
    lengths = {
        str(path.relative_to(root)): len(path.read_text().splitlines())
        for path in modules(root / "agentflow")
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_functions_are_short(root: Path) -> None:
    """No function of the library is longer than 60 lines, its docstring not counted."""
    too_long = {
        f"{path.relative_to(root)}:{function.lineno} {function.name}": length
        for path in modules(root / "agentflow")
        for function in functions(ast.parse(path.read_text()))
        if (length := lines_without_docstring(function)) > LONGEST_FUNCTION
    }
    assert too_long == {}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    start = function.lineno
    if ast.get_docstring(function, clean=False) is not None:
        start += (first.end_lineno or first.lineno) - first.lineno + 1
    return (function.end_lineno or start) - start + 1
