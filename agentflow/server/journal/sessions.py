"""Workers that are at work: each is heard of within its lease, or what it owned is free for others.

A session is a row of the journal. After a restart of the server each has a whole lease anew, and owns what it owned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from agentflow.journal import serving
from agentflow.journal.protocol.serving import SessionAway, SessionOver
from agentflow.journal.serving import JournalSession, ServingJournal

#: A look at the sessions that comes so much later than the one before: this process was asleep, not they.
_ASLEEP = 5.0
#: Of a lease, how much is over before it is begun anew in the store.
_SOON = 0.15
SHORTEST_LEASE, LONGEST_LEASE = 1.0, 3600.0


class Served:
    """A session, and what its requests came to."""

    def __init__(self, journal: JournalSession) -> None:
        self.journal = journal
        self.heard = self.renewed = time.monotonic()
        self._lock = threading.Lock()
        #: By their numbers; those whose answers the worker has are forgotten.
        self._answers: dict[int, Future[object]] = {}
        self._known = 0

    def is_lapsed(self, now: float) -> bool:
        """Whether it was not heard of for a lease."""
        return now - self.heard > self.journal.row.lease

    def answer(self, serial: int, known: int, work: Callable[[], object]) -> object:
        """What request `serial` comes to; asked for once more, even while it is carried out, it is not done again."""
        with self._lock:
            self._known = max(self._known, known)
            for old in [number for number in self._answers if number < self._known]:
                del self._answers[old]
            if serial < self._known:  # it has wandered about, and another copy of it was answered
                raise SessionOver
            found = self._answers.get(serial)
            mine = found is None
            future = self._answers[serial] = found or Future()
        if mine:
            try:
                with self.journal.answering(serial, self._known):
                    future.set_result(work())
            except BaseException as error:
                with self._lock:
                    self._answers.pop(serial, None)
                future.set_exception(error)
                raise
        return future.result()


class Sessions:
    """The sessions that this server serves."""

    def __init__(self, journal: ServingJournal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._served: dict[str, Served] = {}
        #: Those that are being ended: nobody goes on with them meanwhile.
        self._ending: set[str] = set()
        self._looked = time.monotonic()
        self._stopped = False
        for row in journal.sessions():
            self._resume(row.id)

    def open(self, worker: str, lease: float, api_key: str) -> JournalSession:
        """A new one; `lease` in seconds, within bounds."""
        lease = min(max(lease, SHORTEST_LEASE), LONGEST_LEASE)
        with self._lock:
            if self._stopped:
                raise SessionAway
            session = serving.opened(self._journal, worker, lease, api_key, time.time())
            self._served[session.row.id] = Served(session)
        return session

    def get(self, session_id: str, api_key: str) -> Served:
        """The session of that id, whose worker has just been heard of. Raises `SessionOver`, `SessionAway`."""
        with self._lock:
            if self._stopped:
                raise SessionAway
            if session_id in self._ending:
                raise SessionOver
            found = self._served.get(session_id) or self._resume(session_id)
        if found is None or found.journal.row.api_key != api_key:
            raise SessionOver
        now = time.monotonic()
        if found.is_lapsed(now) and now - self._looked < _ASLEEP:
            self._end(found, lapsed=True)
            raise SessionOver
        found.heard = now
        return found

    def renew(self, session_id: str, api_key: str) -> None:
        """Begin its lease anew. Raises `SessionOver`."""
        found = self.get(session_id, api_key)
        if found.heard - found.renewed < found.journal.row.lease * _SOON:
            return
        found.renewed = found.heard
        if not found.journal.renew():
            self._end(found, lapsed=True)
            raise SessionOver

    def end(self, session_id: str, api_key: str) -> None:
        """Its worker has no more use for it."""
        self._end(self.get(session_id, api_key), lapsed=False)

    def look(self) -> None:
        """Give up those that have not been heard of for a lease."""
        now = time.monotonic()
        slept, self._looked = now - self._looked, now
        with self._lock:
            served = list(self._served.values())
        for session in served:
            if slept > _ASLEEP:
                session.heard = now
            if session.is_lapsed(now):
                self._end(session, lapsed=True)

    def suspend(self) -> None:
        """This server stops; whoever serves the journal next goes on with them."""
        with self._lock:
            self._stopped = True
            served, self._served = list(self._served.values()), {}
        for session in served:
            session.journal.suspend()

    def _resume(self, session_id: str) -> Served | None:
        row = self._journal.get_session(session_id)
        session = None if row is None else serving.resumed(self._journal, row)
        if session is None:
            return None
        served = self._served[session_id] = Served(session)
        return served

    def _end(self, session: Served, *, lapsed: bool) -> None:
        session_id = session.journal.row.id
        with self._lock:
            if self._served.pop(session_id, None) is None:
                return
            self._ending.add(session_id)
        try:
            session.journal.end(lapsed=lapsed)
        finally:
            with self._lock:
                self._ending.discard(session_id)
