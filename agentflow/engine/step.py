"""One call as a step: found in the journal or executed, recorded before its value reaches the caller.

`execute` is the engine of both colours: a coroutine over a `Runtime`. Side effects go through `agentflow.engine.attempts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from agentflow.engine.active import ActiveRun, record_failure
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.records import Place, Record
from agentflow.errors import CorruptRecord, Fenced, JournalUnavailable, Suspended, Unwinding
from agentflow.model.steps import StepKind, StepRow
from agentflow.payloads.failures import decode_failure, encode_failure

if TYPE_CHECKING:
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.runtime import Runtime


class Call:
    """A call of a step, as it was made: its place is settled now, whenever it is awaited."""

    __slots__ = (
        "aliases", "answered", "args", "arguments", "effects", "fn", "frame", "key", "kwargs", "occurrence", "own", "policy",
        "rebind", "run",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - one value per slot, built in one place
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
        run.check(frame)
        self.occurrence = frame.occurrence(key)
        self.effects = frame.effects
        #: It was handed to a thread or an asyncio task of its own, so it is a branch of its own.
        self.own = False
        #: Keys it had under earlier names.
        self.aliases: tuple[bytes, ...] = ()
        #: Waits whose answers the next row takes.
        self.answered: list[str] = []

    def place(self) -> Place:
        """Where the call stands in its scope."""
        branch = self.frame.branch
        if self.own:
            branch = self.run.hasher.digest(b"own|%b|%b|%d" % (branch, self.key, self.occurrence))
        return (self.key, branch, self.occurrence)


def find(call: Call, place: Place) -> Record | None:
    """The record of a call, claimed; None where it is new."""
    run, frame = call.run, call.frame
    if run.records is None:
        return None
    scope = frame.stable_records() if call.policy.side_effect else frame.records()
    if scope is None:
        return None
    record = scope.index.get(place)
    for alias in call.aliases if record is None else ():
        record = record or scope.index.get((alias, *place[1:]))
    if record is not None and not call.policy.side_effect and record.effects != call.effects:
        key, branch, _ = place
        if (key, branch) in scope.repeats:  # equal calls around an effect: only the one with as many effects before it
            record = next(
                (
                    other
                    for other in scope.index.values()
                    if other.place[:2] == (key, branch) and other.effects == call.effects and not other.claimed
                ),
                None,
            )
    if record is None and run.changed and not call.policy.side_effect:
        record = scope.elsewhere(place)
        if record is not None:
            run.tally.adopted.append(record.name)
    if record is not None and not record.claimed:
        record.claimed = 1
    return record


def recall(call: Call, record: Record) -> Any:  # noqa: ANN401 - the recorded value
    """The recorded outcome: its value, or its exception raised."""
    call.run.tally.reused += 1
    event = record.event
    if event in ("completed", "cached"):
        return None if record.value is None else call.run.codec.decode(record.value)
    if record.value is None:
        message = f"the recorded failure of {record.name} has no exception"
        raise CorruptRecord(message)
    error = decode_failure(call.run.codec, record.value)
    record_failure(error, record.seq, record.scope)
    raise error


async def execute(call: Call, rt: Runtime) -> Any:  # noqa: ANN401 - what the function returns
    """Find the call's record or run it. The one engine of both colours."""
    run, frame, policy = call.run, call.frame, call.policy
    if run.unstarted:
        run.unstarted.pop(call, None)
    if not call.own and not rt.is_inline(frame):
        call.own = True
    place = call.place()
    run.check(frame)
    if not policy.plain:
        return await _full(call, place, rt)
    record = find(call, place)
    if record is not None and record.end:
        if record.effect:
            count_effect(call, place)
        await rt.deliver(run, record)
        run.check(frame)
        return recall(call, record)
    child = body_frame(call, record.place if record is not None else place, record)
    started = child.t0
    try:
        value = await run_body(call, child, rt)
        data, value = run.codec.round_trip(value)
    except Exception as error:
        run.check(frame)
        raise (await record_error(call, child, error, rt)) from error.__cause__
    await rt.settled(run)
    if run.fence is not None:
        run.check(frame)
    run.tally.executed += 1
    detail = policy.detail
    rows = [] if frame.root.started else start_rows(frame)
    row_id = run.next_id()
    key, branch, occurrence = child.place
    row = StepRow(
        row_id, "completed", policy.kind, policy.name, frame.scope, key, branch, occurrence, call.effects, 0, 0,
        row_id & 0xFFFFFFFF, started, run.options.clock(), data, None if detail is None else orjson.dumps(detail(value)),
    )  # fmt: skip
    rows.append(row)
    if policy.kind is StepKind.MODEL:
        run.model_spoke = True
    if policy.kind is StepKind.MODEL or call.answered:
        await commit_durably(run, rows, rt, consumed=call.answered)
    else:
        await rt.commit(run, rows)
    return value


