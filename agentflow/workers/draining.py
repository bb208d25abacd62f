"""SIGTERM, for a process that runs one life of a run in its main thread: the life drains, and is cut off in the end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

from agentflow.engine.active import ActiveRun
from agentflow.engine.waiting import waker_of
from agentflow.errors import Stopping

#: Seconds that the code of a flow has to end after it was interrupted, in a process that ends whatever it does.
_LAST_MOMENT = 2.0
_INTERRUPTED = 130


class EndOfProcess:
    """That this process was told to end. Can be told from any thread, and from a signal's handler."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self.is_told = False

    def tell(self) -> None:
        """Tell it."""
        self.is_told = True
        self.wake()

    def wake(self) -> None:
        """Let `wait` return."""
        os.write(
            self._writer, b"."
        )  # an event's lock might be held by the very code that a handler interrupts

    def wait(self) -> None:
        """Wait until it was told."""
        os.read(self._reader, 1)

    def close(self) -> None:
        """Let go of its pipe."""
        os.close(self._reader)
        os.close(self._writer)


@contextmanager
def draining(active: ActiveRun, end: EndOfProcess, *, exits: bool = False) -> Generator[None, None, None]:
    """While this block runs the life: on SIGTERM (or `end`) steps that have begun may end, and no more begin.

    After ``drain_patience``, or where the run was cancelled, or at a second SIGTERM, KeyboardInterrupt is raised in the
    main thread. `exits`: code that goes on after that ends with the process.
    """
    over = threading.Event()
    patience = active.options.settings.drain_patience

    def watch() -> None:
        end.wait()
        if over.is_set():
            return
        stopped = active.fence is not None
        active.drain()
        waker_of(active.journal).poke()
        if over.wait(0.0 if stopped else patience):
            return
        active.stop(Stopping("its process was told to end; it goes on when it is resumed"))
        _interrupt()
        if exits and not over.wait(_LAST_MOMENT):
            os._exit(_INTERRUPTED)  # its lock is free then, and what had not ended is begun again

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if end.is_told:
            raise KeyboardInterrupt
        end.tell()

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, on_signal) if is_main else None
    watcher = threading.Thread(target=watch, name="agentflow-drain", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        end.wake()
        if is_main:
            signal.signal(signal.SIGTERM, cast("Any", before))


def _interrupt() -> None:
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)
