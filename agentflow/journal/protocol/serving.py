"""Verbs of the stores that a server can be put in front of: keys of workers, and the sessions in which they work."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from threading import local
from typing import NamedTuple, Protocol, runtime_checkable


class ApiKey(NamedTuple):
    """What is known of a worker's key; the key itself is nowhere. Times are seconds since the epoch."""

    id: str
    #: What people call it.
    name: str
    created: float
    revoked: float | None = None


class SessionRow(NamedTuple):
    """A worker that works through a server; what it owns, it owns by this."""

    id: str
    #: What the store knows a process by that owns runs: the byte that it locks, or its keeper.
    number: int
    #: The owner of its runs: ``host:pid`` of the worker, and what tells this session from its others.
    owner: str
    #: Seconds after which it counts as dead if it is not heard of.
    lease: float
    #: The id of the key with which it was opened; no other one can use it.
    api_key: str
    opened: float


def new_session(worker: str, lease: float, api_key: str, now: float) -> SessionRow:
    """A session that no store knows yet. `worker`: ``host:pid``."""
    session_id = secrets.token_hex(12)
    return SessionRow(session_id, 0, f"{worker}#{session_id[:6]}", lease, api_key, now)


class SessionOver(Exception):
    """A worker's session has ended, or was not heard of for a lease; nothing can be done in it any more."""


class SessionAway(Exception):
    """This process does not serve the session any more; another one will in a moment."""


class Answering:
    """Which request of a session a thread carries out, for the transaction that is to remember what it comes to."""

    def __init__(self) -> None:
        self._threads = local()

    @contextmanager
    def request(self, serial: int, known: int) -> Generator[None]:
        """In the block request `serial` is carried out. `known`: the worker has all answers before that one."""
        self._threads.request = (serial, known)
        try:
            yield
        finally:
            self._threads.request = None

    def take(self) -> tuple[int, int] | None:
        """The request of this thread, for its first transaction only: what a verb does besides needs no answer."""
        request: tuple[int, int] | None = getattr(self._threads, "request", None)
        self._threads.request = None
        return request


@runtime_checkable
class ServingVerbs(Protocol):
    """Verbs that no worker can reach."""

    def add_api_key(self, key: ApiKey, digest: bytes) -> None:
        """Store a new key. `digest`: SHA-256 of what its holder shows."""
        ...

    def api_keys(self) -> list[ApiKey]:
        """All keys, oldest first, the revoked ones too."""
        ...

    def revoke_api_key(self, key_id: str, now: float) -> bool:
        """Let nobody in with that key any more; False where there is none that is good."""
        ...

    def api_key_of(self, digest: bytes) -> ApiKey | None:
        """The key with that digest, unless it was revoked."""
        ...

    def add_session(self, row: SessionRow) -> SessionRow:
        """Store a new session; returned with the number that it got."""
        ...

    def sessions(self) -> list[SessionRow]:
        """All sessions that are not over."""
        ...

    def get_session(self, session_id: str) -> SessionRow | None:
        """The session of that id."""
        ...

    def drop_session(self, row: SessionRow, *, lapsed: bool) -> None:
        """Forget a session, and what its requests came to. `lapsed`: it was not heard of, and may not know it."""
        ...
