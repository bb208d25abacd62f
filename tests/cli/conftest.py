"""The program in processes of its own, in a home of its own; and a person at a terminal."""

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from agentflow.cli.main import main
from agentflow.errors import UsageError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.shells import AGENT_VARIABLES

FLOWS = Path(__file__).with_name("command_line_flows.py")
PATIENCE = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """Starts the program in a home of its own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])
    journal: Journal | None = None

    @property
    def world(self) -> list[str]:
        """What the flows have really executed."""
        path = Path(self.environment["WORLD"])
        return path.read_text().splitlines() if path.exists() else []

    def open_the_gate(self) -> None:
        """Let the steps that hold go on."""
        Path(self.environment["WORLD"] + ".open").touch()

    def start(self, *arguments: str | Path, **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command(arguments),
            cwd=self.folder,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str | Path, **variables: str) -> Ended:
        return ended(self.start(*arguments, **variables))

    def look(self, *arguments: str | Path) -> Ended:
        """The same in this process: quicker, for commands that start no flow and ask nobody."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "path", list(sys.path)),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main([str(argument) for argument in arguments])
            with contextlib.suppress(UsageError):
                self.journal = open_journal()
        return Ended(code, out.getvalue(), err.getvalue())

    def until_world(self, line: str, process: "subprocess.Popen[str]", times: int = 1) -> None:
        """Wait until flows have executed `line` so many times."""
        deadline = time.monotonic() + PATIENCE
        while self.world.count(line) < times:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            select.select([], [], [], 0.01)

    def insist(self, process: "subprocess.Popen[str]") -> None:
        """Tell it to end again and again, until it has."""
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None:
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGTERM)
            select.select([], [], [], 0.01)


def command(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "agentflow.cli.main", *map(str, arguments)]


def ended(process: "subprocess.Popen[str]") -> Ended:
    out, err = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, out, err)


def clean_environment(folder: Path) -> dict[str, str]:
    """Nothing of whoever runs the tests: no keys, no agent's shell, no settings."""
    dropped = (*AGENT_VARIABLES, "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "EDITOR", "VISUAL")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(("AGENTFLOW_", "GIT_", "PYTEST_"))
    }
    return environment | {
        "AGENTFLOW_HOME": str(folder / "home"),
        "WORLD": str(folder / "world"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "COLUMNS": "100",
    }


@pytest.fixture
def shell(tmp_path: Path) -> Generator[Shell]:
    made = Shell(tmp_path, clean_environment(tmp_path))
    yield made
    if made.journal is not None:
        made.journal.close()


@dataclass
class Terminal:
    """A pseudo-terminal with a person in front of it, who reads and types."""

    pid: int
    descriptor: int
    screen: str = ""
    _read: int = 0

    def expect(self, pattern: str) -> "re.Match[str]":
        """Wait until `pattern` appears after what was expected before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = re.compile(pattern).search(self.screen, self._read)
            if found is not None:
                self._read = found.end()
                return found
            assert time.monotonic() < deadline, self.screen
            assert self._more(), self.screen

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode() + b"\n")

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        while self._more():
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def _more(self) -> bool:
        if not select.select([self.descriptor], [], [], PATIENCE)[0]:
            return False
        try:
            data = os.read(self.descriptor, 65_536)
        except OSError:  # the other end is closed
            return False
        self.screen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
        return bool(data)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)


SitDown = Callable[..., Terminal]


@pytest.fixture
def sit_down(shell: Shell) -> Generator[SitDown]:
    """Starts a command on a terminal."""
    terminals: list[Terminal] = []

    def start(*arguments: str | Path, **variables: str) -> Terminal:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            command(arguments),
            cwd=shell.folder,
            env=shell.environment | {"TERM": "xterm-256color"} | variables,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        process.returncode = 0  # the terminal waits for it
        terminals.append(Terminal(process.pid, master))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()
