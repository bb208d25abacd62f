"""The random programs of the other stores behind a server, whose connections are cut and which is started anew.

The server's own journal is a file, or PostgreSQL; two workers share it. A fault cuts the connection of a verb: before
its request has arrived, or after it was carried out and before its answer came back. The verb does what it would have
done without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis.stateful import precondition, rule

from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal
from agentflow.journal.sqlite import SqliteJournal
from tests.journal.http_server import HttpServer, Served, WorkersJournal
from tests.journal.oracle import EVERYTHING, everything
from tests.journal.postgres_server import PostgresServer
from tests.journal.steady_machine import SteadyJournals
from tests.journal.striking import KEY, Fault
from tests.journal.tcp_proxy import TcpProxy
from tests.journal.test_limit_machine import slots_in
from tests.journal.test_state_machine import play


class Plan:
    """Where the next verb is struck."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._proxy = proxy

    def arm(self, fault: Fault | None) -> None:
        self._proxy.arm("" if fault is None else "after" if fault.after else "before", "/verbs/")


class HttpJournals(SteadyJournals):
    """Workers of a server do the same as the memory journal."""

    server: HttpServer

    def __init__(self) -> None:
        self.served: Served | None = None
        super().__init__()

    def opened(self) -> Any:
        if self.served is None:
            self.served = self.server.serve(self.journal())
            self.proxy = TcpProxy(urlsplit(self.served.url).port or 0)
            self.proxy.__enter__()
        worker = WorkersJournal(self.served, KEY, url=self.proxy.through(self.served.url))
        worker.plan = Plan(self.proxy)
        return worker

    def journal(self) -> Journal:
        """The server's own."""
        return SqliteJournal(self.folder / "j.db", KEY, clock=self.clock)

    def looked_at(self) -> Sequence[Any]:
        """At the server, after each step; by a worker, at the end."""
        assert self.served is not None
        return [self.served.journal]

    def teardown(self) -> None:
        for worker in self.stores:
            assert everything(worker, self.now) == everything(self.oracle, self.now)
            assert slots_in(worker) == slots_in(self.oracle)
        super().teardown()
        self.proxy.__exit__()
        assert self.served is not None
        self.served.close()
        self.served.journal.close()

    @precondition(lambda self: self.served is not None)
    @rule()
    def start_the_server_anew(self) -> None:
        """Workers see nothing of it."""
        assert self.served is not None
        self.served.close()
        self.served.open()
        self.lose_what_has_ended()

    def lose_what_has_ended(self) -> None:
        """The locks of a file have gone with the server; of ended runs none is taken anew, given back or not."""
        for run in self.oracle.list_runs(EVERYTHING):
            if run.state.is_final and self.owners.pop(run.number, None) is not None:
                self.oracle.orphan([run.number])


class HttpPostgresJournals(HttpJournals):
    """The same, where the server keeps everything in PostgreSQL."""

    postgres: PostgresServer

    def journal(self) -> Journal:
        return PostgresJournal(self.postgres.url(), KEY, clock=self.clock)

    def lose_what_has_ended(self) -> None:
        """Who owns what stands in the database: nothing is lost."""


@pytest.fixture(params=[HttpJournals, pytest.param(HttpPostgresJournals, marks=pytest.mark.service)])
def machine(request: pytest.FixtureRequest, http_server: HttpServer) -> type[HttpJournals]:
    """Each kind of server."""
    request.param.server = http_server
    if request.param is HttpPostgresJournals:
        HttpPostgresJournals.postgres = request.getfixturevalue("postgres")
    return request.param


def test_workers_do_what_the_oracle_does(machine: type[HttpJournals]) -> None:
    """In random programs with crashes, cut connections and restarts both stores hold and answer the same."""
    play(15 if machine is HttpJournals else 5, 20, machine)


@pytest.mark.nightly
def test_workers_do_what_the_oracle_does_for_long(machine: type[HttpJournals]) -> None:
    """The same, for hundreds of programs."""
    play(500 if machine is HttpJournals else 200, 60, machine)
