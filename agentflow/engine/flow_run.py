"""One life of a run, from the claim to its end, its eviction or its loss."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from agentflow.engine import branches
from agentflow.engine.account import account_of
from agentflow.engine.active import ActiveRun, Tally
from agentflow.engine.attempts import hand_on_now
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.draining import hold
from agentflow.engine.endings import timed_out
from agentflow.engine.futures import unlooked
from agentflow.engine.handing_on import culprits
from agentflow.engine.hooks import running, tell_of_run
from agentflow.engine.limits import enter_run, leave_run
from agentflow.engine.logs import flush_logs, run_log
from agentflow.engine.places import close_places
from agentflow.engine.readings import stored
from agentflow.engine.records import ROOT, attempt_scope
from agentflow.engine.returned import consumed, settled, taken
from agentflow.engine.runtime import INLINE, LOOP, Inline, Loop, Overdue, drive
from agentflow.engine.shielding import Interrupted, note_unwinding
from agentflow.engine.step import Call
from agentflow.engine.step_rows import end_row
from agentflow.engine.transactions import roll_back_below
from agentflow.engine.waiting import waiting_message, waker_of
from agentflow.errors import (
    Cancelling,
    CodecError,
    Fenced,
    NotAwaitedError,
    RunCancelled,
    Stopping,
    Suspended,
    TaskTimeoutError,
    Unwinding,
)
from agentflow.journal.protocol import RunEnd
from agentflow.model.runs import Run
from agentflow.model.states import State, StateType, is_state
from agentflow.model.waits import Wait
from agentflow.payloads.failures import encode_failure

if TYPE_CHECKING:
    from agentflow.engine.policy import StepPolicy


T = TypeVar("T")

_MESSAGE_LIMIT = 500
#: Seconds that cancelled stray tasks have to end.
_STRAY_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one life of a run ended."""

    run_id: str
    state: StateType
    value: Any = None
    error: BaseException | None = None
    tally: Tally = field(default_factory=Tally)
    waiting_for: tuple[Wait, ...] = ()
    #: Recorded side effects that this life never asked for (E5).
    unclaimed: tuple[str, ...] = ()
    #: The state in which the run ended; None where it has not.
    final: State[Any] | None = None
    #: What is still to be recorded of its end, where that is left to whoever drives the life.
    end: RunEnd | None = None

    def as_state(self) -> State[Any]:
        """The state in which the run ended, or waits."""
        return self.final or State(self.state)


@dataclass(slots=True)
class Body:
    """What is to be run: the flow's function with its arguments, and its options."""

    policy: StepPolicy
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_async: bool


def run_blocking(active: ActiveRun, body: Body) -> Outcome:
    """Run a life to its end in this thread. An async flow gets an event loop of its own."""
    if body.is_async:
        return asyncio.run(run_on_loop(active, body))
    return copy_context().run(drive, run_stepwise(active, body, INLINE))


async def run_stepwise(active: ActiveRun, body: Body, rt: Inline) -> Outcome:
    """Run a life of a sync flow in the context and thread of whoever drives this coroutine."""
    waker = waker_of(active.journal)
    waker.add(active)
    try:
        value, error = await _caught(active, body, rt)
        _stop_if_interrupted(active, error)
        for future in list(active.futures) if active.fence is None else ():
            future.wait()
        return await _end(active, value, error, rt)
    finally:
        active.leave()
        waker.remove(active)
        close_places(active)
        leave_run(active)


async def run_on_loop(active: ActiveRun, body: Body) -> Outcome:
    """Run a life of an async flow as a task of the running loop."""
    loop = asyncio.get_running_loop()
    branches.install(loop)
    active.loop = loop
    waker = waker_of(active.journal)
    waker.add(active)
    task = loop.create_task(_caught(active, body, LOOP), context=_without_frame())
    active.tasks.add(task)
    task.add_done_callback(active.tasks.discard)
    interrupted: asyncio.CancelledError | None = None
    try:
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if not task.done():
                    interrupted, active.interrupted = error, True
                    task.cancel()
        value, error = task.result()
        _stop_if_interrupted(active, interrupted or error)
        try:
            await _finish_strays(active)
        except asyncio.CancelledError as late:
            error, active.interrupted = late, True
            _stop_if_interrupted(active, error)
        outcome = await _end(active, value, interrupted or error, LOOP)
        if active.interrupted:
            raise asyncio.CancelledError
        return outcome
    finally:
        active.leave()
        waker.remove(active)
        if active.places:
            await asyncio.to_thread(close_places, active)
        leave_run(active)


