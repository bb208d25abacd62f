"""The branches of a run that are blocked in this process, and what wakes them before what they wait for has come."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from agentflow.engine.context import CURRENT
from agentflow.engine.waiting import Wakeup
from agentflow.errors import Cancelling

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun


class Blocked:
    """The blocked branches of one run. Its methods may be called from any thread."""

    def __init__(self) -> None:
        #: Steps that do not begin, as the process is to end.
        self.held: set[Wakeup] = set()
        #: Branches that only let time pass.
        self._pauses: set[Wakeup] = set()
        #: What wakes a branch; and whether it runs hooks of a transaction, which go on in a cancelled run.
        self._on_stop: dict[Callable[[], None], bool] = {}

    def rouse(self, run: ActiveRun) -> None:
        """Wake whoever may do nothing any more."""
        for wake, compensates in list(self._on_stop.items()):
            if not (compensates and isinstance(run.fence, Cancelling)):
                wake()

    def end_pauses(self) -> None:
        """Let no more time pass: the process is to end."""
        for pause in list(self._pauses):
            pause.wake()

    @contextmanager
    def when_stopped(self, run: ActiveRun, wake: Callable[[], None]) -> Generator[None, None, None]:
        """Have `wake` called, from any thread, as soon as the code in this block may do nothing any more."""
        frame = CURRENT.get()
        self._on_stop[wake] = frame is not None and frame.is_compensating()
        try:
            if run.fence is not None:
                self.rouse(run)
            yield
        finally:
            self._on_stop.pop(wake, None)

    @contextmanager
    def asleep(
        self, run: ActiveRun, *, pauses: bool = False, woken: bool = True
    ) -> Generator[Wakeup, None, None]:
        """What a branch blocks on that waits for something in this process: woken when the run is stopped.

        `pauses`: it only lets time pass, and need not do so in a process that is to end. `woken` False: it waits for
        what has to end first.
        """
        sleeper = Wakeup(run, "")
        with self.when_stopped(run, sleeper.wake) if woken else nullcontext():
            if pauses:
                self._pauses.add(sleeper)
                if run.draining:
                    sleeper.wake()
            try:
                yield sleeper
            finally:
                self._pauses.discard(sleeper)
