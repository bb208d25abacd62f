"""Generator flows that are called: the run begins with the first item, and goes on as its consumer asks for more.

A sync one runs in its consumer's thread, as generator tasks do; an async one in a task of its own, like every async
flow, from which the items are handed over one at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.endings import timed_out
from agentflow.engine.flow_run import Body, run_stepwise
from agentflow.engine.generators import STEPWISE, Items
from agentflow.engine.runtime import LOOP, Overdue, running_loop
from agentflow.engine.streams import CLOSE, AsyncStream, Course, Emit, Push, SyncStream
from agentflow.engine.termination import live_on_loop
from agentflow.errors import TaskTimeoutError
from agentflow.payloads.codec import KEPT

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.runtime import Runtime


def flow_stream(begin: Callable[[], ActiveRun], body: Body) -> Any:
    """The iterator over what a flow yields. `begin` makes its run, when the first item is asked for.

    The run's result is the list of the items, also of those before its consumer closed it.
    """
    return AsyncStream(_Relay(begin, body)) if body.is_async else SyncStream(_sync_course(begin, body))


def _whole(items: Items, body: Body, rt: Runtime) -> Body:
    """A body that runs on item by item and gives all of them in the end."""

    async def whole(*args: Any, **kwargs: Any) -> list[Any] | None:
        run = cast("Frame", CURRENT.get()).run
        try:
            await items.run(rt, *args, **kwargs)
        except Overdue:
            error = TaskTimeoutError(items.name, items.seconds or 0.0)
            run.ending.state = timed_out(error)
            raise error from None
        if items.kept is None:
            return None
        joined = items.joined()
        if KEPT in joined:  # some are read from where they are kept
            return await rt.read(run, partial(run.codec.decode, joined))
        return run.codec.decode(joined)

    return replace(body, fn=whole, policy=replace(body.policy, timeout_seconds=None))


def _sync_course(begin: Callable[[], ActiveRun], body: Body) -> Course:
    policy = body.policy
    items = Items(body.fn, Emit, policy.name, policy.timeout_seconds, is_async=False)

    async def live() -> Any:
        outcome = await run_stepwise(begin(), _whole(items, body, STEPWISE), STEPWISE)
        if outcome.error is not None:
            raise outcome.error
        return items.returned

    def abandon(course: Course) -> None:
        if items.source is not None:
            course.in_context(items.source.close)
        try:  # the garbage collector may strike anywhere: no moment to write to the journal
            threading.Thread(target=course.finish, name="agentflow-closing", daemon=True).start()
        except RuntimeError:  # the interpreter ends
            course.drop()

    return Course(policy.name, live, abandon, set())


class _Relay:
    """What `AsyncStream` needs of a flow whose life runs in a task of its own."""

    def __init__(self, begin: Callable[[], ActiveRun], body: Body) -> None:
        policy = body.policy
        items = Items(body.fn, self._emit, policy.name, policy.timeout_seconds, is_async=True)
        self._begin, self._body = begin, _whole(items, body, LOOP)
        self.name = policy.name
        self.over = self.asked = self.cut = False
        self._task: asyncio.Task[Any] | None = None
        self._offer: asyncio.Future[Any]
        self._push: asyncio.Future[Push]

    @property
    def started(self) -> bool:
        """Whether an item has been asked for."""
        return self._task is not None

    def is_idle(self) -> bool:
        """Whether there is nothing to close."""
        self.over = self.over or not self.started
        return self.over

    def refuse(self) -> None:
        """Nothing refuses: the run lives as long as it is consumed."""

    async def advance(self, push: Push) -> Any:
        """The next item."""
        loop = asyncio.get_running_loop()
        self._offer = loop.create_future()
        if self._task is None:
            self._task = loop.create_task(self._live())
        else:
            self._push.set_result(push)
        task = self._task
        try:
            await asyncio.wait({self._offer, task}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.over = True
            task.cancel()
            await asyncio.wait({task})
            raise
        if self._offer.done():
            return self._offer.result()
        self.over = True
        task.result()
        raise StopAsyncIteration

    async def _live(self) -> None:
        outcome = await live_on_loop(self._begin(), self._body)
        if outcome.error is not None:
            raise outcome.error

    async def _emit(self, item: Any) -> Push:
        self._push = asyncio.get_running_loop().create_future()
        self._offer.set_result(item)
        return await self._push

    def abandoned(self) -> None:
        """Nobody can ask for another item."""
        if self._task is None or self.over or self.asked:
            return
        self.over = True
        loop, close = self._task.get_loop(), partial(_close, self._push)
        if running_loop() is loop:
            close()
        elif not loop.is_closed():
            with suppress(RuntimeError):  # it is closed meanwhile
                loop.call_soon_threadsafe(close)


def _close(push: asyncio.Future[Push]) -> None:
    if not push.done():
        push.set_result(CLOSE)
