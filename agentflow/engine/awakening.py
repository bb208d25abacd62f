"""Blocking on an event without missing a signal. What waits for what of a run is no business of this module."""

from __future__ import annotations

import threading
import time

#: Seconds after which a blocked main thread looks whether a signal has come.
_LOOK = 1.0


def wait_until_set(event: threading.Event, seconds: float | None = None) -> bool:
    """Wait for an event, at most so many seconds; returns whether it is set.

    A signal (Ctrl-C, SIGTERM) that comes in the very moment in which the main thread begins to block does not wake it,
    and CPython runs its handler only when something does. So the main thread wakes by itself every now and then.
    """
    if threading.current_thread() is not threading.main_thread():
        return event.wait(seconds)
    if seconds is None:
        while not event.wait(_LOOK):
            pass
        return True
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if event.wait(min(left, _LOOK)):
            return True
    return event.is_set()
