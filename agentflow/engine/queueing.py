"""Hot waits for what somebody else of this journal holds: nothing is recorded of them, a resumed run waits anew.

For waits that outlive the process see `agentflow.engine.waiting`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentflow.engine.seats import lent
from agentflow.engine.waiting import waiting_in, waker_of
from agentflow.errors import Unwinding

if TYPE_CHECKING:
    from agentflow.engine.context import Frame
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.step import Call


class Queued:
    """A branch that waits until something is free; the journal's waker looks for it."""

    def __init__(self, frame: Frame, is_free: Callable[[], bool]) -> None:
        self._frame, self._is_free = frame, is_free
        #: Ends when the branch is to go on.
        self.over: Future[None] = Future()

    def look(self) -> None:
        """Let the branch go on if what it waits for is free, or if it may do nothing any more."""
        try:
            may_go_on(self._frame)
            if not self._is_free():
                return
        except Unwinding:
            pass
        self.release()

    def release(self) -> None:
        """Let the branch go on."""
        if not self.over.done():
            self.over.set_result(None)


async def until(call: Call, is_free: Callable[[], bool], rt: Runtime, *, moves: bool) -> None:
    """Block a call until `is_free`, as seen after a commit here or with the next poll; raises what fences the run.

    `moves`: others than this run bring it about, so the run is not quiet meanwhile.
    """
    run, frame = call.run, call.frame
    queued = Queued(frame, is_free)
    run.queued.add(queued)
    try:
        with _waiting(call, moves=moves):
            waker_of(run.journal).poke()
            await rt.over(queued.over)
    finally:
        run.queued.discard(queued)
        queued.release()
    may_go_on(frame)


def may_go_on(frame: Frame) -> None:
    """Raise what forbids a new step in `frame`."""
    run = frame.run
    run.check(frame)
    if run.guarded:
        run.admit(frame)


@contextmanager
def _waiting(call: Call, *, moves: bool) -> Generator[None, None, None]:
    """Places that the call and those around it have among others are free meanwhile."""
    run, lane = call.run, call.lane
    with run.lock:
        run.waits_for_others += moves
    if lane is not None:
        lane.lend()
    try:
        with lent(), waiting_in(call.frame, inline=not call.own):
            yield
    finally:
        if lane is not None:
            lane.take_back()
        with run.lock:
            run.waits_for_others -= moves
