"""Marks what starts commands and servers: those tests have a target of their own, and the core suite stays quick."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import fault as fault  # noqa: PLC0414 - a fixture for all tests
from tests.faults import table
from tests.journal.postgres_server import PostgresServer, running_server

SERVICES = {"cli", "mcp", "server", "workers"}
HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def _nobodys_home() -> Iterator[None]:
    """A test that says nothing of a home does not write into the home of whoever runs it."""
    with tempfile.TemporaryDirectory(prefix="agentflow-home-") as folder:
        os.environ.setdefault("AGENTFLOW_HOME", folder)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder, before the ``-m`` option is looked at."""
    for item in items:
        if item.path.relative_to(HERE).parts[0] in SERVICES:
            item.add_marker(pytest.mark.service)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, one for the whole session; each test has a schema of its own in it."""
    with running_server(fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def http_server() -> Iterator[object]:
    """A server on a loopback socket, one for the whole session; each journal behind it has a path of its own."""
    from tests.journal.http_server import HttpServer  # noqa: PLC0415 - most tests need no web server

    with HttpServer() as server:
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the tests of faults have measured, where they were asked for."""
    if "fault" not in config.option.markexpr:
        return
    reports = [
        report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ())
    ]
    for line in table(reports):
        terminalreporter.write_line(line)