async def _full(call: Call, place: Place, rt: Runtime) -> Any:  # noqa: ANN401 - what the function returns
    from agentflow.engine.attempts import execute_fully  # noqa: PLC0415 - the two call each other

    return await execute_fully(call, place, rt)


def body_frame(call: Call, place: Place, record: Record | None, attempt: int = 0) -> Frame:
    """The frame in which an attempt's body runs."""
    child = Frame(call.run, call.frame, call.policy, place, attempt, None)
    child.t0 = call.run.options.clock()
    child.detached = call.own
    child.before = call.effects
    if record is not None:
        child.started = bool(record.identity)
        if record.effect and not call.policy.side_effect:
            count_effect(call, place)
            child.counted = True
    return child


def count_effect(call: Call, place: Place) -> None:
    """Count a recorded step that contains an effect among the effects of its branch."""
    if place[1] == call.frame.branch:
        call.frame.effects += 1


async def run_body(call: Call, child: Frame, rt: Runtime) -> Any:  # noqa: ANN401 - what the function returns
    """Call the user's function within `child`."""
    run, policy = call.run, call.policy
    child.task = rt.task()
    run.bodies.add(child)
    token = CURRENT.set(child)
    try:
        if policy.timeout_seconds is not None:
            return await rt.timed(policy.timeout_seconds, call.fn, call.args, call.kwargs, child)
        return await rt.call(call.fn, call.args, call.kwargs)
    except Unwinding as error:
        note_unwinding(run, error)
        raise
    finally:
        CURRENT.reset(token)
        run.bodies.discard(child)


def note_unwinding(run: ActiveRun, error: Unwinding) -> None:
    """What stops a run stops all of it, even where user code swallows the exception."""
    if isinstance(error, (CorruptRecord, JournalUnavailable, Fenced)) and not isinstance(run.fence, Suspended):
        run.stop(error)


async def record_error(call: Call, child: Frame, error: BaseException, rt: Runtime) -> BaseException:
    """Record a step's failure; returns the exception that every life raises for it."""
    run = call.run
    await rt.settled(run)
    run.check(call.frame)
    run.tally.executed += 1
    data, shown = encode_failure(run.codec, error)
    rows = [*start_rows(call.frame), row := end_row(call, child, "failed", data)]
    if call.answered:
        await commit_durably(run, rows, rt, consumed=call.answered)
    else:
        await rt.commit(run, rows)
    record_failure(shown, row.id & 0xFFFFFFFF, row.scope)
    return shown


def end_row(  # noqa: PLR0913 - the parts of a row
    call: Call,
    child: Frame,
    event: str,
    value: bytes | None,
    detail: dict[str, Any] | None = None,
    *,
    attempt: int = 0,
    scope: bytes | None = None,
) -> StepRow:
    """A row of a call."""
    run, policy = call.run, call.policy
    row_id = run.next_id()
    key, branch, occurrence = child.place
    return StepRow(
        row_id,
        event,
        policy.kind,
        policy.name,
        (call.frame.stable if policy.side_effect else call.frame.scope) if scope is None else scope,
        key,
        branch,
        occurrence,
        call.effects,
        1 if policy.side_effect else 0,
        attempt,
        row_id & 0xFFFFFFFF,
        child.t0,
        None if event in ("started", "intent") else run.options.clock(),
        value,
        None if detail is None else orjson.dumps(detail, default=repr),
    )


def start_rows(frame: Frame) -> list[StepRow]:
    """Rows that say that the steps around a call have begun; written with the first thing recorded below them.

    To be made before that thing's own row: a step comes before what it contains.
    """
    if frame.root.started:
        return []
    rows: list[StepRow] = []
    for body in frame.enclosing():
        if body.started or body.parent is None:
            break
        body.started = True
        run, parent, policy = body.run, body.parent, body.policy
        row_id = run.next_id()
        key, branch, occurrence = body.place
        rows.append(
            StepRow(
                row_id, "started", policy.kind, policy.name, parent.scope, key, branch, occurrence, body.before, 0,
                0, row_id & 0xFFFFFFFF, body.t0, None, None, None,
            )  # fmt: skip
        )
    rows.reverse()
    ids = sorted(row.id for row in rows)
    return [row._replace(id=row_id) for row, row_id in zip(rows, ids, strict=True)]


async def commit_durably(
    run: ActiveRun, rows: list[StepRow], rt: Runtime, *, consumed: Sequence[str] = (), cache: Sequence[Any] = ()
) -> None:
    """Commit rows so that they survive power loss."""
    await rt.blocking(
        lambda: run.journal.append(run.number, run.epoch, rows, durable=True, consumed=consumed, cache=cache)
    )


