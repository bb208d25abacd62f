"""A seat among a run's threads: whoever blocks on others of the run leaves it to them meanwhile.

Whoever waits for a slot of a limit leaves it only to what bodies have submitted: whoever holds the slot may wait for
that. Other works would perhaps wait for the same limit, a thousand of them each in a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol


class Lender(Protocol):
    """Threads of which only so many work at once."""

    def lend(self) -> None:
        """One of those that work blocks: another may work."""
        ...

    def take_back(self) -> None:
        """It works again."""
        ...

    def stand(self) -> None:
        """One of those that work waits for a slot of a limit: what bodies have submitted may work."""
        ...

    def sit_down(self) -> None:
        """It works again."""
        ...


class Seat:
    """The place of one body; several threads may share it, when a body with a timeout runs in a thread of its own."""

    def __init__(self, threads: Lender) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._blocked = self._standing = 0
        self._left = False

    def lend(self) -> None:
        """Its body blocks."""
        with self._lock:
            self._blocked += 1
            lends = self._blocked == 1 and not self._left
        if lends:
            self._threads.lend()

    def take_back(self) -> None:
        """Its body goes on."""
        with self._lock:
            self._blocked -= 1
            takes = self._blocked == 0 and not self._left
        if takes:
            self._threads.take_back()

    def stand(self) -> None:
        """Its body waits for a slot of a limit."""
        with self._lock:
            self._standing += 1
            stands = self._standing == 1 and not self._left
        if stands:
            self._threads.stand()

    def sit_down(self) -> None:
        """Its body goes on."""
        with self._lock:
            self._standing -= 1
            sits = self._standing == 0 and not self._left
        if sits:
            self._threads.sit_down()

    def leave(self) -> Seat:
        """Its body is given up, and its thread no longer counts; the seat for what comes after."""
        with self._lock:
            lent, stood, self._left = self._blocked > 0, self._standing > 0, True
        if stood:
            self._threads.sit_down()
        if lent:
            self._threads.take_back()
        return Seat(self._threads)


class _Here(threading.local):
    seat: Seat | None = None


_here = _Here()


def seat() -> Seat | None:
    """The seat of this thread; None in a thread that is not one of a run's."""
    return _here.seat


def sit(seat: Seat | None) -> None:
    """Let this thread have a seat."""
    _here.seat = seat


@contextmanager
def lent() -> Generator[None, None, None]:
    """This thread blocks on others: its seat, if it has one, is free meanwhile."""
    own = _here.seat
    if own is None:
        yield
        return
    own.lend()
    try:
        yield
    finally:
        own.take_back()


@contextmanager
def standing() -> Generator[None, None, None]:
    """This thread waits for a slot of a limit."""
    own = _here.seat
    if own is None:
        yield
        return
    own.stand()
    try:
        yield
    finally:
        own.sit_down()
