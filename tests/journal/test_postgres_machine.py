"""The random programs of the other stores on PostgreSQL, where a lost connection is nothing that anybody sees.

Two journals share one schema, like two processes. A fault cuts the connection at one statement of a verb: before it
was sent, or after it was executed and before its reply arrived. The verb does what it would have done without.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentflow.journal.protocol import Journal
from agentflow.model.steps import StepRow
from tests.journal.oracle import outcome
from tests.journal.postgres_server import PostgresServer
from tests.journal.striking import Fault
from tests.journal.striking_postgres import StruckPostgres
from tests.journal.test_limit_machine import LimitedJournals, play


class PostgresJournals(LimitedJournals):
    """PostgreSQL does the same as the memory journal."""

    server: PostgresServer

    def __init__(self) -> None:
        self.url = self.server.url()
        super().__init__()

    def opened(self) -> StruckPostgres:
        return StruckPostgres(self.url, self.clock)

    def both(
        self,
        which: int,
        fault: Fault | None,
        call: Callable[[Journal], object],
        *,
        repeat: bool = False,
        claims: bool = False,
    ) -> object:
        store = self.stores[which]
        store.plan.arm(fault)
        got = outcome(lambda: call(store))
        store.plan.arm(None)
        wanted = outcome(lambda: call(self.oracle))
        if claims:
            self.note_owner(which, wanted)
        assert got == wanted
        return self.both(which, None, call, claims=claims) if repeat else wanted

    def tried(self, journal: Journal, number: int, epoch: int, rows: list[StepRow]) -> bool:
        """What could not be done at once is done as the engine does it then; some of it may be stored already."""
        if not journal.try_append(number, epoch, rows):
            journal.append(number, epoch, rows)
        return True


def test_postgres_does_what_the_oracle_does(postgres: PostgresServer) -> None:
    """In random programs with crashes and lost connections both stores hold and answer the same."""
    PostgresJournals.server = postgres
    play(20, 25, PostgresJournals)


@pytest.mark.nightly
def test_postgres_does_what_the_oracle_does_for_long(postgres: PostgresServer) -> None:
    """The same, for hundreds of programs."""
    PostgresJournals.server = postgres
    play(500, 60, PostgresJournals)
