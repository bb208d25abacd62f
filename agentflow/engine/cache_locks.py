"""Serialised isolation: of equal calls at the same time one runs, in whichever run or process; the others wait for it.

A waiting call takes the result as a hit, and runs itself if there is none: the first one failed, or its process died.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from agentflow.engine.logs import run_log
from agentflow.engine.queueing import until
from agentflow.engine.records import Place
from agentflow.engine.runtime import INLINE, running_loop
from agentflow.errors import ColourError
from agentflow.journal.protocol import CacheLock, Journal

if TYPE_CHECKING:
    from agentflow.engine.cached_calls import Lookup
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.step import Call


def check_colour(call: Call, rt: Runtime) -> None:
    """Refuse a call that might have to wait on a thread whose event loop it would block."""
    if rt is INLINE and call.run.loop is not None and running_loop() is call.run.loop:
        message = (
            f"{call.policy.name} is serialised, so it may have to wait for an equal call, and would block this "
            "thread's event loop; call it through `.submit(...)` and await that, or make it an async task"
        )
        raise ColourError(message)


async def lock(call: Call, place: Place, look: Lookup, rt: Runtime) -> CacheLock | None:
    """Wait until nobody else computes the key; then it is this call's (give it back with `unlock`), or there is a hit.

    None, too, where the call must not wait: it is made by the call that computes the key, or that one waits for it.
    """
    run, key = call.run, look.key
    if key is None:
        return None
    around = [body.computes for body in call.frame.enclosing() if body.computes]
    if key in around:
        return None
    step = run.identify(call.frame.stable, place)
    mine = CacheLock(key, run.number, run.epoch, step, around[0] if around else b"")
    try:
        return await _lock(call, look, mine, around, rt)
    except BaseException:
        await unlock(call, mine, rt)
        raise


async def _lock(
    call: Call, look: Lookup, mine: CacheLock, around: list[bytes], rt: Runtime
) -> CacheLock | None:
    run, journal = call.run, call.run.journal
    while True:
        holder = await rt.blocking(partial(journal.lock_key, mine, around))
        run.check(call.frame)
        if holder is None:
            text = f"{call.policy.name} runs beside an equal call that waits, directly or not, for this one's caller"
            run_log(run, text, step=call.policy.name)
            return None
        if holder == mine:
            look.is_locked = True
            look.look()  # somebody may have ended between the first look and the lock
            await look.read(rt)
            return mine
        moves = holder.run != run.number
        await until(call, partial(_is_free, journal, holder), rt, moves=moves)
        look.look()
        await look.read(rt)
        if look.hit is not None:
            if around:
                await unlock(call, mine, rt)
            return None


def _is_free(journal: Journal, holder: CacheLock) -> bool:
    return journal.key_holder(holder.key) != holder


async def unlock(call: Call, lock: CacheLock, rt: Runtime) -> None:
    """Let the next one compute the key."""
    await rt.blocking(partial(call.run.journal.unlock_key, lock))
