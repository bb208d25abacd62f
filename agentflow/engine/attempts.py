"""The full way of a step: cached results, retries, timeouts, side effects."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from agentflow.engine.active import culprits, record_failure
from agentflow.engine.caching import NoKey, cache_key
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.effects import (
    Permission,
    intent_commit,
    json_arguments,
    keep_order,
    permit,
    resolve_doubt,
    tell_edit,
)
from agentflow.engine.logs import run_log
from agentflow.engine.records import Place, Record, Records, Scope, attempt_scope
from agentflow.engine.runtime import DURABLY, Extras, Interrupted, Overdue
from agentflow.engine.step import (
    Call,
    body_frame,
    end_row,
    find,
    note_unwinding,
    recall,
    replay,
    run_body,
    start_rows,
)
from agentflow.errors import (
    AgentflowError,
    ApprovalDenied,
    CodecError,
    DivergenceError,
    InDoubtError,
    NotDone,
    TaskTimeoutError,
    Unwinding,
)
from agentflow.journal.protocol import CacheRow
from agentflow.model.steps import StepKind
from agentflow.payloads.failures import encode_failure

if TYPE_CHECKING:
    from agentflow.engine.runtime import Runtime


async def execute_fully(call: Call, place: Place, rt: Runtime) -> Any:
    """Like `agentflow.engine.step.execute`, for steps with options."""
    if call.policy.side_effect:
        return await _effect(call, place, rt)
    run = call.run
    record = find(call, place)
    if record is not None and record.end and call.policy.persist_result:
        return await replay(call, record, rt)
    key: bytes | None = None
    if call.policy.cache_policy is not None:
        key = _cross_run_key(call)
        if key is not None and not call.policy.refresh_cache:
            found = run.journal.cached(key, run.options.clock())
            if found is not None:
                return await _from_cache(call, place, found, rt)
    return await _attempts(call, record.place if record is not None else place, record, key, rt)


def _cross_run_key(call: Call) -> bytes | None:
    try:
        return cache_key(call.run, call.policy, call.arguments(), call.frame)
    except NoKey as reason:
        run_log(call.run, f"{call.policy.name} is not cached: {reason}", step=call.policy.name)
        return None


async def _from_cache(call: Call, place: Place, found: CacheRow, rt: Runtime) -> Any:
    """A hit across runs becomes a row of this run before it is delivered: expiry must not change a replay."""
    run = call.run
    value = run.codec.decode(found.value)
    await rt.settled(run)
    run.check(call.frame)
    child = body_frame(call, place, None)
    rows = [
        *start_rows(call.frame),
        row := end_row(call, child, "cached", found.value, {"from_run": found.run}),
    ]
    await rt.commit(run, rows)
    run.tally.cached += 1
    return value


async def _attempts(call: Call, place: Place, record: Record | None, key: bytes | None, rt: Runtime) -> Any:
    run, policy = call.run, call.policy
    attempt = record.attempts if record is not None and not record.end else 0
    if attempt and record is not None:
        due = record.details().get("due", 0.0)
        await rt.pause(run, max(0.0, due - run.options.clock()))
    counted = False
    while True:
        run.check(call.frame)
        child = body_frame(call, place, record, attempt)
        child.counted = child.counted or counted
        first = run.next_id()
        try:
            value = await _timed_body(call, child, rt)
            data, value = run.codec.round_trip(value) if policy.persist_result else (b"null", value)
        except Exception as error:
            run.check(call.frame)
            if not await _wants_retry(call, error, attempt, rt):
                raise (await _fail(call, child, error, attempt, rt)) from error.__cause__
            await _next_attempt(call, child, error, attempt, first, rt)
            attempt, record, counted = attempt + 1, None, child.counted
            continue
        return await _complete(call, child, value, data, attempt, key, rt)


async def _timed_body(call: Call, child: Frame, rt: Runtime) -> Any:
    try:
        return await run_body(call, child, rt)
    except Overdue:
        raise TaskTimeoutError(call.policy.name, call.policy.timeout_seconds or 0.0) from None


async def _wants_retry(call: Call, error: BaseException, attempt: int, rt: Runtime) -> bool:
    policy = call.policy
    if attempt >= policy.retries or isinstance(
        error, (CodecError, DivergenceError, InDoubtError, ApprovalDenied)
    ):
        return False
    if policy.retry_condition is None:
        return True
    try:
        answer = policy.retry_condition(error)
        if inspect.isawaitable(answer):
            answer = await answer
    except Unwinding:
        raise
    except Exception as second:  # noqa: BLE001 - a broken condition means: do not retry
        run_log(
            call.run, f"retry_condition_fn of {policy.name} raised {second!r}; not retried", step=policy.name
        )
        return False
    return bool(answer)


async def _next_attempt(
    call: Call, child: Frame, error: BaseException, attempt: int, first: int, rt: Runtime
) -> None:
    """Record the failed attempt, hand on what stays good, and wait for the delay."""
    run, policy = call.run, call.policy
    delay = policy.delay_before(attempt + 1, run.options.random())
    retry_after = getattr(error, "retry_after", None)
    if isinstance(retry_after, (int, float)):
        delay = max(delay, float(retry_after))
    guilty = culprits(error, child.scope) if child.root.occurrences else []
    data, _ = encode_failure(run.codec, error)
    detail = {"due": run.options.clock() + delay, "culprits": guilty}
    await rt.settled(run)
    run.check(call.frame)
    rows = [*start_rows(call.frame), row := end_row(call, child, "attempt", data, detail, attempt=attempt)]
    await rt.commit(run, rows)
    if guilty:
        hand_on(
            call.run,
            child.scope,
            attempt_scope(run.identify, _identity(call, child), attempt + 1),
            guilty,
            first,
        )
    run_log(
        run,
        f"{policy.name} failed ({error!r}); attempt {attempt + 2} follows in {delay:g} s",
        step=policy.name,
    )
    await rt.pause(run, delay)


def _identity(call: Call, child: Frame) -> bytes:
    return call.run.identify(call.frame.scope, child.place)


def hand_on(run: Any, before: bytes, after: bytes, guilty: list[int], first: int) -> None:
    """Give the next attempt the pure steps of the failed one that come before the guilty ones."""
    scope = Scope()
    if run.records is not None and (old := run.records.scopes.get(before)) is not None:
        scope.index.update(old.index)
        scope.repeats |= old.repeats
    for row in run.journal.steps(run.number, first):
        if row.scope == before:
            scope.add(row)
    if run.records is None:
        run.records = Records([], run.identify)
    kept = scope.carry(frozenset(guilty))
    for record in kept.index.values():
        record.claimed = 0
    run.records.scopes[after] = kept


async def _complete(
    call: Call,
    child: Frame,
    value: Any,
    data: bytes,
    attempt: int,
    key: bytes | None,
    rt: Runtime,
) -> Any:
    run, policy = call.run, call.policy
    await rt.settled(run)
    run.check(call.frame)
    run.tally.executed += 1
    if not policy.persist_result:
        return value
    detail = None if policy.detail is None else policy.detail(value)
    rows = [*start_rows(call.frame), end_row(call, child, "completed", data, detail, attempt=attempt)]
    if key is not None and not child.counted:
        now = run.options.clock()
        expires = None if policy.cache_expiration is None else now + policy.cache_expiration.total_seconds()
        entry = CacheRow(key, data, now, expires, run.number)
        await rt.commit(run, rows, Extras(cache=(entry,)))
    elif policy.kind is StepKind.MODEL:
        run.model_spoke = True
        await rt.commit(run, rows, DURABLY)
    else:
        await rt.commit(run, rows)
    return value


async def _fail(call: Call, child: Frame, error: BaseException, attempt: int, rt: Runtime) -> BaseException:
    run = call.run
    await rt.settled(run)
    run.check(call.frame)
    run.tally.executed += 1
    if not call.policy.persist_result:
        return error
    data, shown = encode_failure(run.codec, error)
    rows = [*start_rows(call.frame), row := end_row(call, child, "failed", data, attempt=attempt)]
    await rt.commit(run, rows)
    record_failure(shown, row.id & 0xFFFFFFFF, row.scope)
    return shown


# -- side effects


async def _effect(call: Call, place: Place, rt: Runtime) -> Any:
    run, frame = call.run, call.frame
    record = find(call, place)
    place = record.place if record is not None else place
    earlier = record is not None and record.end and record.details().get("around") != frame.scope.hex()
    if record is not None and record.end and not (earlier and record.event in ("not_done", "unknown")):
        await keep_order(call, place, record, rt)
        await rt.deliver(run, record)
        run.check(frame)
        tell_edit(call, record.details())
        return recall(call.run, record)
    await rt.settled(run)
    run.check(frame)
    try:
        await keep_order(call, place, record, rt)
        permission = await _permission(call, place, record, rt)
        if permission is None:
            return await _happened(call, place, rt)
    except (ApprovalDenied, DivergenceError, InDoubtError) as refusal:
        raise await _refuse(call, place, refusal, rt) from None
    attempt = record.attempts if record is not None else 0
    return await _run_effect(call, place, permission, attempt, rt)


async def _permission(call: Call, place: Place, record: Record | None, rt: Runtime) -> Permission | None:
    """How the effect may start; None where a person says that it has happened already (see `call.answer`)."""
    policy = call.policy
    started = record is not None and record.event in ("intent", "unknown")
    if record is not None and started and not policy.idempotent:
        verdict = await resolve_doubt(call, place, record, rt, _reader(call))
        if verdict.happened:
            call.kwargs = {"value": verdict.value}
            return None
        permission = Permission(
            tuple(call.args), call.kwargs, json_arguments(call.arguments()), verdict.wait_id
        )
        executed = record.details().get("arguments")
        if executed is not None and executed != permission.executed:
            edited = policy.validate(executed) if policy.validate is not None else executed
            permission.args, permission.kwargs = call.rebind(edited)
            permission.executed, permission.edited = executed, True
        return permission
    return await permit(call, place, record, rt)


def _reader(call: Call) -> Any:
    return call.policy.read_answer or (lambda answer: answer)


async def _happened(call: Call, place: Place, rt: Runtime) -> Any:
    """A person said that it happened, with this result."""
    run = call.run
    child = body_frame(call, place, None)
    data, value = run.codec.round_trip(call.kwargs["value"])
    rows = [
        *start_rows(call.frame),
        row := end_row(call, child, "completed", data, {"around": call.frame.scope.hex(), "told": True}),
    ]
    await rt.commit(run, rows, Extras(durable=True, consumed=call.answered))
    _note(call, row)
    return value


async def _refuse(call: Call, place: Place, refusal: AgentflowError, rt: Runtime) -> BaseException:
    run = call.run
    child = body_frame(call, place, None)
    data, shown = encode_failure(run.codec, refusal)
    rows = [
        *start_rows(call.frame),
        row := end_row(call, child, "failed", data, {"around": call.frame.scope.hex()}),
    ]
    await rt.commit(run, rows, Extras(durable=True, consumed=call.answered))
    record_failure(shown, row.id & 0xFFFFFFFF, row.scope)
    _note(call, row)
    return shown


def _note(call: Call, row: Any) -> None:
    """Keep an effect's end for later attempts of the steps around it, in this life."""
    run = call.run
    if run.records is None:
        run.records = Records([], run.identify)
    scope = run.records.scopes.setdefault(row.scope, Scope())
    scope.add(row).claimed = Record.DELIVERED


