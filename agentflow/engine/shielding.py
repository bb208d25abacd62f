"""Awaiting something to its end although the awaiting task is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from agentflow.errors import Unwinding

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
