"""A server on a real socket, programs and people that talk to it, and a real browser."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from agentflow.flows import default_options
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.waits import PERSON_KINDS, Wait
from agentflow.server.serving import Mounts, Server
from agentflow.workers.inline import InlineWorker
from tests.server import flows_under_test

PATIENCE = 20.0


@dataclass
class Person:
    """A browser without a screen: it has the session's cookie and the CSRF token of a page."""

    client: httpx2.Client
    url: str
    csrf: str = ""
    extra: dict[str, str] = field(default_factory=dict[str, str])

    def open(self, path: str) -> httpx2.Response:
        """Open a page and take its CSRF token."""
        page = self.client.get(path, headers={"accept": "text/html"})
        found = re.search(r'<meta name="csrf" content="([^"]*)">', page.text)
        self.csrf = found[1] if found else ""
        return page

    def submit(self, path: str, **fields: str) -> httpx2.Response:
        """Submit a form of the page opened last."""
        headers = {"accept": "text/html", "origin": self.url}
        return self.client.post(path, data={"csrf": self.csrf, **fields}, headers=headers)

    def call(self, path: str, body: Any) -> httpx2.Response:
        """Call the API as the page's scripts would."""
        headers = {"x-csrf-token": self.csrf, "origin": self.url}
        return self.client.post(path, json=body, headers=headers)


@dataclass
class Running:
    """A server under test."""

    server: Server
    worker: InlineWorker
    journal: SqliteJournal
    stack: ExitStack

    @property
    def url(self) -> str:
        return self.server.url

    def client(self, **headers: str) -> httpx2.Client:
        """A program that talks to the server."""
        return self.stack.enter_context(httpx2.Client(base_url=self.url, timeout=PATIENCE, headers=headers))

    def person(self) -> Person:
        """A person's browser that has opened the list of runs."""
        person = Person(self.client(), self.url)
        person.open("/")
        return person

    def start(self, flow: str, **parameters: Any) -> str:
        """Start a run as a program and return its id."""
        answer = self.client().post("/api/runs", json={"flow": flow, "parameters": parameters})
        assert answer.status_code == 201, answer.text
        return answer.json()["run_id"]

    def ended(self, run_id: str) -> str:
        """The state in which the run has ended."""
        run = self.worker.await_run(run_id, PATIENCE, until_asked=False)
        assert run.state.is_final, run
        return run.state.value

    def asked(self, run_id: str) -> Wait:
        """The question for a person that the run waits for."""
        run = self.worker.await_run(run_id, PATIENCE)
        waits = self.journal.list_waits(number=run.number, kinds=PERSON_KINDS)
        assert waits, run
        return waits[0]


Serve = Callable[..., Running]
McpApp = Callable[[InlineWorker, str], ASGIApp]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers over a fresh journal."""
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AGENTFLOW_POLL_INTERVAL", "0.05")
    flows_under_test.sent.clear()
    flows_under_test.charges.clear()
    flows_under_test.gate.clear()
    flows_under_test.line_is_up.clear()
    with ExitStack() as stack:

        def start(*, mount: Mounts | None = None, mcp: McpApp | None = None, **options: Any) -> Running:
            journal = SqliteJournal(tmp_path / "journal.db", b"k" * 32)
            stack.callback(journal.close)
            worker = InlineWorker(journal, flows_under_test.FLOWS, options=default_options(0.0))
            mounts: Mounts = (mount or {}) if mcp is None else lambda url: {"/mcp": mcp(worker, url)}
            server = stack.enter_context(Server(worker, port=0, mount=mounts, **options))
            return Running(server, worker, journal, stack)

        stack.callback(flows_under_test.gate.set)
        yield start


@pytest.fixture
def running(serve: Serve) -> Running:
    """A server without a token."""
    return serve()
