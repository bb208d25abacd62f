"""The end of a process: what has begun ends, what has not is held, and the run is given back between two steps.

A step that would begin blocks as a durable wait does. Once everything of the run waits it leaves memory, as if evicted;
its owner lets go of it at once, and whoever resumes it finds all that was done recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentflow.engine.runtime import INLINE, running_loop
from agentflow.engine.waiting import Wakeup, waiting_in, waker_of

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.context import Frame
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.submission import Work


async def hold(run: ActiveRun, frame: Frame, rt: Runtime, *, inline: bool, work: Work | None = None) -> None:
    """Let a step of a guarded run begin, or hold it for as long as this process lives; raises what fences the run.

    A side effect that has begun is not held up. Nor is a sync step on a running loop: it would hold up the others.

    Args:
        run: The run.
        frame: Where the step is called.
        rt: How it is run.
        inline: It runs in the thread or task of its caller.
        work: What was submitted, if it was: held, it does not move.
    """
    run.check(frame)
    if not run.draining or frame.in_effect or (rt is INLINE and running_loop() is not None):
        return
    held = Wakeup(run, frame.policy.name)
    with waiting_in(frame, inline=inline):
        run.blocked.held.add(held)
        moves = work is not None and work in run.moving
        run.moving.discard(work)
        waker_of(run.journal).poke()
        try:
            if run.fence is None:
                await rt.park(held)
        finally:
            if moves:
                run.moving.add(work)
            run.blocked.held.discard(held)
    run.check(frame)
