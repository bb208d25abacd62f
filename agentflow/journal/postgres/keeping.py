"""This process as the database knows it: a row whose lease a thread renews; and news of what others have committed.

A run belongs to a keeper. A keeper that has not renewed its lease is not live: others may bury it, and then whatever
it had owned is nobody's, and what it still writes is refused. News are a hint to look; nothing depends on them.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg

from agentflow.errors import JournalUnavailable
from agentflow.journal.postgres.commits import Committer
from agentflow.journal.postgres.connections import Line, Session
from agentflow.journal.postgres.statements import SQL

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn


class Keeper:
    """One per journal; its thread begins when something is owned, or somebody wants to hear of news."""

    def __init__(
        self,
        line: Line,
        committer: Committer,
        owner: str,
        lease: float,
        channel: str,
        tell: Callable[[], None],
    ) -> None:
        #: The keeper's number; 0 = it has none, for it owns nothing, or was buried.
        self.number = 0
        self._line, self._committer = line, committer
        self._owner, self._lease, self._channel, self._tell = owner, lease, channel, tell
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = False
        #: Whether the database tells this process of what others commit.
        self.listening = False
        self._sleep, self._wake = os.pipe()
        self._next = 0.0
        #: Something was committed of which other processes have not been told.
        self._news = False

    def registered(self) -> int:
        """The number of a keeper whose lease is being renewed."""
        with self._lock:
            if self.number:
                return self.number
            number = self.number = self._committer.run(self._register)
            self._next = time.monotonic() + self._lease / 3
        self.watch()
        return number

    def _register(self, session: Session) -> int:
        session.do(SQL["drop_lapsed_keepers"])
        return int(session.value(SQL["add_keeper"], (self._owner, self._lease, self._lease)))

    def forget(self, number: int) -> None:
        """That keeper was buried: the next claim needs another one."""
        with self._lock:
            if self.number == number:
                self.number = 0

    def watch(self) -> None:
        """Have the thread run."""
        with self._lock:
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(target=self._work, name="agentflow-keeper", daemon=True)
                self._thread.start()
        os.write(self._wake, b".")

    def announce(self) -> bool:
        """Have the thread tell other processes that something was committed; False where there is none."""
        with self._lock:
            if self._thread is None or self._stop:
                return False
            if not self._news:  # else it is about to tell of this, too
                self._news = True
                os.write(self._wake, b".")
            return True

    def close(self) -> None:
        """Stop the thread."""
        with self._lock:
            if self._stop:
                return
            self._stop = True
        os.write(self._wake, b".")
        self._line.close("the journal is closed")
        if self._thread is not None:
            self._thread.join()
        if self._news:
            self._committer.announce(self._channel)
        os.close(self._wake)
        os.close(self._sleep)

    def leave_to_parent(self, why: str) -> None:
        """In a forked process there is no thread, and the pipe is the parent's."""
        self._lock, self._stop = threading.Lock(), True
        self._line.leave_to_parent(why)

    def _work(self) -> None:
        while not self._stop:
            try:
                with self._line.lock:
                    session = self._line.session(self._line.deadline())
                    session.do(f'LISTEN "{self._channel}"'.encode())
                    self.listening = True
                    if self._line.dialled > 1:
                        self._tell()  # of what was said while nobody listened
                    while not self._stop:
                        self._renew(session)
                        self._spread(session)
                        self._listen(session)
            except (psycopg.Error, OSError):
                self._line.drop()
            except JournalUnavailable:
                continue
            finally:
                self.listening = False

    def _renew(self, session: Session) -> None:
        if self.number and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._lease / 3
            number = self.number
            if not session.do(SQL["renew_keeper"], (number,)):
                self.forget(number)

    def _spread(self, session: Session) -> None:
        if self._news:
            self._news = False
            session.do(SQL["announce"], (self._channel, self._committer.writer))

    def _listen(self, session: Session) -> None:
        """Wait for news, for the time to renew, or to be woken."""
        connection: PGconn = session.connection.pgconn
        patience = max(0.0, self._next - time.monotonic()) if self.number else None
        ready, _, _ = select.select([connection.socket, self._sleep], [], [], patience)
        if self._sleep in ready:
            os.read(self._sleep, 1024)
        if connection.socket in ready:
            connection.consume_input()
            told = list[bytes]()
            while (news := connection.notifies()) is not None:
                told.append(news.extra)
            if any(who != self._committer.writer.encode() for who in told):
                self._tell()
