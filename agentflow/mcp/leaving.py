"""The end of a process that speaks MCP on its standard input: by a signal, or with its client. Loads no MCP library.

A thread that reads standard input cannot be interrupted, and the interpreter would wait for it: so whoever is told to
end leaves the process for good, once the worker has given its runs back.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from _thread import start_new_thread
from collections.abc import Generator
from contextlib import contextmanager, suppress

from agentflow.workers.inline import Worker

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def leaving_when_told(worker: Worker) -> Generator[None, None, None]:
    """Run the server of `worker` in this block; stop the worker after it, or end the process on SIGTERM and SIGINT.

    The worker drains. A second signal does not wait for steps to end, nor does the first one once the client has gone.
    """
    told = False

    def leave() -> None:
        try:
            worker.stop()
            atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - `os._exit` does not
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(0)  # that was what it was asked for

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal told
        start_new_thread(worker.hurry if told else leave, ())
        told = True

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        told = True
        worker.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
