"""The program of a worker process: runs one body after the other, and ends with the process that started it."""

from __future__ import annotations

import io
import os
import pickle
import select
import signal
import sys
import threading
from multiprocessing.connection import Connection

from agentflow.engine.away import Line
from agentflow.engine.logs import record_prints
from agentflow.task_runners.messages import BEGUN, BODY, LINE, OUTCOME, TEXT
from agentflow.task_runners.transport import perform

#: Seconds between two looks whether the parent is still there, should the end of the pipe be held by somebody else.
_LOOK = 1.0


#: Closed by the end of this process, so that its parent sees that; not by the end of `main`.
_kept: list[Connection] = []


def main(connection: int, life: int, parent: int) -> None:
    """Serve the process that holds the other ends of both descriptors."""
    threading.Thread(target=_end_with, args=(life, parent), name="agentflow-life", daemon=True).start()
    _kept.append(Connection(connection))
    channel = _Channel(_kept[0])
    record_prints()
    sys.stdout = _Output(channel)
    while (body := channel.receive()) is not None:
        outcome = perform(body, channel.tell, channel.begin)
        sys.stdout.flush()
        channel.send(OUTCOME, outcome)


def _end_with(life: int, parent: int) -> None:
    """Kill this process and what it has started, once its parent is gone."""
    while os.getppid() == parent:
        if select.select([life], [], [], _LOOK)[0]:
            break
    os.killpg(os.getpgrp(), signal.SIGKILL)


class _Channel:
    """The connection to the parent; whole messages, from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def receive(self) -> bytes | None:
        """The next body; None when there will be none."""
        try:
            message = self._connection.recv_bytes()
        except (EOFError, OSError):
            return None
        return message[1:] if message[:1] == BODY else None

    def send(self, kind: bytes, content: bytes) -> None:
        """Tell the parent something."""
        with self._lock:
            self._connection.send_bytes(kind + content)

    def tell(self, line: Line) -> None:
        """Have a line recorded."""
        self.send(LINE, pickle.dumps(line))

    def begin(self) -> None:
        """Say that the body begins."""
        self.send(BEGUN, b"")


class _Output(io.TextIOBase):
    """The standard output of this process: shown by the parent, whose own it may have redirected."""

    encoding = "utf-8"

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._parts: list[str] = []

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self._parts.append(text)
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._parts = "".join(self._parts), []
        if text:
            self._channel.send(TEXT, text.encode(errors="replace"))
