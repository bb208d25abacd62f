"""Large values of an async flow are stored and read beside its event loop; read in the order of their readers.

Until a reader has its value, nothing else of the run is delivered: a value that takes long to come keeps its place
among those that other branches get, in every life alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from agentflow.engine.shielding import plainly
from agentflow.payloads.envelopes import Draft, takes_long

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.records import Record
    from agentflow.engine.runtime import Runtime

T = TypeVar("T")


@cache
def carrier() -> ThreadPoolExecutor:
    """The threads on which event loops have large values moved; no commit waits behind one."""
    return ThreadPoolExecutor(4, thread_name_prefix="agentflow-carrier")


def opening_of(run: ActiveRun, record: Record) -> Callable[[], Draft] | None:
    """What opens the value of a record, where that takes long."""
    value = record.row.value
    return None if value is None or not takes_long(value) else partial(run.codec.open, value)


async def stored(run: ActiveRun, value: Any, rt: Runtime) -> tuple[bytes, Any]:
    """What a row holds of a value, and what its reader gets; a large one is stored beside the loop.

    Raises `CodecError` for what cannot be stored, `JournalUnavailable`.
    """
    data, value = run.codec.drafted(value)
    if isinstance(data, Draft):
        data = await plainly(rt.transfer(partial(run.codec.keep, data)))
    return data, value


class Readings:
    """Those of one run that are under way. All methods run on its event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._turn = asyncio.Lock()
        self._then: list[Callable[[], None]] = []

    @property
    def busy(self) -> bool:
        """Whether something is being read."""
        return self._count > 0

    def after(self, then: Callable[[], None]) -> None:
        """Call `then` once nothing is being read any more."""
        self._then.append(then)

    async def read(self, transfer: Callable[[], Awaitable[T]]) -> T:
        """What `transfer`, which may take long, gives; after what was asked for before."""
        self._count += 1
        try:
            async with self._turn:
                return await plainly(transfer())
        finally:
            self._count -= 1
            if not self._count:
                then, self._then = self._then, []
                for call in then:
                    asyncio.get_running_loop().call_soon(call)