def _stop_if_interrupted(active: ActiveRun, error: BaseException | None) -> None:
    """What ends the process (Ctrl-C) ends everything of the run: what its threads and tasks would still begin."""
    if error is None or isinstance(error, (Exception, Unwinding)) or active.fence is not None:
        return
    stopping = Stopping("it was interrupted; it goes on when it is resumed")
    stopping.__cause__ = error  # what its caller gets
    active.stop(stopping)


async def _finish_strays(active: ActiveRun) -> None:
    """Wait for rows on their way and for submitted threads; cancel tasks that the flow started and did not await.

    Side effects among those run to their end, recorded.
    """
    if active.fence is None:
        for future in list(active.futures):
            await future.ended()
    strays = [task for task in active.tasks if not task.done()]
    for task in strays:
        if task not in active.shielded:
            task.cancel()
    if strays:
        await asyncio.wait(strays, timeout=_STRAY_PATIENCE)
    await active.group.drained()


def _without_frame() -> Context:
    context = copy_context()
    context.run(CURRENT.set, None)
    return context


async def _caught(active: ActiveRun, body: Body, rt: Inline | Loop) -> tuple[Any, BaseException | None]:
    """The flow's value or whatever it raised; `_end` tells them apart."""
    active.policy = body.policy
    try:
        return await _attempts(active, body, rt), None
    except BaseException as error:
        active.cut_off = not isinstance(error, Exception)
        return None, error


async def _attempts(active: ActiveRun, body: Body, rt: Inline | Loop) -> Any:
    policy = body.policy
    if active.limits.names:
        await enter_run(active, policy, rt)
    root = active.records.root if active.records is not None else None
    attempt = root.attempts if root is not None else 0
    last = root.details().get("since", 0) + policy.retries if root is not None else policy.retries
    if root is not None and attempt:  # what is left of the delay before this attempt
        await rt.pause(active, max(0.0, root.details().get("due", 0.0) - active.clock()))
    while True:
        frame = Frame(active, None, policy, (ROOT, ROOT, 0), attempt, rt.task())
        frame.t0 = active.options.clock()
        first = active.next_id()
        if active.guarded:
            await hold(active, frame, rt, inline=True)
        active.ending.state, active.ending.attempt = None, attempt
        if policy.hooks is not None:
            await tell_of_run(active, policy, running(attempt), rt)
        token = CURRENT.set(frame)
        if frame.task is None:
            frame.thread = get_ident()
            active.bodies[frame] = None
        try:
            value = await _body(body, frame, rt)
            return await _settle(active, frame, value, rt)
        except Exception as error:
            if active.fence is not None:  # a revoked frame is no reason: it may be what the error says
                active.check(frame)
            ended = active.ending.state
            if attempt >= last or (ended is not None and not ended.is_failed()):
                active.culprits = culprits(error, active.number, frame.scope)
                raise
            await _retry(active, frame, error, attempt, first, last - policy.retries, rt)
            attempt += 1
        finally:
            _forgotten(active)
            CURRENT.reset(token)
            active.bodies.pop(frame, None)


async def _body(body: Body, frame: Frame, rt: Inline | Loop) -> Any:
    try:
        if body.policy.timeout_seconds is not None:
            return await rt.timed(body.policy.timeout_seconds, body.fn, body.args, body.kwargs, frame)
        value = body.fn(*body.args, **body.kwargs)
        return await value if rt.awaits else value
    except Overdue:
        error = TaskTimeoutError(body.policy.name, body.policy.timeout_seconds or 0.0)
        await roll_back_below(frame.run, frame, error, rt)
        frame.run.ending.state = timed_out(error)
        raise error from None


