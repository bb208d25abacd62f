"""One call as a step: found in the journal or executed, recorded before its value reaches the caller.

`execute` is the engine of both colours: a coroutine over a `Runtime`. For options see `agentflow.engine.attempts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from agentflow.engine.active import ActiveRun
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.draining import hold
from agentflow.engine.endings import LOOKED_AT, Ending, may_say_more
from agentflow.engine.handing_on import failure_detail, record_failure
from agentflow.engine.records import Place, Record, Scope
from agentflow.engine.runtime import INLINE, Extras, drive
from agentflow.engine.shielding import Interrupted, note_unwinding
from agentflow.engine.staging import stage
from agentflow.engine.step_rows import end_row, failure_bytes, start_rows
from agentflow.engine.tags import TAGS, step_tags
from agentflow.errors import (
    CorruptRecord,
    MissingContextError,
    Unwinding,
)
from agentflow.model.states import is_state
from agentflow.model.steps import StepKind, StepRow
from agentflow.payloads.envelopes import TEXT, Draft
from agentflow.payloads.failures import decode_failure

if TYPE_CHECKING:
    from agentflow.engine.delivery import Leaving
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.submission import Lane, Work


#: A value of more bytes than this is held by its row, not by the future of the call.
LARGE = 1024
_RAW_THREAD = (
    "{} is a side effect, and this thread was made by hand: it is no branch of the flow, so the effect could not be "
    "found again; use task.submit"
)


class Call:
    """A call of a step, as it was made: its place is settled now, whenever it is awaited."""

    #: Keys it had under earlier names.
    aliases: tuple[bytes, ...] = ()
    #: It was handed to a thread or an asyncio task of its own, so it is a branch of its own.
    own: bool = False
    #: Where it has a place while it runs.
    lane: Lane | None = None
    #: Branches that have ended when what is recorded of it is delivered.
    leaving: Leaving | None = None
    #: What was submitted, if it was.
    work: Work | None = None
    #: The row that holds its value, where that is a large one.
    stored: int = 0
    #: How often it, a side effect, was refused before.
    refusals: int = 0
    #: Waits whose answers the next row takes.
    answered: tuple[str, ...] = ()
    #: The value of its body to how it is stored, where that is not the codec's business.
    pack: Callable[[Any], tuple[bytes | Draft, Any]] | None = None
    #: Seconds that its body has, where that is not the business of whoever runs it.
    limit: float | None = None
    #: Its arguments do not fit: it ends in the moment in which it begins.
    refused: bool = False
    #: Its body is run on item by item, by whoever consumes them.
    lazy: bool = False
    #: What its rows say beside what their events say: how people see it, its tags.
    notes: Mapping[str, Any] = MappingProxyType({})
    #: The last row that was written, or found, of it.
    last: StepRow | None = None
    #: Its state is asked for, or says more than its value.
    ending: Ending | None = None
    #: Bound arguments to what people are shown of them.
    flat: Callable[[dict[str, Any]], dict[str, Any]] = dict

    def __init__(
        self,
        frame: Frame,
        policy: StepPolicy,
        key: bytes,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        arguments: Callable[[], dict[str, Any]],
        rebind: Callable[[dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]],
    ) -> None:
        self.frame, self.policy, self.key = frame, policy, key
        self.fn, self.args, self.kwargs = fn, args, kwargs
        #: The bound arguments by name, for people and cache keys.
        self.arguments = arguments
        #: Arguments by name to how the function is called with them.
        self.rebind = rebind
        run = self.run = frame.run
        if run.guarded:
            run.check(frame)
        self.occurrence = count = frame.occurrences.get(key, 0)
        frame.occurrences[key] = count + 1
        self.effects = frame.effects

    def noted(self) -> Ending:
        """Where its state is noted, from now on."""
        if self.ending is None:
            self.ending = Ending()
        return self.ending

    def itself(self) -> Call:
        """The call: for whoever may have to make one."""
        return self

    def place(self) -> Place:
        """Where the call stands in its scope."""
        place = (self.key, self.frame.branch, self.occurrence)
        return (self.key, self.own_branch(place), self.occurrence) if self.own else place

    def own_branch(self, place: Place) -> bytes:
        """The branch of a call that its caller's branch handed to a thread or task of its own."""
        key, _, occurrence = place
        return self.run.hasher.digest(b"own|%b|%b|%d" % (self.frame.branch, key, occurrence))


