"""Waiting for another run to end, wherever it runs: whoever asks blocks, and looks at the journal."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from agentflow.errors import RunNotFoundError
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Run


class Arrival:
    """The end of a run."""

    def __init__(self, journal: Journal, run_id: str, timeout: float | None, look_seconds: float) -> None:
        """`look_seconds`: between two looks, as other processes do not tell when they have committed something."""
        self._journal, self._run_id, self._look = journal, run_id, look_seconds
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def run(self) -> Run:
        """The run as it stands. Raises `RunNotFoundError`."""
        found = self._journal.get_run(self._run_id)
        if found is None:
            raise RunNotFoundError(self._run_id)
        return found

    def _patience(self) -> float:
        if self._deadline is None:
            return self._look
        return min(self._look, self._deadline - time.monotonic())

    def block(self, check: Callable[[], None]) -> Run | None:
        """Block this thread; None after the timeout. `check` is called at each look, and may raise."""
        told = threading.Event()
        undo = self._journal.subscribe(told.set)
        try:
            while not (found := self.run()).state.is_final:
                check()
                patience = self._patience()
                if patience <= 0:
                    return None
                told.wait(patience)
                told.clear()
            return found
        finally:
            undo()

    async def arrive(self, check: Callable[[], None]) -> Run | None:
        """Block this asyncio task; None after the timeout."""
        loop, told = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(told.set)

        undo = self._journal.subscribe(tell)
        try:
            while not (found := self.run()).state.is_final:
                check()
                patience = self._patience()
                if patience <= 0:
                    return None
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await told.wait()
                told.clear()
            return found
        finally:
            undo()
