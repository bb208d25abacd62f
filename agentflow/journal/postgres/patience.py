"""A connection that does not wait for ever: a server that is frozen, or behind a network that swallows, says nothing.

The kernel of a frozen machine still acknowledges packets for its processes, so no option of TCP tells that from a slow
answer. What helps is a limit on silence, here. Whoever hits it does not know what became of the statement: to the rest
of this room the connection is lost, as it is when it breaks.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")


class PatientConnection(psycopg.Connection[tuple[Any, ...]]):
    """Hangs up when the server has said nothing for `patience` seconds while it was waited for."""

    patience = float("inf")

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """See `psycopg.Connection.wait`."""
        return super().wait(self._heard(gen), *args, **options)

    def _heard(self, waiting: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """The same, step by step, until nothing has come for too long."""
        try:
            wanted = next(waiting)
            heard = time.monotonic()
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() > heard + self.patience:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server has said nothing for {self.patience:g} s")
                wanted = waiting.send(ready)
        except StopIteration as over:
            return over.value
