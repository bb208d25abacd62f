"""Wrong use: one line, exit code 2, no traceback - whatever was wrong."""

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import apsw
import pytest

from tests.cli.conftest import FLOWS, Shell
from tests.cli.test_run import one_line

#: What is typed, and what the line must say.
WRONG = {
    "no file": (["run", "nowhere.py"], "no such file: nowhere.py"),
    "no module": (["run", "nowhere:flow"], "no such file or module: nowhere"),
    "no flow": (["run", f"{FLOWS}:nothing"], "has no flow 'nothing'; it has: broken, careful"),
    "several flows": (["run", FLOWS], "has several flows; say which:"),
    "file without a flow": (["run", "empty.py"], "defines no flow"),
    "syntax error": (["run", "syntax.py"], "cannot import syntax.py: '(' was never closed (line 1)"),
    "import error": (["run", "imports.py"], "No module named 'there_is_no_such_module'"),
    "error while importing": (["run", "fails.py"], "ZeroDivisionError: division by zero"),
    "wrong type": (
        ["run", f"{FLOWS}:payment", "-p", "amount=much"],
        "amount: Input should be a valid integer",
    ),
    "wrong part": (
        ["run", f"{FLOWS}:doubled", "--params", '{"numbers": [1, "x"]}'],
        "numbers.1: Input should be",
    ),
    "unknown parameter": (
        ["run", f"{FLOWS}:payment", "-p", "sum=3"],
        "has no parameter 'sum'; it has: amount, to",
    ),
    "missing parameter": (["run", f"{FLOWS}:doubled"], "needs the parameter 'numbers'"),
    "no value": (["run", f"{FLOWS}:payment", "-p", "amount"], "-p wants name=value, not 'amount'"),
    "twice": (["run", f"{FLOWS}:payment", "-p", "to=a", "-p", "to=b"], "-p to is given 2 times"),
    "bad JSON": (["run", f"{FLOWS}:payment", "--params", "{amount"], "--params is not JSON"),
    "JSON of another kind": (["run", f"{FLOWS}:payment", "--params", "[3]"], "--params wants a JSON object"),
    "unknown option": (["run", f"{FLOWS}:payment", "--fast"], "Unknown option: --fast"),
    "unknown command": (["walk"], 'Unknown command "walk"'),
    "missing argument": (["run"], "requires an argument"),
    "unknown run": (["runs", "resume", "0123abcd"], "no run '0123abcd'"),
    "run by too little": (["runs", "show", "abc"], "no run 'abc'"),
    "unknown question": (
        ["approvals", "approve", "approval-0123"],
        "nothing waits under the id 'approval-0123'",
    ),
    "bad state": (["runs", "ls", "--state", "tired"], "no state 'tired'"),
    "bad number": (["runs", "ls", "--limit", "many"], "Invalid value for --limit"),
    "a list of none": (["runs", "ls", "--limit", "0"], "--limit wants a number from 1 on, not 0"),
    "less than none": (["deployments", "ls", "--limit", "-1"], "--limit wants a number from 1 on, not -1"),
    "no port": (["serve", FLOWS, "--port", "99999"], "there is no port 99999"),
    "bad payload": (["events", "send", "0123", "word", "--payload", "{"], "--payload is not JSON"),
    "no repository": (["demo", "--repo", "home"], "home is not in a git repository with commits"),
    "exposed server": (["serve", "--host", "::", "--port", "0"], "give --token SECRET as well"),
    "nothing to serve": (["mcp"], "name at least one file with flows"),
    "unknown client": (["mcp", "install", "telegram", FLOWS], "unknown client 'telegram'"),
}


#: Those that are tried in a process of their own; the others go through the same `main` in this one.
REAL = (
    "no file",
    "syntax error",
    "wrong type",
    "bad JSON",
    "unknown option",
    "missing argument",
    "unknown run",
)


@pytest.fixture
def wrong(shell: Shell) -> Shell:
    """A folder with files that are no flows."""
    (shell.folder / "home").mkdir()
    (shell.folder / "empty.py").write_text("x = 1\n")
    (shell.folder / "syntax.py").write_text("f(\n")
    (shell.folder / "imports.py").write_text("import there_is_no_such_module\n")
    (shell.folder / "fails.py").write_text("x = 1 / 0\n")
    return shell


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_line(wrong: Shell, name: str) -> None:
    """A command that cannot be understood ends with 2 after one line that says what is wrong."""
    typed, line = WRONG[name]
    done = wrong(*typed) if name in REAL else wrong.look(*typed)
    assert done.code == 2, done
    assert line in one_line(done)


def test_finished_run_is_not_resumed(shell: Shell) -> None:
    """Resuming, cancelling or deciding about what has ended is refused in one line."""
    run = shell("run", f"{FLOWS}:doubled", "-p", "numbers=[]", "--json").json()["run_id"]
    for verb in ("resume", "cancel"):
        done = shell("runs", verb, run)
        assert done.code == 2
        assert "has already ended (COMPLETED)" in one_line(done)


def test_home_that_is_a_file(shell: Shell) -> None:
    """A home folder that cannot be one is named, and so is the way out; `doctor` finds it, too."""
    (shell.folder / "home").write_text("")
    done = shell.look("runs", "ls")
    assert done.code == 2
    assert "cannot make the folder" in one_line(done)
    assert "AGENTFLOW_HOME" in done.err
    looked = shell.look("doctor", "--json")
    assert looked.code == 1
    assert {"home", "journal"} == {check["name"] for check in looked.json() if check["status"] == "failed"}


def test_read_only_home(shell: Shell, read_only: Path) -> None:
    """A home on a read-only file system is refused in one line."""
    done = shell("run", f"{FLOWS}:broken", AGENTFLOW_HOME=str(read_only))
    assert done.code == 2
    assert "Read-only file system" in one_line(done)


@pytest.fixture
def read_only(tmp_path: Path) -> Generator[Path]:
    """A file system that nobody, root included, can write to."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    mounted = (
        subprocess.run(["mount", *options], check=False, capture_output=True) if os.geteuid() == 0 else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip("only root can mount a read-only file system, and not everywhere")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_database_of_a_newer_version(shell: Shell) -> None:
    """A journal that a newer version wrote is left alone."""
    assert shell("runs", "ls").code == 0
    journal = apsw.Connection(str(shell.folder / "home" / "agentflow.db"))
    journal.execute("PRAGMA user_version=999")
    journal.execute("INSERT INTO migration SELECT 999, name, checksum FROM migration LIMIT 1")
    journal.close()
    done = shell("runs", "ls")
    assert done.code == 2
    assert "newer version of agentflow" in one_line(done)


def test_settings_of_the_wrong_type(shell: Shell) -> None:
    """A variable with a value of the wrong type is named."""
    done = shell("run", f"{FLOWS}:broken", AGENTFLOW_MAP_CONCURRENCY="lots")
    assert done.code == 2
    assert "AGENTFLOW_MAP_CONCURRENCY='lots'" in one_line(done)
