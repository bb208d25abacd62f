"""What every test keeps to: it says what it shows, and it never sleeps."""

import ast
from collections.abc import Iterator
from pathlib import Path

SLEEPERS = {"sleep", "sleep_forever", "wait_for_timeout"}
CLOCKS = {"anyio", "asyncio", "page", "time", "trio"}


def test_every_test_opens_with_a_sentence(root: Path) -> None:
    """Every test function has a docstring: one sentence of behaviour."""
    silent = [
        f"{path.relative_to(root)}:{node.lineno} {node.name}"
        for path, tree in modules_of_tests(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]
    assert silent == []


def test_no_test_sleeps(root: Path) -> None:
    """Tests wait for what they wait for, or turn a virtual clock; `sleep(0)`, which only gives way, is no sleep."""
    sleeping = [
        f"{path.relative_to(root)}:{line}" for path, tree in modules_of_tests(root) for line in sleeps(tree)
    ]
    assert sleeping == []


def modules_of_tests(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((root / "tests").rglob("*.py")):
        yield path, ast.parse(path.read_text())


def sleeps(tree: ast.Module) -> Iterator[int]:
    """The lines that call the sleep of a real clock, by whatever name it was imported."""
    own_names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in CLOCKS
        for alias in node.names
        if alias.name in SLEEPERS
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
                called = owner in CLOCKS and name in SLEEPERS
            case ast.Call(func=ast.Name(id=name)):
                called = name in own_names
            case _:
                continue
        if called and not gives_way(node):
            yield node.lineno


def gives_way(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
