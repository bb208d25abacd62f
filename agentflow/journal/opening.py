"""Opens the journal that an address or the settings name; one per process and address."""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path
from typing import cast

from agentflow.errors import JournalOpenError
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal
from agentflow.journal.sqlite import SqliteJournal
from agentflow.payloads.keys import load_key
from agentflow.settings import Settings

_open: dict[tuple[int, str], Journal] = {}
_lock = threading.Lock()
_SERVERS = ("http", "https")


def open_journal(settings: Settings | None = None) -> Journal:
    """The journal of `settings` (default: of the environment), opened once per process.

    Raises `JournalOpenError` for an address it does not know, a read-only home, a database from a newer version.
    """
    settings = settings or Settings.from_environment()
    url = address_of(settings)
    with _lock:
        found = _open.get((os.getpid(), url))
        if found is None:
            found = _open[os.getpid(), url] = _connect(url, settings)
    return found


def address_of(settings: Settings) -> str:
    """The one address that the settings name."""
    server = settings.api_url
    if server and settings.database_url not in ("", server):
        message = "AGENTFLOW_API_URL and AGENTFLOW_DATABASE_URL name two journals; unset one of them"
        raise JournalOpenError(message)
    if server and server.partition("://")[0] not in _SERVERS:
        message = "AGENTFLOW_API_URL is no address of a server; use http://HOST:PORT or https://HOST"
        raise JournalOpenError(message)
    return server or settings.database_url or f"sqlite:///{settings.home / 'agentflow.db'}"


def _connect(url: str, settings: Settings) -> Journal:
    if url == "memory:":
        return MemoryJournal()
    if url.partition("://")[0] in ("postgresql", "postgres"):
        return _postgres(url, settings)
    if url.partition("://")[0] in _SERVERS:
        return _http(url, settings)
    scheme, separator, rest = url.partition(":///")
    if scheme != "sqlite" or not separator or not rest:
        shown = "..." if "@" in url else repr(url)  # there may be a password in it
        message = (
            f"AGENTFLOW_DATABASE_URL={shown} is not an address of a journal; use sqlite:///PATH, "
            "postgresql://USER@HOST/DATABASE, https://SERVER or memory:"
        )
        raise JournalOpenError(message)
    return SqliteJournal(Path(rest), _key(settings))


def _key(settings: Settings) -> bytes:
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        message = f"cannot make the folder {settings.home}: {error.strerror}; set AGENTFLOW_HOME to a writable folder"
        raise JournalOpenError(message) from None
    return load_key(settings.home)


def _postgres(url: str, settings: Settings) -> Journal:
    try:
        from agentflow.journal.postgres import PostgresJournal  # noqa: PLC0415 - psycopg is an extra
    except ImportError as error:
        if not (error.name or "psycopg").startswith("psycopg"):
            raise
        message = "a journal on PostgreSQL needs the package psycopg: install agentflow[postgres]"
        raise JournalOpenError(message) from error
    return PostgresJournal(url, _key(settings), lease=settings.lease)


def _http(url: str, settings: Settings) -> Journal:
    from agentflow.journal.http import HttpJournal  # noqa: PLC0415 - only workers of a server need it

    if not settings.api_key:
        message = (
            "a server wants AGENTFLOW_API_KEY; make a key where the server is: agentflow keys create NAME"
        )
        raise JournalOpenError(message)
    journal = HttpJournal(url, _key(settings), settings.api_key, lease=settings.lease)
    return cast("Journal", journal)  # most of its verbs are made, not written


def close_all() -> None:
    """Close every journal of this process."""
    with _lock:
        for (pid, _), journal in list(_open.items()):
            if pid == os.getpid():
                journal.close()
        _open.clear()


atexit.register(close_all)
