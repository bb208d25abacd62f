"""Requests to a server: connections that are kept, and a server that is away for a while. No verb here."""

from __future__ import annotations

import http.client
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import orjson

from agentflow.errors import JournalOpenError, JournalUnavailable
from agentflow.journal.wire import BODY_LIMIT, DOOR, JSON_TYPE, SESSION_HEADER

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
#: Seconds after which a kept connection may have been closed at the other end.
_FRESH = 4.0
#: Seconds for a connection to be made.
_DIALLING = 10.0
#: Answers of something between us and the server, or of a server that is just going: it may be back in a moment.
_AWAY = frozenset({502, 503, 504})
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Answer(NamedTuple):
    """What the server said."""

    status: int
    body: bytes

    @property
    def message(self) -> str:
        """Of a refusal: why."""
        try:
            return str(orjson.loads(self.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"the server answered with status {self.status}"


def _taken_apart(url: str) -> tuple[SplitResult, str, int]:
    """The address, its host and its port. Raises `JournalOpenError` for one that is none."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in _DEFAULT_PORTS and parts.hostname and not parts.username:
            return parts, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]
    message = (
        "AGENTFLOW_API_URL (or AGENTFLOW_DATABASE_URL) is no address of a server; "
        "use http://HOST:PORT or https://HOST"
    )
    raise JournalOpenError(message)


class Line:
    """A way to one server. `patience`: seconds for which it may be away; `reply`: for which it may take to answer."""

    def __init__(self, url: str, api_key: str, *, patience: float, reply: float) -> None:
        parts, self._host, self._port = _taken_apart(url)
        api_key = api_key.strip()
        if not (api_key.isascii() and api_key.isprintable()):
            raise JournalOpenError(
                "AGENTFLOW_API_KEY is no key; a key is what `agentflow keys create` printed"
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.patience, self._reply = patience, reply
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._folder = parts.path.rstrip("/") + DOOR
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": JSON_TYPE}
        self._idle: deque[tuple[float, http.client.HTTPConnection]] = deque()
        #: Why nothing can be asked any more; empty while something can.
        self.closed = ""
        self._hang_up = threading.Event()

    def ask(
        self,
        path: str,
        body: Callable[[bool], bytes | None],
        *,
        session: str = "",
        reply: float | None = None,
        patience: float | None = None,
    ) -> tuple[Answer, bool]:
        """The server's answer, and whether it may have got the request more than once.

        `body`: of the request, told whether it is sent again. Raises `JournalUnavailable` where the server is away for
        too long.
        """
        patience = self.patience if patience is None else patience
        deadline, pause, again = time.monotonic() + patience, _FIRST_PAUSE, False
        while True:
            if self.closed:
                raise JournalUnavailable(self.closed)
            try:
                answer = self._ask(path, body(again), session, self._reply if reply is None else reply)
                if answer.status not in _AWAY:
                    return answer, again
                reason = answer.message
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            again = True
            if time.monotonic() + pause > deadline:
                tried = f", tried for {patience:g} s" * (patience > 0)
                message = f"the server {self.url} cannot be reached ({reason}{tried}); resume the run once it is back"
                raise JournalUnavailable(message)
            self._hang_up.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _ask(self, path: str, body: bytes | None, session: str, reply: float) -> Answer:
        if body is not None and len(body) > BODY_LIMIT:
            size = f"{len(body):,} bytes are more than a server takes at once ({BODY_LIMIT:,})"
            raise JournalUnavailable(f"{size}; store less in one step")
        connection = self._connection(reply)
        try:
            headers = self._headers | ({SESSION_HEADER: session} if session else {})
            connection.request("GET" if body is None else "POST", self._folder + path, body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.read())
        except BaseException:
            connection.close()
            raise
        if response.will_close or self.closed:
            connection.close()
        else:
            self._idle.append((time.monotonic(), connection))
        return answer

    def _connection(self, reply: float) -> http.client.HTTPConnection:
        while True:
            try:
                kept, connection = self._idle.pop()
            except IndexError:
                break
            if time.monotonic() - kept < _FRESH and connection.sock is not None:
                connection.sock.settimeout(reply)
                return connection
            connection.close()
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_DIALLING)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_DIALLING, context=self._tls
            )
        connection.connect()
        connection.sock.settimeout(reply)
        return connection

    def close(self, why: str) -> None:
        """Let nothing be asked any more."""
        self.closed = why
        self._hang_up.set()
        with suppress(IndexError):
            while True:
                self._idle.pop()[1].close()

    def leave_to_parent(self, why: str) -> None:
        """In a forked process the connections are the parent's."""
        self.closed, self._hang_up = why, threading.Event()
        self._idle = deque()


def as_json(members: Mapping[str, object]) -> Callable[[bool], bytes]:
    """A body that is the same whenever it is sent."""
    data = orjson.dumps(members)
    return lambda _: data
