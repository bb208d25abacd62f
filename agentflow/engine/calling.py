"""Calls that need more than their arguments as they are: futures or states among them, `wait_for`, `return_state`.

What a call waits for is never recorded: it is known again on replay, because it comes from recorded steps. So a call
that is not made, because something before it failed, leaves no row that a retry would have to forget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentflow.engine import branches
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.endings import Ending, not_ready
from agentflow.engine.logs import run_log
from agentflow.engine.resolving import Late, check_upstream
from agentflow.engine.returned import settled, taken
from agentflow.engine.runtime import INLINE, LOOP, Runtime, drive, running_loop
from agentflow.engine.step import Call, execute
from agentflow.errors import ColourError, UpstreamFailed
from agentflow.model.states import State, is_state

if TYPE_CHECKING:
    from agentflow.engine.futures import TaskFuture
    from agentflow.engine.policy import StepPolicy

Make = Callable[[Frame, Sequence[Any], Mapping[str, Any]], Call]
#: Keyword arguments of every task and flow, which no function may have itself.
RESERVED = frozenset({"wait_for", "return_state"})


@dataclass(slots=True, eq=False)
class Request:
    """A call as it was asked for. Raises `ParameterError` where it cannot wait for what it is to wait for."""

    policy: StepPolicy
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    #: Makes the call of arguments without futures, in a frame. Raises `ParameterError` where they do not fit.
    make: Make
    #: Binds arguments that are not yet known. Raises `ParameterError` where there are too few or too many.
    bind: Callable[[Sequence[Any], Mapping[str, Any]], Any]
    is_async: bool
    wait_for: Any = None
    return_state: bool = False
    late: Late = field(init=False)
    upstream: Late = field(init=False)

    def __post_init__(self) -> None:
        if self.wait_for is not None:
            check_upstream(self.policy.name, self.wait_for)
        self.late = Late((tuple(self.args), dict(self.kwargs)))
        self.upstream = Late(self.wait_for)

    @property
    def futures(self) -> list[TaskFuture[Any]]:
        """What has to end before the call can be made."""
        return [*self.upstream.futures, *self.late.futures]

    @property
    def is_plain(self) -> bool:
        """Whether it needs nothing more than its arguments."""
        return not self.return_state and self.late.is_plain and not self.upstream.upstream


def taken_out(kwargs: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any, bool]:
    """Keyword arguments without those that are `RESERVED`; ``wait_for``; ``return_state``."""
    if not kwargs or RESERVED.isdisjoint(kwargs):
        return kwargs, None, False
    own = {name: value for name, value in kwargs.items() if name not in RESERVED}
    return own, kwargs.get("wait_for"), bool(kwargs.get("return_state", False))


class Prepared:
    """A call whose place is settled now, although it may have to wait: made at once where its arguments are known."""

    __slots__ = ("_call", "_frame", "_late", "_problem", "request")

    def __init__(self, request: Request, frame: Frame) -> None:
        self.request = request
        self._frame = frame
        self._call: Call | None = None
        self._problem: Exception | None = None
        if request.late.futures:
            request.bind(request.args, request.kwargs)
            frame.run.check(frame)
            self._late = frame.branched(_late_branch(frame, request.policy.name))
            return
        try:
            args, kwargs = request.late.resolve()
        except Exception as error:
            self._problem = error
        else:
            self._call = request.make(frame, args, kwargs)

    @property
    def key(self) -> Any:
        """What stands for it among the calls that nobody has awaited."""
        return self._call or self.request

    def ready(self, *, inline: bool = False) -> Call:
        """The call, once what it waits for has ended; `inline`: in the branch of its caller.

        Raises what keeps it from being made: `UpstreamFailed`, or the exception of an argument that failed.
        """
        request = self.request
        try:
            request.upstream.check(request.policy.name)
        except UpstreamFailed as error:
            run_log(self._frame.run, str(error), step=request.policy.name)
            raise
        if self._problem is not None:
            raise self._problem
        if self._call is not None:
            return self._call
        args, kwargs = request.late.resolve()
        if not inline:
            CURRENT.set(self._late)
        call = request.make(self._frame if inline else self._late, args, kwargs)
        call.own = not inline
        return call


def preparation(request: Request, frame: Frame) -> Callable[[], Call]:
    """What makes a submitted call once it may be made, its place settled now.

    Of a plain one only the call itself is kept: there may be a hundred thousand in a queue.
    """
    if request.is_plain:
        return request.make(frame, request.args, request.kwargs).itself
    return Prepared(request, frame).ready


def call_now(request: Request, frame: Frame) -> Any:
    """Make the call in its caller's branch: its value or state - for an async function, a coroutine of that."""
    prepared = Prepared(request, frame)
    if not request.is_async:
        return drive(_steer(prepared, frame, INLINE))
    coroutine = _steer(prepared, frame, LOOP)
    frame.run.unstarted[prepared.key] = coroutine
    return coroutine


async def _steer(prepared: Prepared, frame: Frame, rt: Runtime) -> Any:
    """Wait for what has to end first, then run the call."""
    run, request = frame.run, prepared.request
    inline = rt.is_inline(frame)
    try:
        futures = request.futures
        if rt is INLINE and running_loop() is not None and not all(future.done() for future in futures):
            message = f"{request.policy.name} would block this thread's event loop; `await` the futures it takes first"
            raise ColourError(message)
        await rt.join(futures)
        if request.late.futures:
            await rt.at_hand(request.late.futures)
        run.check(frame)
        try:
            call = prepared.ready(inline=inline)
        except Exception as error:
            if not request.return_state:
                raise
            return not_ready(error)
        return await (executed(call, rt) if request.return_state else execute(call, rt))
    finally:
        if not inline:
            rt.leave(run)


branches.own_coroutine(_steer)


async def executed(call: Call, rt: Runtime) -> State[Any]:
    """Run a call and give the state in which it ended. What unwinds or interrupts the run is raised all the same."""
    ending = call.noted()
    try:
        value = await execute(call, rt)
    except Exception as error:
        return ending.of_failure(error)
    return ending.of_value(value)


def _late_branch(frame: Frame, name: str) -> bytes:
    """The branch of a call whose arguments are not known yet: named by where and in which order it was submitted."""
    base = frame.run.hasher.digest(b"late|" + name.encode())
    count = frame.kids.get(base, 0)
    frame.kids[base] = count + 1
    return frame.run.hasher.digest(b"%b|%b|%d" % (frame.branch, base, count))


def call_outside(request: Request, fn: Callable[..., Any]) -> Any:
    """Call a function where nothing is recorded: outside of any flow; states and marks mean the same there."""
    coroutine = _outside(request, fn, LOOP if request.is_async else INLINE)
    return coroutine if request.is_async else drive(coroutine)


async def _outside(request: Request, fn: Callable[..., Any], rt: Runtime) -> Any:
    ending = Ending()
    try:
        request.upstream.check(request.policy.name)
        args, kwargs = request.late.resolve()
    except Exception as error:
        if not request.return_state:
            raise
        return not_ready(error)
    try:
        value = fn(*args, **kwargs)
        value = await value if rt.awaits else value
        if not request.return_state:
            return value
        value = settled(value)
        return ending.of_value(taken(value, ending, request.policy.name) if is_state(value) else value)
    except Exception as error:
        if not request.return_state:
            raise
        return ending.of_failure(error)