def find(call: Call, place: Place) -> Record | None:
    """The record of a call, claimed; None where it is new. Raises what forbids anything new, where it has not ended."""
    record = None if call.run.records is None else recorded(call, place)
    if call.run.guarded and (record is None or not record.end):
        call.run.admit(call.frame)
    return record


def recorded(call: Call, place: Place) -> Record | None:
    """The record of a call, claimed; None where it is new."""
    run, frame = call.run, call.frame
    if run.records is None:
        return None
    scope = frame.stable_records() if call.policy.side_effect else frame.records()
    if scope is None:
        return None
    record = scope.index.get(place)
    if record is not None and not scope.repeats and not record.claimed:
        record.claimed = Record.ASKED
        return record
    if record is None and call.aliases:
        record = _renamed(call, scope, place)
    if record is not None and not call.policy.side_effect and record.effects != call.effects:
        key, branch, _ = place
        if (
            key,
            branch,
        ) in scope.repeats:  # equal calls around an effect: only the one with as many effects before it
            record = next(
                (
                    other
                    for other in list(scope.index.values())
                    if other.place[:2] == (key, branch)
                    and other.effects == call.effects
                    and not other.claimed
                ),
                None,
            )
    if record is None and run.changed and not call.policy.side_effect:
        record = scope.elsewhere(place)
        if record is not None:
            run.tally.adopted.append(record.name)
            run.tally.moved.append((record.seq, "branch"))
    if record is not None and not record.claimed:
        record.claimed = Record.ASKED
    return record


def foreseen(call: Call, rt: Runtime) -> Any:
    """The recorded value of a step that is going to be executed in this thread or task; None where it is new."""
    frame = call.frame
    if not call.own and not rt.is_inline(frame):
        detach(call, rt)
    records = frame.records()
    record = None if records is None else records.index.get(call.place())
    if record is None or record.claimed or record.event != "completed" or record.value is None:
        return None
    return decoded(call.run, record.value)


def _renamed(call: Call, scope: Scope, place: Place) -> Record | None:
    """The record of the call under an earlier name of its task."""
    for alias in call.aliases:
        branch = call.own_branch((alias, *place[1:])) if call.own else place[1]
        record = scope.index.get((alias, branch, place[2]))
        if record is not None:
            call.run.tally.moved.append((record.seq, "name"))
            return record
    return None


def recall(run: ActiveRun, record: Record, scope: bytes, opened: Draft | None = None) -> Any:
    """The recorded outcome, for a caller in `scope`: its value, or its exception raised.

    `opened`: what the row holds, where that has been opened already.
    """
    value = record.row.value
    run.tally.reused += 1
    try:
        if record.event in {"completed", "cached"}:
            if opened is not None:
                return run.codec.read(opened)
            return None if value is None else run.codec.decode(value)
        if value is None:
            message = f"the recorded failure of {record.name} has no exception"
            raise CorruptRecord(message)
        error = decode_failure(run.codec, value)
    except CorruptRecord as unreadable:
        note_unwinding(run, unreadable)
        raise
    record_failure(error, record.row.id, scope)
    raise error


def hit(frame: Frame, key: bytes) -> bytes | None:
    """The recorded value of a plain sync call, where nothing stands in the way of returning it; counts the call."""
    records = frame.records()
    if records is None or records.repeats or frame.run.guarded:
        return None
    if not INLINE.is_inline(frame):
        return None
    count = frame.occurrences.get(key, 0)
    record = records.index.get((key, frame.branch, count))
    if record is None or record.claimed or record.row[1] != "completed" or record.effect:
        return None
    frame.occurrences[key], record.claimed = count + 1, Record.DELIVERED
    frame.run.tally.reused += 1
    return record.row[14]


