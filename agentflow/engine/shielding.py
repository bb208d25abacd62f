"""What interrupts: awaiting something to its end although the awaiting task is cancelled; what stops a whole run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from agentflow.errors import CorruptRecord, Fenced, JournalUnavailable, Suspended, Unwinding

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun

T = TypeVar("T")


async def finish(future: asyncio.Future[T]) -> T:
    """Await `future` to its end even if the awaiting task is cancelled; the cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if future.cancelled():
                raise
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        if future.exception() is not None and isinstance(future.exception(), Unwinding):
            return future.result()
        raise Interrupted(future) from cancelled
    return future.result()


class Interrupted(asyncio.CancelledError):
    """The awaiting task was cancelled while something ran to its end; `outcome` says what became of it."""

    def __init__(self, outcome: asyncio.Future[Any]) -> None:
        super().__init__()
        self.outcome = outcome


async def plainly(awaitable: Awaitable[T]) -> T:
    """Await something, and tell a cancellation meanwhile as Python does: for code of users that waits for it."""
    try:
        return await awaitable
    except Interrupted:
        raise asyncio.CancelledError from None


def note_unwinding(run: ActiveRun, error: BaseException) -> None:
    """What stops a run stops all of it, even where user code swallows the exception.

    An `Interrupted` becomes a plain cancellation: asyncio.timeout knows its own by the exact class, up to 3.11.
    """
    if isinstance(error, Interrupted):
        raise asyncio.CancelledError from None
    if isinstance(error, (CorruptRecord, JournalUnavailable, Fenced)) and not isinstance(
        run.fence, Suspended
    ):
        run.stop(error)
