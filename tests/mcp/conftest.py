"""Servers of every kind, and people who answer their questions."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StdioTransport
from mcp_types import ElicitRequestFormParams, ElicitResult

from agentflow.flows import default_options
from agentflow.journal.protocol import Journal
from agentflow.journal.sqlite import SqliteJournal
from agentflow.mcp.calls import Patience
from agentflow.mcp.server import build_server
from agentflow.model.waits import Wait
from agentflow.payloads.keys import load_key
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker
from tests.mcp.sample_flows import FLOWS, GATE

ROOT = Path(__file__).parents[2]
ERAS = ["auto", "legacy"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and a world in which things happen."""
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFLOW_DATABASE_URL", raising=False)
    monkeypatch.setenv("WORLD", str(tmp_path / "world"))
    return tmp_path


@pytest.fixture
def world(home: Path) -> Callable[[], list[str]]:
    """What has happened outside."""

    def happened() -> list[str]:
        path = home / "world"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    return happened


@pytest.fixture
def journal(home: Path) -> Generator[Journal]:
    made = SqliteJournal(home / "agentflow.db", load_key(home))
    yield made
    made.close()


@pytest.fixture
def worker(journal: Journal) -> Generator[InlineWorker]:
    GATE.clear()
    settings = replace(Settings.from_environment(), poll_interval=0.02)
    with InlineWorker(journal, FLOWS, options=replace(default_options(60), settings=settings)) as made:
        yield made
        GATE.set()


@pytest.fixture
def patience() -> Patience:
    """Long enough for slow machines; tests of impatience bring their own."""
    return Patience(run=20, question=20)


@pytest.fixture
def server(worker: InlineWorker, patience: Patience) -> FastMCP[Any]:
    return build_server(worker, base_url="http://127.0.0.1:4300", patience=patience)


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    return request.param


@dataclass
class Person:
    """Somebody at the client, who answers forms: with a dictionary (accept), an action, or what a function says."""

    answers: list[Any] = field(default_factory=list[Any])
    asked: list[ElicitRequestFormParams] = field(default_factory=list[ElicitRequestFormParams])

    async def __call__(
        self, message: str, kind: Any, params: ElicitRequestFormParams, context: Any
    ) -> ElicitResult:
        self.asked.append(params)
        answer: Any = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = cast("Callable[[ElicitRequestFormParams], Any]", answer)(params)
        if isinstance(answer, str):
            return ElicitResult(action=answer)  # pyright: ignore[reportArgumentType]
        return ElicitResult(action="accept", content=answer)


@asynccontextmanager
async def listening_on_a_socket(app: Any) -> AsyncGenerator[str]:
    """Serve an ASGI application over real sockets; gives its base address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        await task
        listener.close()


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a server process."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    own = {"AGENTFLOW_HOME": str(home), "WORLD": str(home / "world"), "AGENTFLOW_POLL_INTERVAL": "0.02"}
    return {**kept, **own, "PYTHONPATH": str(ROOT), **more}


def stdio_transport(home: Path, **more: str) -> StdioTransport:
    """A transport to a server process of its own, which ends with the client."""
    return StdioTransport(
        sys.executable,
        ["-m", "tests.mcp.serve", "stdio"],
        env=environment(home, **more),
        cwd=str(ROOT),
        keep_alive=False,
        log_file=home / "server.log",
    )


@contextmanager
def http_process(home: Path) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """A server process on a socket; gives its base address."""
    with (home / "server.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.mcp.serve", "http"],
            env=environment(home),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def connect(target: Any, era: str, person: Person | None = None, **options: Any) -> Client[Any]:
    """A client; without a person it cannot show forms."""
    if person is not None:
        options["elicitation_handler"] = person
    return Client(target, mode=era, **options)


def said(result: Any) -> str:
    """The text of a tool's result."""
    return result.content[0].text


def only_wait(journal: Journal) -> Wait:
    """The one thing that waits for somebody."""
    (wait,) = journal.list_waits()
    return wait
