"""Every store, empty, for tests of what all of them promise."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from agentflow.journal.memory import MemoryJournal
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal
from agentflow.journal.sqlite import SqliteJournal
from tests.journal.http_server import HttpServer, OwnServer
from tests.journal.postgres_server import PostgresServer

KEY = b"k" * 32
STORES = ["memory", "sqlite", "postgres", "http", pytest.param("http-postgres", marks=pytest.mark.service)]


def open_store(
    request: pytest.FixtureRequest, folder: Path, clock: Callable[[], float] | None = None
) -> Journal:
    """The store that a fixture's parameter names; the server is started by the first test that needs it."""
    if request.param == "memory":
        return MemoryJournal(KEY, clock=clock or time.time)
    if request.param == "sqlite":
        return SqliteJournal(folder / "j.db", KEY, clock=clock or time.time)
    if request.param == "http":
        return _behind_a_server(request, SqliteJournal(folder / "j.db", KEY, clock=clock or time.time))
    server: PostgresServer = request.getfixturevalue("postgres")
    journal = PostgresJournal(server.url(), KEY, clock=clock)
    return _behind_a_server(request, journal) if request.param == "http-postgres" else journal


def _behind_a_server(request: pytest.FixtureRequest, journal: Journal) -> Journal:
    """As a worker sees it."""
    server: HttpServer = request.getfixturevalue("http_server")
    return cast("Journal", OwnServer(server.serve(journal), KEY))
