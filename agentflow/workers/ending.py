"""Signals of a process that serves: the first one has it end, a later one has its worker wait for nothing."""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread
from collections.abc import Callable, Generator
from contextlib import contextmanager

from agentflow.workers.inline import Worker

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def ending_when_told(worker: Worker, end: Callable[[], object]) -> Generator[None, None, None]:
    """In this block SIGTERM and Ctrl-C call `end`; from the second one on they `hurry` the worker. In the main thread.

    Both in a thread of its own: a handler may interrupt code that holds a lock.
    """
    told = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal told
        start_new_thread(worker.hurry if told else end, ())
        told = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