async def _settle(active: ActiveRun, frame: Frame, value: Any, rt: Inline | Loop) -> Any:
    """What must be over before a flow has ended: futures, un-awaited calls; then what its value comes to."""
    active.check(frame)
    value = await consumed(value, rt)
    if active.submitted:
        await rt.join(list(active.futures))
        active.check(frame)
    value = settled(value)
    failure = unlooked(active.futures)
    if failure is not None:
        raise failure
    forgotten = _forgotten(active)
    if forgotten:
        raise NotAwaitedError(forgotten)
    active.ending.state = None
    return taken(value, active.ending, frame.policy.name) if is_state(value) else value


def _forgotten(active: ActiveRun) -> list[str]:
    """The names of calls whose coroutines nobody has started, which are closed."""
    forgotten: list[str] = []
    for call, coroutine in list(active.unstarted.items()):
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            forgotten.append(call.policy.name)
            coroutine.close()
    active.unstarted.clear()
    return forgotten


async def _retry(
    active: ActiveRun, frame: Frame, error: Exception, attempt: int, first: int, since: int, rt: Inline | Loop
) -> None:
    """Record a failed attempt; `since`: the attempt with which the run, that had ended, began to go on."""
    policy = frame.policy
    delay = policy.delay_before(attempt - since + 1, active.options.random())
    guilty = culprits(error, active.number, frame.scope)
    data, _ = encode_failure(active.codec, error)
    call = Call(
        Frame(active, None, policy, frame.place, attempt),
        policy,
        ROOT,
        _nothing,
        (),
        {},
        dict,
        lambda _: ((), {}),
    )
    row = end_row(
        call,
        frame,
        "attempt",
        data,
        {"due": active.options.clock() + delay, "culprits": guilty, "since": since},
        attempt=attempt,
        scope=ROOT,
    )
    await rt.commit(active, [row])
    if guilty:
        hand_on_now(active, frame, attempt_scope(active.identify, ROOT, attempt + 1), guilty, first)
    for future in active.futures:
        future.seen = True  # they belong to the attempt that has failed; the run still ends after them
    run_log(
        active,
        f"{policy.name} failed ({active.codec.shown(error)}); attempt {attempt + 2} follows in {delay:g} s",
    )
    await rt.pause(active, delay)


def _nothing() -> None:
    return


async def _end(active: ActiveRun, value: Any, error: BaseException | None, rt: Inline | Loop) -> Outcome:
    """Record how the life ended, once, and give the run back."""
    if isinstance(error, Unwinding):
        note_unwinding(active, error)
    flush_logs(active)
    await _after_effects(active, rt)
    fence = active.fence
    if isinstance(fence, Suspended):
        return await _suspended(active, rt)
    if isinstance(fence, Cancelling) and not _is_interrupt(error):
        return await _finished(active, StateType.CANCELLED, None, RunCancelled(str(fence)), rt)
    if isinstance(fence, (Cancelling, Stopping)):
        await _give_back(active, rt)
        raise error if isinstance(fence, Cancelling) and error is not None else fence.__cause__ or fence
    if fence is not None:
        if not isinstance(fence, Fenced):
            await _surely(active, lambda: active.journal.release_run(active.run), rt)
        raise fence
    if error is None:
        return await _finished(active, StateType.COMPLETED, value, None, rt)
    if isinstance(error, Exception):
        returned = active.ending.state
        state = StateType.FAILED if returned is None or returned.is_completed() else returned.type
        return await _finished(active, state, None, error, rt)
    await _give_back(active, rt)
    raise error


