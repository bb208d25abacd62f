"""This process as the server knows it: a session that a thread keeps alive, and news of what others have done.

A run belongs to the session in which it was claimed. Once that is over - the server has not heard of it for a lease -
whatever is still written to the run is refused, here and there; the next claim is made in a new session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import orjson

from agentflow.errors import JournalUnavailable
from agentflow.journal.http.line import Line, as_json

_PAUSE = 1.0
#: Seconds for which news are waited for at most.
_LONGEST_PATIENCE = 20.0
#: Seconds that an answer to a question for news may take beyond that.
_MARGIN = 10.0


class Session:
    """What the server knows this process by, for as long as it hears of it."""

    def __init__(self, session_id: str, owner: str, lease: float) -> None:
        self.id, self.owner, self.lease = session_id, owner, lease
        self.over = False
        self._lock = threading.Lock()
        self._last = 0
        self._open: set[int] = set()

    def numbered(self) -> int:
        """The number of a new request."""
        with self._lock:
            self._last += 1
            self._open.add(self._last)
            return self._last

    def settled(self, serial: int) -> None:
        """That request has its answer, or nobody waits for it any more."""
        with self._lock:
            self._open.discard(serial)

    @property
    def known(self) -> int:
        """The answers to all requests with smaller numbers have arrived."""
        with self._lock:
            return min(self._open, default=self._last + 1)


class Keeper:
    """Opens sessions, keeps one alive, and hears of news; its thread begins when there is something to do."""

    def __init__(self, line: Line, worker: str, lease: float, tell: Callable[[], None]) -> None:
        self._line, self._worker, self._lease, self._tell = line, worker, lease, tell
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._seen = ""
        self._stop = False
        #: Whether the server tells this process of news.
        self.listening = False

    def session(self) -> Session:
        """The session; where there is none, or the last one is over, a new one. Raises `JournalUnavailable`."""
        with self._lock:
            if self._session is None or self._session.over:
                self._session = self._opened()
            session = self._session
        self.watch()
        return session

    def _opened(self) -> Session:
        answer, _ = self._line.ask("/sessions", as_json({"worker": self._worker, "lease": self._lease}))
        if answer.status != 200:  # noqa: PLR2004
            raise JournalUnavailable(answer.message)
        told = orjson.loads(answer.body)
        return Session(told["session"], told["owner"], told["lease"])

    def watch(self) -> None:
        """Have the thread run."""
        with self._lock:
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(target=self._work, name="agentflow-keeper", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop the thread, and end the session if the server is there; else its lease runs out."""
        with self._lock:
            self._stop, session = True, self._session
        self._wake.set()
        if session is not None and not session.over:
            session.over = True
            with suppress(JournalUnavailable):
                self._line.ask("/sessions/end", as_json({}), session=session.id, patience=0.0)

    def leave_to_parent(self) -> None:
        """In a forked process there is no thread, and the session is the parent's."""
        self._lock, self._stop, self._session = threading.Lock(), True, None

    def _work(self) -> None:
        while not self._stop:
            try:
                self._hear()
            except JournalUnavailable:
                self.listening = False
                self._wake.wait(_PAUSE)
        self.listening = False

    def _hear(self) -> None:
        session = self._session
        kept = session is not None and not session.over
        # a session may begin while this waits
        patience = min((session.lease if session and kept else self._lease) / 3, _LONGEST_PATIENCE)
        asked = as_json({"seen": self._seen, "patience": patience})
        answer, _ = self._line.ask(
            "/news", asked, session=session.id if session and kept else "", reply=patience + _MARGIN
        )
        if answer.status == 410 and session is not None:  # noqa: PLR2004
            session.over = True
            self._tell()
            return
        if answer.status != 200:  # noqa: PLR2004
            raise JournalUnavailable(answer.message)
        seen = str(orjson.loads(answer.body)["seen"])
        self.listening = True
        if seen != self._seen:
            self._seen = seen
            self._tell()
