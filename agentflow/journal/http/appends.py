"""Appends of many threads in one request: whoever comes while one is under way goes with the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from agentflow.journal.bells import Asker, ring
from agentflow.journal.http.session import Session

#: Bytes of rows after which no more are taken along.
_FULL = 4 * 1024 * 1024


class Append(Asker):
    """Rows of a run on their way, in the session that owns it.

    `size`: about how many bytes; `repeat`: they may be stored already.
    """

    __slots__ = ("arguments", "outcome", "repeat", "session", "size")

    def __init__(self, session: Session, arguments: dict[str, Any], size: int, *, repeat: bool) -> None:
        super().__init__()
        self.repeat = repeat
        self.session, self.arguments, self.size = session, arguments, size
        #: None, or what is raised.
        self.outcome = cast("BaseException | None", None)


class Appends:
    """The queue of a process. `send`: sends some of one session, and returns their outcomes."""

    def __init__(self, send: Callable[[Sequence[Append]], Sequence[BaseException | None]]) -> None:
        self._send = send
        self._lock = threading.Lock()
        #: Who waits, in order; each takes itself out.
        self._waiting: dict[Append, None] = {}

    def add(self, request: Append) -> None:
        """Have it stored, alone or with others. Raises what it was refused with."""
        self._waiting[request] = None
        try:
            while not request.done:
                if not self._lock.acquire(blocking=False):
                    request.wait()  # whoever sends looks at who waits afterwards
                    continue
                try:
                    if not request.done:
                        self._lead(request)
                finally:
                    self._lock.release()
                    if self._waiting:
                        ring(self._waiting)
        finally:
            self._waiting.pop(request, None)  # nobody may do it later
        if request.outcome is not None:
            raise request.outcome

    def _lead(self, leader: Append) -> None:
        batch, size = [leader], leader.size
        for other in tuple(self._waiting):
            if other.done or other is leader or other.session is not leader.session:
                continue
            size += other.size
            if size > _FULL:
                break
            batch.append(other)
        for request, outcome in zip(batch, self._send(batch), strict=True):
            request.outcome, request.done = outcome, True

    def leave_to_parent(self) -> None:
        """In a forked process nobody else is there."""
        self._lock, self._waiting = threading.Lock(), {}