def decoded(run: ActiveRun, data: bytes) -> Any:
    """A recorded value; one that cannot be read stops the run, whatever the user's code makes of that."""
    try:
        return run.codec.decode(data)
    except CorruptRecord as error:
        note_unwinding(run, error)
        raise


def execute_now(call: Call) -> Any:
    """Run the call in this thread."""
    return drive(execute(call, INLINE))


async def execute(call: Call, rt: Runtime) -> Any:
    """Find the call's record or run it. The one engine of both colours."""
    run, frame, policy = call.run, call.frame, call.policy
    if run.unstarted:
        run.unstarted.pop(call, None)
    if not call.own and not rt.is_inline(frame):
        detach(call, rt)
    try:
        if run.guarded:
            run.check_call(frame)
            await hold(run, frame, rt, inline=not call.own, work=call.work)
        place = call.place() if call.own else (call.key, frame.branch, call.occurrence)
        if not policy.plain or (run.tag_limits and _is_limited(call)):
            return await _full(call, place, rt)
        record = None if run.records is None else find(call, place)
        if record is not None and record.end:
            return await replay(call, record, rt)
        child = body_frame(call, place if record is None else record.place, record)
        try:
            data, value = run.codec.drafted(await run_body(call, child, rt))
        except Exception as error:
            run.check(frame)
            raise (await record_error(call, child, error, rt)) from error.__cause__
        await record_value(call, child, data, value, rt)
    except (Unwinding, Interrupted) as error:
        note_unwinding(run, error)
        raise
    else:
        return value
    finally:
        if call.own:
            rt.leave(run)


def detach(call: Call, rt: Runtime) -> None:
    """Make the call a branch of its own. Raises `MissingContextError` for a side effect in a thread made by hand."""
    call.own = True
    if call.policy.side_effect and rt is INLINE and call.frame.task is None:
        raise MissingContextError(_RAW_THREAD.format(call.policy.name))


async def replay(call: Call, record: Record, rt: Runtime) -> Any:
    """Deliver what was recorded, when it is its turn."""
    if record.effect:
        call.frame.count_effect(record.place)
    call.last = record.row
    opened = await rt.deliver(call.run, record, leaving=call.leaving)
    if call.run.guarded:
        call.run.check(call.frame)
    if record.value is not None and (len(record.value) > LARGE or record.value[0] < TEXT):
        call.stored = record.row.id
    if call.ending is not None:
        call.ending.recall(call.run.codec, record)
    return recall(call.run, record, call.frame.scope, opened)


async def record_value(call: Call, child: Frame, data: bytes | Draft, value: Any, rt: Runtime) -> None:
    """Commit a plain step's value."""
    run, frame, policy = call.run, call.frame, call.policy
    if isinstance(data, Draft):
        data = await rt.transfer(partial(run.codec.keep, data))
    if run.records is not None:
        await rt.settled(run)
    if run.guarded:
        run.check(frame)
    run.tally.executed += 1
    rows = [] if frame.root.started else start_rows(frame)
    row_id = run.next_id()
    key, branch, occurrence = child.place
    ended_at = run.clock()
    ending = call.ending
    if ending is not None:
        ending.at = ended_at
    said_all = policy.detail is None and ending is None and not TAGS.get()
    detail = None if said_all else _plain_detail(call, value)
    rows.append(
        StepRow(
            row_id,
            "completed",
            policy.kind,
            policy.name,
            frame.scope,
            key,
            branch,
            occurrence,
            call.effects,
            0,
            0,
            row_id & 0xFFFFFFFF,
            child.t0,
            ended_at,
            data,
            detail,
        )
    )
    if len(data) > LARGE or data[0] < TEXT:
        call.stored = row_id
    if model := policy.kind is StepKind.MODEL:
        run.model_spoke = True
    if model or call.answered or child.staged:
        durable = model or bool(call.answered)
        await rt.commit(run, rows, Extras(durable, stage(frame, child.staged), call.answered))
    else:
        await rt.commit(run, rows)


