"""The random programs of the other stores on PostgreSQL, where a lost connection is nothing that anybody sees.

Two journals share one schema, like two processes. A fault cuts the connection at one statement of a verb: before it
was sent, or after it was executed and before its reply arrived. The verb does what it would have done without.
"""

from __future__ import annotations

import pytest

from tests.journal.postgres_server import PostgresServer
from tests.journal.steady_machine import SteadyJournals
from tests.journal.striking_postgres import StruckPostgres
from tests.journal.test_state_machine import play


class PostgresJournals(SteadyJournals):
    """PostgreSQL does the same as the memory journal."""

    server: PostgresServer

    def __init__(self) -> None:
        self.url = self.server.url()
        super().__init__()

    def opened(self) -> StruckPostgres:
        return StruckPostgres(self.url, self.clock)


def test_postgres_does_what_the_oracle_does(postgres: PostgresServer) -> None:
    """In random programs with crashes and lost connections both stores hold and answer the same."""
    PostgresJournals.server = postgres
    play(20, 25, PostgresJournals)


@pytest.mark.nightly
def test_postgres_does_what_the_oracle_does_for_long(postgres: PostgresServer) -> None:
    """The same, for hundreds of programs."""
    PostgresJournals.server = postgres
    play(500, 60, PostgresJournals)
