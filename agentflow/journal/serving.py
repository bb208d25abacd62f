"""Workers' sessions in a journal that a server has: begun, gone on with after a restart, whatever the store."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, cast

from agentflow.journal.protocol import Journal
from agentflow.journal.protocol.serving import ServingVerbs, SessionRow
from agentflow.journal.sqlite import SqliteJournal
from agentflow.journal.sqlite.sessions import SqliteSession

if TYPE_CHECKING:
    from agentflow.journal.postgres import PostgresJournal


class ServingJournal(Journal, ServingVerbs, Protocol):
    """A journal that a server can be put in front of."""


class JournalSession(Journal, Protocol):
    """The journal as one worker: what is claimed in it belongs to that worker for as long as it is heard of."""

    row: SessionRow

    def answering(self, serial: int, known: int) -> AbstractContextManager[None]:
        """In the block a verb is carried out that is asked for as `serial`: at most once, and with the same answer.

        `known`: answers to smaller numbers will not be asked for again.
        """
        ...

    def renew(self) -> bool:
        """The worker was heard of: its lease begins anew. False where the session is over."""
        ...

    def end(self, *, lapsed: bool = False) -> None:
        """What it owned is free; `lapsed`: and what the worker may still write is refused."""
        ...

    def suspend(self) -> None:
        """This process serves it no longer; another one may go on with it."""
        ...


def opened(journal: ServingJournal, worker: str, lease: float, api_key: str, now: float) -> JournalSession:
    """A new session. `worker`: ``host:pid``; `lease`: seconds."""
    if isinstance(journal, SqliteJournal):
        return SqliteSession.opened(journal, worker, lease, api_key, now)
    from agentflow.journal.postgres.sessions import PostgresSession  # noqa: PLC0415 - psycopg is an extra

    return PostgresSession.opened(cast("PostgresJournal", journal), worker, lease, api_key, now)


def resumed(journal: ServingJournal, row: SessionRow) -> JournalSession | None:
    """A session that was served by another process, with a whole lease; None where it is over, or still served."""
    if isinstance(journal, SqliteJournal):
        return SqliteSession.resumed(journal, row)
    from agentflow.journal.postgres.sessions import PostgresSession  # noqa: PLC0415 - psycopg is an extra

    return PostgresSession.resumed(cast("PostgresJournal", journal), row)