async def _run_effect(call: Call, place: Place, permission: Permission, attempt: int, rt: Runtime) -> Any:
    run, policy, frame = call.run, call.policy, call.frame
    call.args, call.kwargs = permission.args, permission.kwargs
    around = frame.scope.hex()
    while True:
        run.check(frame)
        child = body_frame(call, place, None, attempt)
        child.executed = permission.executed
        details = {
            "arguments": permission.executed,
            "edited": permission.edited,
            "started_at": child.t0,
            "around": around,
            "approval": permission.wait_id,
            "tries": attempt,
        }
        above = start_rows(frame)
        if above or call.answered:
            await rt.commit(run, above, Extras(durable=True, consumed=call.answered))
        intent = end_row(call, child, "intent", None, details, attempt=attempt)
        await intent_commit(call, rt, intent, permission)
        _note(call, intent)
        tell_edit(call, details)
        try:
            value = await _shielded_body(call, child, rt)
            data, value = run.codec.round_trip(value)
        except Exception as error:  # noqa: BLE001 - every failure of an effect has an end to record
            shown, again = await _effect_failed(call, child, error, details, attempt, rt)
            if not again:
                raise shown from error.__cause__
            attempt += 1
            permission.again = bool(permission.wait_id)
            continue
        run.tally.executed += 1
        row = end_row(call, child, "completed", data, details, attempt=attempt)
        await rt.commit(run, [row], DURABLY)
        _note(call, row)
        return value


