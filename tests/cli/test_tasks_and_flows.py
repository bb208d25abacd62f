"""The programs of docs/tasks-and-flows.md do what the page says."""

import re
import subprocess
import sys
from typing import Any

import pytest

from agentflow import flow
from tests.cli.conftest import PATIENCE, Shell, ended
from tests.cli.test_documentation import ROOT, program

PAGE = ROOT / "docs" / "tasks-and-flows.md"


def test_every_program_of_the_page_is_run_here() -> None:
    """Each Python block has a name, and a test below."""
    named = re.findall(r"^```python ?(.*)$", PAGE.read_text(), re.MULTILINE)
    assert named == [
        f"file={name}.py" for name in ("kinds", "pages", "retrying", "names", "where", "background")
    ]


@pytest.mark.parametrize(
    ("file", "target", "result"),
    [
        pytest.param("kinds", "kinds", [24, 24, 10, 36], id="kinds"),
        pytest.param("pages", "first_long_page", "page 1", id="left early"),
        pytest.param("pages", "all_pages", ["page 0", "page 1", "page 2", "page 0"], id="mapped"),
        pytest.param("pages", "stream", ["page 0", "page 1", "page 2"], id="generator flow"),
        pytest.param("retrying", "report", ["page 0", "page 1"], id="retries"),
        pytest.param(
            "where",
            "nightly",
            "orders for import of monday: attempt 1, {'table': 'orders', 'limit': 10}",
            id="what it knows of itself",
        ),
        pytest.param("names", "greetings", ["demo", "greeting", "loud"], id="names"),
    ],
)
def test_flows(shell: Shell, file: str, target: str, result: Any) -> None:
    """Run by the command line, each gives what its comments say."""
    done = shell("run", f"{program(shell, PAGE, f'{file}.py')}:{target}", "--json").json()
    assert done["result"] == result
    if file == "names":
        shown = shell.look("runs", "show", done["run_id"])
        assert "greetings for Ada" in shown.out
        assert "greet Ada 2x" in shown.out
        assert "recorded as a log line" in shell.look("runs", "logs", done["run_id"]).out
        assert len(shell.look("runs", "ls", "--tag", "demo", "--json").json()) == 1


def test_background(shell: Shell) -> None:
    """The program serves itself, and asks itself."""
    path = program(shell, PAGE, "background.py")
    server = subprocess.Popen(
        [sys.executable, str(path), "serve"],
        env=shell.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        asked = subprocess.run(
            [sys.executable, str(path), "cat.png"],
            env=shell.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    finally:
        server.terminate()
        done = ended(server)
    assert asked.stdout.splitlines()[1] == "cat.png at 200"
    assert done.code == 0, done.err


def test_arguments_that_cannot_be_stored(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    """Called from Python such a flow runs; its run shows what it was called with."""
    for name, value in shell.environment.items():
        if name.startswith("AGENTFLOW_"):
            monkeypatch.setenv(name, value)

    @flow
    def sized(items: list[Any]) -> int:
        return len(items)

    whole: list[Any] = [1]
    whole.append(whole)
    assert sized.with_options(validate_parameters=False)(whole) == 2
    (run,) = shell.look("runs", "ls", "--json").json()
    shown = shell.look("runs", "show", run["run_id"], "--json").json()
    assert shown["parameters"] == {"items": "<Cyclic>"}
