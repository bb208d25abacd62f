"""Bells for those who wait for a commit that somebody else makes: it wakes whom it concerns.

A lock that all of them queue for would be handed from thread to thread, though all but one have nothing to do with it
any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress

#: Seconds after which one who waits looks for itself.
_PATIENCE = 1.0


class Asker:
    """Somebody whose request another thread may fulfil."""

    __slots__ = ("_bell", "_rung", "done")

    def __init__(self) -> None:
        self.done = False
        #: Locked until there is something for the asker to look at.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._rung = False

    def ring(self) -> None:
        """Wake the asker: its request is fulfilled, or it may lead."""
        if not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # two have rung at once
                self._bell.release()

    def wait(self) -> None:
        """Until somebody rings; for a while only, as whoever was to do so may have been interrupted."""
        if self._bell.acquire(timeout=_PATIENCE):
            self._rung = False


def ring(askers: Iterable[Asker]) -> None:
    """Wake those whose requests are fulfilled, and one who leads the others."""
    for asker in tuple(askers):
        asker.ring()
        if not asker.done:
            break
