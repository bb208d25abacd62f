"""Generators as steps: their items reach the consumer as they are produced, and are recorded when the body has ended.

A finished one gives its items again without running; one that its consumer closed gives those that it gave; one that
was under way when the process died runs again from its beginning. The iterators are in `agentflow.engine.streams`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextvars import Context
from dataclasses import replace
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

import orjson

from agentflow.engine.attempts import annotate, run_attempts, watched
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.logs import run_log
from agentflow.engine.readings import stored
from agentflow.engine.runtime import LOOP, Inline, running_loop
from agentflow.engine.step import Call, decoded, detach, find, note_unwinding, recall
from agentflow.engine.streams import CLOSE, START, AsyncStream, Course, Emit, Push, Stretch, SyncStream
from agentflow.engine.tags import TAGS
from agentflow.errors import ColourError, CorruptRecord, ParameterError, Unwinding
from agentflow.payloads.codec import KEPT, as_part, kept_part
from agentflow.payloads.envelopes import Draft, takes_long

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.calling import Request
    from agentflow.engine.futures import TaskFuture
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.records import Place, Record
    from agentflow.engine.runtime import Runtime


#: (whether in its caller's branch) -> the call.
Make = Callable[[bool], Call]


class _Stepwise(Inline):
    """The consumer's own thread, in which the engine's coroutine stops at each item."""

    awaits = True


#: The blocking runtime, for coroutines that stop at items.
STEPWISE = _Stepwise()


def stream_of(
    frame: Frame,
    policy: StepPolicy,
    make: Make,
    wait_for: Sequence[TaskFuture[Any]] = (),
    *,
    is_async: bool,
) -> Any:
    """The iterator over what a call of a generator yields.

    `make` makes the call, once the futures of `wait_for` have ended; it is told whether that is in its caller's branch.
    """
    streaming = _Streaming(frame, policy, make, wait_for, is_async=is_async)
    return AsyncStream(streaming.course) if is_async else SyncStream(streaming.course)


def refuse_state(request: Request) -> None:
    """Raise `ParameterError` where the state of a generator is asked for before its items are."""
    if request.return_state:
        message = (
            f"{request.policy.name} yields items: it has no state before they are consumed; call it without "
            "return_state, or submit it, which consumes them"
        )
        raise ParameterError(message)


def gathering(function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
    """A generator function as one that returns the list of its items."""

    def gather(*args: Any, **kwargs: Any) -> list[Any]:
        return list(function(*args, **kwargs))

    async def gather_async(*args: Any, **kwargs: Any) -> list[Any]:
        return [item async for item in function(*args, **kwargs)]

    return gather_async if is_async else gather


class Items:
    """The body of a generator, run on item by item for whoever takes them, and what is recorded of the items."""

    def __init__(
        self,
        function: Callable[..., Any] | None,
        emit: Callable[[Any], Any],
        name: str,
        seconds: float | None,
        *,
        is_async: bool,
    ) -> None:
        self.function, self._emit, self.is_async = function, emit, is_async
        self.name, self.seconds = name, seconds
        #: The encoded items so far; None = they are not recorded.
        self.kept: list[bytes] | None = []
        #: How many have been handed out.
        self.count = 0
        #: So many are not handed out again.
        self.skip = 0
        self.returned: Any = None
        self.closed = False
        #: How many had been handed out before its first side effect.
        self.effect_at: int | None = None
        self.source: Any = None

    async def run(self, rt: Runtime, *args: Any, **kwargs: Any) -> None:
        """One attempt of the body."""
        child = cast("Frame", CURRENT.get())
        source = self.source = cast("Callable[..., Any]", self.function)(*args, **kwargs)
        left, push = self.seconds, START
        while True:
            begun = time.monotonic()
            done, item = await self._run_on(source, push, left, child, rt)
            if left is not None:
                left = max(0.0, left - (time.monotonic() - begun))
            if child.counted and self.effect_at is None:
                self.effect_at = self.count
            if done:
                self.returned = item
                return
            push = await self._hand_over(item, child, rt)
            if push.how == "close":
                self.closed = True
                await self._close(source)
                return

    async def _run_on(
        self, source: Any, push: Push, left: float | None, child: Frame, rt: Runtime
    ) -> tuple[bool, Any]:
        resume: Callable[[Any, Push], Any] = _resume_async if self.is_async else _resume
        if left is None:
            stop: Any = resume(source, push)
            return await stop if self.is_async else stop
        return await rt.timed(left, resume, (source, push), {}, child)

    async def _hand_over(self, item: Any, child: Frame, rt: Runtime) -> Push:
        run = child.run
        item = await self._keep(item, child, rt)
        self.count += 1
        if self.count <= self.skip:
            return START
        call = run.bodies.pop(child, None)  # it rests: nothing of it moves until its consumer asks for more
        run.resting.add(child)
        try:
            push: Push = await self._emit(item)
        except GeneratorExit:  # the run has ended
            if not self.is_async:
                self.source.close()
            raise
        finally:
            run.resting.discard(child)
        run.bodies[child] = call
        child.task = rt.task()
        child.thread = 0 if child.task is not None else get_ident()
        if push.how != "close":
            run.check(child)
        return push

    async def _keep(self, item: Any, child: Frame, rt: Runtime) -> Any:
        if self.kept is None:
            return item
        if isinstance(item, (Generator, AsyncGenerator)):
            self.kept = None
            text = f"{self.name} yields generators, so its items cannot be recorded; on resume it runs again"
            run_log(child.run, text, step=self.name)
            return cast("Any", item)
        data, item = await stored(child.run, item, rt)
        self.kept.append(as_part(data))
        return item

    async def _close(self, source: Any) -> None:
        if self.is_async:
            await source.aclose()
        else:
            source.close()

    def joined(self) -> bytes:
        """The items so far as one encoded list."""
        return b"[" + b",".join(self.kept or ()) + b"]"


class _Streaming:
    """One call of a generator task or sub-flow."""

    def __init__(
        self,
        frame: Frame,
        policy: StepPolicy,
        make: Make,
        wait_for: Sequence[TaskFuture[Any]],
        *,
        is_async: bool,
    ) -> None:
        self._frame, self._make, self._wait_for = frame, make, wait_for
        self._rt: Runtime = LOOP if is_async else STEPWISE
        self._items = Items(None, Emit, policy.name, policy.timeout_seconds, is_async=is_async)
        if not policy.persist_result:
            self._items.kept = None
        self._call: Call
        self._notes: dict[str, Any] = {}
        abandon = self._abandoned_async if is_async else self._abandoned
        self.course = Course(policy.name, self._run, abandon, frame.run.courses)
        self.course.ended = lambda: frame.run.fence is not None

    async def _made(self) -> Call:
        """The call, once what it waits for has ended."""
        frame, rt = self._frame, self._rt
        run = frame.run
        would_block = not self._items.is_async and running_loop() is not None
        if would_block and not all(future.done() for future in self._wait_for):
            message = (
                f"{self._items.name} would block this thread's event loop; `await` the futures it takes first"
            )
            raise ColourError(message)
        await rt.join(self._wait_for)
        run.check(frame)
        inline = rt.is_inline(frame)
        call = self._call = self._make(inline)
        if not inline and not call.own:
            detach(call, rt)
        self._items.function = call.fn
        call.policy = replace(call.policy, timeout_seconds=None)  # the body has the limit, not its consumer
        call.fn, call.pack, call.lazy, call.limit = self._body, self._pack, True, self._items.seconds
        return call

    async def _run(self) -> Any:
        """Find the call's record and give its items, or run the body."""
        run = self._frame.run
        try:
            call = await self._made()
            if call.policy.tags:  # in the context of this call alone
                TAGS.set(TAGS.get() | call.policy.tags)
            place = call.place()
            record = find(call, place)
            place = place if record is None else record.place
            if record is not None and record.end and call.policy.persist_result:
                return await self._replay(record, place)
            annotate(call, record)
            self._notes = dict(call.notes)
            earlier = None if record is None else record.details().get("items")
            if earlier and await self._again(earlier, None) is CLOSE:
                return None
            return await self._live(place, record)
        except Unwinding as error:
            note_unwinding(run, error)
            raise

    async def _live(self, place: Place, record: Record | None) -> Any:
        call, rt = self._call, self._rt
        await watched(call, partial(run_attempts, call, place, record, None, rt), rt)
        return self._items.returned

    async def _body(self, *args: Any, **kwargs: Any) -> None:
        items, call = self._items, self._call
        cast("Frame", CURRENT.get()).notes = self._notes
        try:
            await items.run(self._rt, *args, **kwargs)
        except Exception:
            if items.closed:
                call.policy = replace(call.policy, retries=0)  # nobody is there for another attempt
            call.notes = {**self._notes, **self._effect(), "items": orjson.Fragment(items.joined())}
            raise
        if items.kept is None:
            call.policy = replace(call.policy, persist_result=False)
            return
        told: dict[str, Any] = {}
        if items.returned is not None:
            data, items.returned = await stored(call.run, items.returned, self._rt)
            told["returned"] = orjson.Fragment(as_part(data))
        if items.closed:
            told["closed"] = len(items.kept)
        call.notes = {**self._notes, **self._effect(), **told}

    def _effect(self) -> dict[str, Any]:
        at = self._items.effect_at
        return {} if at is None else {"effect_at": at}

    def _pack(self, value: None) -> tuple[bytes | Draft, None]:
        """The recorded form of the body's end."""
        joined = self._items.joined()
        # what the store is kept by must be found in the row itself, and such items are encrypted already
        return joined if KEPT in joined else self._call.run.codec.at_once(Draft(joined)), value

    # -- what is recorded
    async def _replay(self, record: Record, place: Place) -> Any:
        call, run, details = self._call, self._call.run, record.details()
        given = record.event == "completed"
        parts: list[Any] = orjson.loads(await self._text(record)) if given else details.get("items", [])
        push = await self._again(parts, record)
        if push is not CLOSE and "closed" in details:
            run_log(run, f"{call.policy.name} was closed after {len(parts)} items; now more are asked for")
            self._items.skip, self._items.kept, self._items.count = len(parts), [], 0
            annotate(call, record)
            self._notes = dict(call.notes)
            return await self._live(place, record)
        await self._rt.deliver(run, record, opens=False)
        run.check(call.frame)
        if not given:
            recall(run, record, call.frame.scope)
        run.tally.reused += 1
        returned = details.get("returned")
        return None if returned is None or push is CLOSE else decoded(run, orjson.dumps(returned))

    async def _text(self, record: Record) -> bytes:
        """The recorded items; what cannot be read stops the run."""
        run, data = self._call.run, record.value or b"[]"
        try:
            if takes_long(data):
                return await self._rt.read(run, partial(run.codec.text, data))
            return run.codec.text(data)
        except CorruptRecord as error:
            note_unwinding(run, error)
            raise

    async def _item(self, data: bytes) -> Any:
        """A recorded item; what cannot be read stops the run."""
        run, kept = self._call.run, kept_part(data)
        if kept is None or not takes_long(kept):
            return decoded(run, data)
        try:
            return run.codec.read(await self._rt.read(run, partial(run.codec.open, kept)))
        except CorruptRecord as error:
            note_unwinding(run, error)
            raise

    async def _again(self, parts: list[Any], record: Record | None) -> Push:
        """Hand recorded items out; a side effect below counts where it counted before."""
        call, run, items = self._call, self._call.run, self._items
        at = -1 if record is None or not record.effect else record.details().get("effect_at", 0)
        push = START
        for index, part in enumerate(parts):
            if index == at and record is not None:
                call.frame.count_effect(record.place)
            data = orjson.dumps(part)
            if items.kept is not None:
                items.kept.append(data)
            items.count += 1
            push = await Emit(await self._item(data))
            if push.how == "close":
                return CLOSE
            run.check(call.frame)
        if at >= len(parts) and record is not None:
            call.frame.count_effect(record.place)
        return push

    # -- nobody asks for more
    def _abandoned(self, course: Course) -> None:
        """Python's own generators end here. This may be anywhere, so the row is written with the next step."""
        run, source = self._frame.run, self._items.source
        course.over = True
        if run.fence is None and source is not None:
            course.in_context(source.close)
        if run.fence is not None:
            course.drop()
        else:
            course.over = False
            run.abandon(course)

    def _abandoned_async(self, course: Course) -> None:
        run, loop = self._frame.run, course.loop
        if loop is None or loop.is_closed() or run.fence is not None:
            course.drop()
            return

        def close() -> None:
            task = loop.create_task(_close(course, run), context=Context())
            run.tasks.add(task)
            run.shielded.add(task)
            task.add_done_callback(run.tasks.discard)

        if running_loop() is loop:
            close()
        else:
            loop.call_soon_threadsafe(close)


async def _close(course: Course, run: ActiveRun) -> None:
    if run.cut_off:  # nobody has left it: it was under way when the process was told to stop
        course.drop()
        return
    try:
        await Stretch(course, CLOSE)
    except (Exception, Unwinding):  # how it ended is in the journal
        return


def _resume(source: Any, push: Push) -> tuple[bool, Any]:
    try:
        return False, source.send(push.value) if push.how == "send" else source.throw(push.value)
    except StopIteration as stop:
        return True, stop.value


async def _resume_async(source: Any, push: Push) -> tuple[bool, Any]:
    try:
        return False, await (source.asend(push.value) if push.how == "send" else source.athrow(push.value))
    except StopAsyncIteration:
        return True, None