def _plain_detail(call: Call, value: Any) -> bytes | None:
    detail = {} if call.policy.detail is None else call.policy.detail(value)
    tags = step_tags(call)
    detail = {**detail, "tags": tags} if tags else detail
    if call.ending is not None:
        detail = {**detail, **(call.ending.detail() or {})}
    return orjson.dumps(detail) if detail else None


def _is_limited(call: Call) -> bool:
    from agentflow.engine.limits import is_limited  # noqa: PLC0415 - the two need each other

    return is_limited(call)


async def _full(call: Call, place: Place, rt: Runtime) -> Any:
    from agentflow.engine.attempts import execute_fully  # noqa: PLC0415 - the two need each other
    from agentflow.engine.transaction_hooks import execute_hooked  # noqa: PLC0415 - the same

    if call.policy.hooked:
        return await execute_hooked(call, place, rt, execute_fully)
    return await execute_fully(call, place, rt)


def body_frame(call: Call, place: Place, record: Record | None, attempt: int = 0) -> Frame:
    """The frame in which an attempt's body runs."""
    child = Frame(call.run, call.frame, call.policy, place, attempt)
    child.t0 = call.run.clock()
    if call.notes:
        child.notes = call.notes
    if call.own:
        child.detached, child.lane = True, call.lane
    if call.effects:
        child.before = call.effects
    if record is not None:
        child.started = bool(record.identity)
        if record.effect and not call.policy.side_effect and not call.lazy:
            call.frame.count_effect(place)
            child.counted = True
    return child


async def run_body(call: Call, child: Frame, rt: Runtime) -> Any:
    """Call the user's function within `child`."""
    run, policy = call.run, call.policy
    child.task = rt.task()
    if child.task is None:
        child.thread = get_ident()
    run.bodies[child] = call
    if call.work is not None:
        run.moving.discard(call.work)
    token = CURRENT.set(child)
    try:
        if policy.timeout_seconds is not None:
            value = await rt.timed(policy.timeout_seconds, call.fn, call.args, call.kwargs, child)
        else:
            value = call.fn(*call.args, **call.kwargs)
            if rt.awaits:
                value = await value
        if child.children is not None or value.__class__ in LOOKED_AT:
            value = await ended(call, child, value, rt)
        return value  # noqa: TRY300
    except Unwinding as error:
        note_unwinding(run, error)
        raise
    finally:
        CURRENT.reset(token)
        if call.work is not None:  # it moves until its end has been told
            run.moving.add(call.work)
        run.bodies.pop(child, None)


async def ended(call: Call, child: Frame, value: Any, rt: Runtime) -> Any:
    """A body's value once everything it has submitted has ended; a failure that it did not look at is its own."""
    if child.children is None and not (
        value.__class__ in LOOKED_AT and may_say_more(value, call.policy.kind)
    ):
        return value
    from agentflow.engine.futures import unlooked  # noqa: PLC0415 - the two need each other
    from agentflow.engine.returned import consumed, settled, taken  # noqa: PLC0415 - the two need each other

    value = await consumed(value, rt)
    children = child.children
    if children is not None:
        await rt.join(list(children))
        child.run.check(child)
    value = settled(value)
    failure = None if children is None else unlooked(list(children))
    if failure is not None:
        raise failure
    return taken(value, call.noted(), call.policy.name) if is_state(value) else value


async def record_error(call: Call, child: Frame, error: BaseException, rt: Runtime) -> BaseException:
    """Record a step's failure; returns the exception that every life raises for it."""
    run = call.run
    await rt.settled(run)
    run.check(call.frame)
    run.tally.executed += 1
    data, shown = failure_bytes(call, error)
    detail = failure_detail(child, error)
    rows = [*start_rows(call.frame), row := end_row(call, child, "failed", data, detail)]
    if call.answered:
        await rt.commit(run, rows, Extras(durable=True, consumed=call.answered))
    else:
        await rt.commit(run, rows)
    record_failure(shown, row.id, row.scope)
    return shown