async def _shielded_body(call: Call, child: Frame, rt: Runtime) -> Any:
    """Run an effect to its end even if the caller is cancelled; its end is recorded, then the cancellation goes on."""
    run, policy = call.run, call.policy
    child.task = rt.task()
    run.bodies.add(child)
    token = CURRENT.set(child)
    try:
        if policy.timeout_seconds is not None:
            return await rt.timed(policy.timeout_seconds, call.fn, call.args, call.kwargs, child)
        return await rt.shielded(call.fn, call.args, call.kwargs)
    except Overdue:
        raise TaskTimeoutError(policy.name, policy.timeout_seconds or 0.0) from None
    except Interrupted as cancelled:
        CURRENT.reset(token)
        token = CURRENT.set(child)
        await _record_late(call, child, cancelled, rt)
        raise
    except Unwinding as error:
        note_unwinding(run, error)
        raise
    finally:
        CURRENT.reset(token)
        run.bodies.discard(child)


async def _record_late(call: Call, child: Frame, cancelled: Interrupted, rt: Runtime) -> None:
    run, outcome = call.run, cancelled.outcome
    details = {"arguments": child.executed, "around": call.frame.scope.hex()}
    error = outcome.exception()
    if error is None:
        row = end_row(call, child, "completed", run.codec.encode(outcome.result()), details)
    else:
        event = "not_done" if _is_not_done(call, error) else "unknown"
        row = end_row(
            call, child, event, encode_failure(run.codec, error)[0], details | {"error": repr(error)}
        )
    hop = asyncio.ensure_future(rt.commit(run, [row], DURABLY))
    while not hop.done():
        try:
            await asyncio.shield(hop)
        except asyncio.CancelledError:
            continue
    hop.result()
    _note(call, row)


def _is_not_done(call: Call, error: BaseException) -> bool:
    return isinstance(error, (NotDone, *call.policy.not_done_on))


async def _effect_failed(
    call: Call, child: Frame, error: Exception, details: dict[str, Any], attempt: int, rt: Runtime
) -> tuple[BaseException, bool]:
    """Record how a failed attempt of an effect ended; True = run it again (it did not happen, or is idempotent)."""
    run, policy = call.run, call.policy
    run.tally.executed += 1
    not_done = _is_not_done(call, error)
    data, shown = encode_failure(run.codec, error)
    details = details | {"error": repr(error)}
    if (not_done or policy.idempotent) and await _wants_retry(call, error, attempt, rt):
        delay = policy.delay_before(attempt + 1, run.options.random())
        details["due"] = run.options.clock() + delay
        await rt.commit(run, [end_row(call, child, "attempt", data, details, attempt=attempt)], DURABLY)
        await rt.pause(run, delay)
        return shown, True
    event = "not_done" if not_done else "unknown"
    row = end_row(call, child, event, data, details, attempt=attempt)
    await rt.commit(run, [row], DURABLY)
    record_failure(shown, row.id & 0xFFFFFFFF, row.scope)
    _note(call, row)
    return shown, False