async def _surely(active: ActiveRun, function: Callable[[], T], rt: Inline | Loop) -> T:
    """What a function that may block gives. Whoever cancels the life meanwhile has that raised after its end."""
    try:
        return await rt.blocking(function)
    except Interrupted as late:
        active.interrupted = True
        return late.outcome.result()


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it ends the process (Ctrl-C)."""
    return error is not None and not isinstance(error, (Exception, Unwinding, asyncio.CancelledError))


async def _give_back(active: ActiveRun, rt: Inline | Loop) -> None:
    """Own the run no longer. If it was asked to stop it has stopped then, unless a transaction is to be undone."""
    stored = await _surely(active, lambda: active.journal.get_run(active.run.id), rt)
    if stored is None or stored.state is not StateType.CANCELLING:
        await _surely(active, lambda: active.journal.release_run(active.run), rt)
    else:
        await _left(active, StateType.RUNNING, "", rt)


async def _after_effects(active: ActiveRun, rt: Inline | Loop) -> None:
    """A run does not end before its side effects do; unless somebody insists (a second Ctrl-C)."""
    try:
        for effect in list(active.effects.values()):
            await rt.over(effect)
    except BaseException:
        active.journal.release_run(active.run)
        raise


async def _finished(
    active: ActiveRun, state: StateType, value: Any, error: BaseException | None, rt: Inline | Loop
) -> Outcome:
    """Record a final state. A result that cannot be stored makes the run fail."""
    data: bytes | None = None
    failure: bytes | None = None
    if error is None:
        try:
            data, value = await stored(active, value, rt)
        except CodecError as broken:
            state, value, error = StateType.FAILED, None, broken
        except asyncio.CancelledError:  # before there was anything to record
            await _give_back(active, rt)
            raise
    ending = active.ending
    if error is not None:
        if state is StateType.CANCELLED and ending.state is not None and not ending.state.is_cancelled():
            ending.state = None  # it was cancelled from outside meanwhile
        failure, error = ending.encoded(active.codec, error)
    if active.codec.pickled:
        flush_logs(active)
    ending.at = active.clock()
    final = ending.of_value(value) if error is None else ending.of_failure(error, state)
    message = final.message[:_MESSAGE_LIMIT]
    if error is not None and active.codec.encrypts:
        message = type(error).__name__  # the rest may hold what is encrypted
    if isinstance(error, RunCancelled) and ending.state is None:
        # who asked and why is all there is to say, whoever writes it down
        final = State(state, message=str(error), data=error)
        message, failure = str(error), None
    end = RunEnd(active.number, active.epoch, state, message, data, failure, account_of(active))
    is_left = active.leaves_end and not (active.claim or active.places)
    if not is_left:
        await _record(active, end, rt)
    await tell_of_run(active, active.policy, final, rt)
    return Outcome(
        active.run.id,
        state,
        value,
        error,
        active.tally,
        unclaimed=_unclaimed(active),
        final=final,
        end=end if is_left else None,
    )


async def _record(active: ActiveRun, end: RunEnd, rt: Inline | Loop) -> None:
    number, epoch, state, message, result, error, account = end
    await _surely(
        active,
        lambda: active.journal.set_state(
            number,
            epoch,
            state,
            message=message,
            result=result,
            error=error,
            release=True,
            account=account,
        ),
        rt,
    )


async def _suspended(active: ActiveRun, rt: Inline | Loop) -> Outcome:
    waits = active.waiting_for()
    left = await _left(active, StateType.PAUSED, waiting_message(waits), rt)
    if left is not None and left.state is StateType.CANCELLED:
        return Outcome(left.id, left.state, None, RunCancelled(left.message), active.tally)
    return Outcome(active.run.id, StateType.PAUSED, None, None, active.tally, tuple(waits))


async def _left(active: ActiveRun, state: StateType, message: str, rt: Inline | Loop) -> Run | None:
    """Give the run back in `state`, or CANCELLED where it was asked to stop meanwhile; returns it as it is then."""

    def leave() -> Run | None:
        active.journal.set_state(
            active.number,
            active.epoch,
            state,
            message=message,
            release=True,
            account=account_of(active),
        )
        return active.journal.get_run(active.run.id)

    left = await _surely(active, leave, rt)
    if left is not None and left.state is StateType.CANCELLED:
        final = State(left.state, message=left.message, data=RunCancelled(left.message))
        await tell_of_run(active, active.policy, final, rt)
    return left


def _unclaimed(active: ActiveRun) -> tuple[str, ...]:
    """Recorded effects that this life never asked for: listed, never dropped silently."""
    records = active.records
    return () if records is None else tuple(record.name for record in records.unclaimed_effects())
