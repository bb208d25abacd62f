"""The end of a process that speaks MCP on its standard input: by a signal, or with its client. Loads no MCP library.

A thread that reads standard input cannot be interrupted, and the interpreter would wait for it: so whoever is told to
end leaves the process for good, once the worker has given its runs back.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

from agentflow.workers.ending import ending_when_told
from agentflow.workers.inline import Worker


@contextmanager
def leaving_when_told(worker: Worker) -> Generator[None, None, None]:
    """Run the server of `worker` in this block; stop the worker after it, or end the process on SIGTERM and SIGINT.

    The worker drains. A second signal does not wait for steps to end, nor does the first one once the client has gone.
    """
    is_served = True

    def leave() -> None:
        if not is_served:
            worker.hurry()
            return
        try:
            worker.stop()
            atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - `os._exit` does not
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(0)  # that was what it was asked for

    with ending_when_told(worker, leave):
        try:
            yield
        finally:
            is_served = False
            worker.stop()
