"""The full way of a step: cached results, retries, timeouts. Side effects: see `agentflow.engine.effect_run`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from agentflow.engine.caching import NoKey, cache_key, closure_of
from agentflow.engine.context import Frame
from agentflow.engine.handing_on import failure_detail, guilty_below, hand_on, record_failure
from agentflow.engine.logs import run_log
from agentflow.engine.records import Place, Record, Records, attempt_scope
from agentflow.engine.runtime import DURABLY, Extras, Overdue
from agentflow.engine.step import (
    LARGE,
    Call,
    body_frame,
    end_row,
    find,
    replay,
    run_body,
    start_rows,
)
from agentflow.engine.tags import TAGS, step_tags
from agentflow.engine.transactions import roll_back_below
from agentflow.errors import (
    ApprovalDenied,
    CodecError,
    CorruptRecord,
    DivergenceError,
    InDoubtError,
    TaskTimeoutError,
    Unwinding,
)
from agentflow.journal.protocol import CacheRow
from agentflow.model.steps import StepKind
from agentflow.payloads.failures import encode_failure

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.runtime import Runtime


async def execute_fully(call: Call, place: Place, rt: Runtime) -> Any:
    """Like `agentflow.engine.step.execute`, for steps with options."""
    if not call.policy.tags:
        return await _chosen(call, place, rt)
    token = TAGS.set(TAGS.get() | call.policy.tags)
    try:
        return await _chosen(call, place, rt)
    finally:
        TAGS.reset(token)


def annotate(call: Call, record: Record | None) -> None:
    """Settle, once for all attempts, how people see the call. Raises `DefinitionError` where its name fails."""
    notes: dict[str, Any] = {}
    if call.policy.run_name is not None:
        known = None if record is None else record.details().get("run_name")
        notes["run_name"] = known or call.policy.run_name(call.arguments())
    tags = step_tags(call)
    if tags:
        notes["tags"] = tags
    call.notes = notes


async def _chosen(call: Call, place: Place, rt: Runtime) -> Any:
    if call.policy.side_effect:
        from agentflow.engine.effect_run import execute_effect  # noqa: PLC0415 - the two need each other

        return await execute_effect(call, place, rt)
    run = call.run
    record = find(call, place)
    if record is not None and record.end and call.policy.persist_result:
        return await replay(call, record, rt)
    annotate(call, record)
    key: bytes | None = None
    if call.policy.cache_policy is not None:
        key = _cross_run_key(call)
        if key is not None and not call.policy.refresh_cache:
            found = run.journal.cached(key)
            good = found is not None and found.is_good(run.options.clock())
            if found is not None and good and (value := _decoded(call, found)):
                return await _from_cache(call, place, found, value[0], rt)
    return await _attempts(call, record.place if record is not None else place, record, key, rt)


def _cross_run_key(call: Call) -> bytes | None:
    try:
        return cache_key(call.run, call.policy, call.arguments(), call.frame, closure_of(call.fn))
    except NoKey as reason:
        run_log(call.run, f"{call.policy.name} is not cached: {reason}", step=call.policy.name)
        return None


def _decoded(call: Call, found: CacheRow) -> tuple[Any] | None:
    """The value of another run's result; None where this process cannot read it (then the task runs)."""
    try:
        return (call.run.codec.decode(found.value),)
    except CorruptRecord as error:
        run_log(
            call.run, f"{call.policy.name}: the cached result is not used: {error}", step=call.policy.name
        )
        return None


async def _from_cache(call: Call, place: Place, found: CacheRow, value: Any, rt: Runtime) -> Any:
    """A hit across runs becomes a row of this run before it is delivered: expiry must not change a replay."""
    run = call.run
    await rt.settled(run)
    run.check(call.frame)
    child = body_frame(call, place, None)
    rows = [
        *start_rows(call.frame),
        end_row(call, child, "cached", found.value, {"from_run": found.run}),
    ]
    await rt.commit(run, rows)
    run.tally.cached += 1
    if call.policy.kind is StepKind.MODEL:
        run.model_spoke = True
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
            if not await wants_retry(call, error, attempt, rt):
                raise (await _fail(call, child, error, attempt, rt)) from error.__cause__
            await _next_attempt(call, child, error, attempt, first, rt)
            attempt, record, counted = attempt + 1, None, child.counted
            continue
        return await _complete(call, child, value, data, attempt, key, rt)


async def _timed_body(call: Call, child: Frame, rt: Runtime) -> Any:
    try:
        return await run_body(call, child, rt)
    except Overdue:
        error = TaskTimeoutError(call.policy.name, call.policy.timeout_seconds or 0.0)
        await roll_back_below(call.run, child, error, rt)
        raise error from None


async def wants_retry(call: Call, error: BaseException, attempt: int, rt: Runtime) -> bool:
    """Whether a failed attempt is to be followed by another one."""
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
            answer = await rt.awaited(answer)
    except Unwinding:
        raise
    except Exception as second:
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
    guilty = guilty_below(child, error)
    data, _ = encode_failure(run.codec, error)
    detail = {"due": run.options.clock() + delay, "culprits": guilty}
    await rt.settled(run)
    run.check(call.frame)
    rows = [*start_rows(call.frame), end_row(call, child, "attempt", data, detail, attempt=attempt)]
    await rt.commit(run, rows)
    if guilty:
        identity = run.identify(call.frame.scope, child.place)
        hand_on_now(run, child, attempt_scope(run.identify, identity, attempt + 1), guilty, first)
    run_log(
        run,
        f"{policy.name} failed ({error!r}); attempt {attempt + 2} follows in {delay:g} s",
        step=policy.name,
    )
    await rt.pause(run, delay)


def hand_on_now(run: ActiveRun, frame: Frame, after: bytes, guilty: list[int], first: int) -> None:
    """Give the attempt of scope `after` what stays good of the one that has just failed in `frame`."""
    if run.records is None:
        run.records = Records([], run.identify)
    run.records.standing = run.transactions.standing
    run.records.take(run.journal.steps(run.number, first), frame.scope, frame.stable)
    hand_on(run.records, frame.scope, after, frozenset(guilty))


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
    if len(data) > LARGE:
        call.stored = rows[-1].id
    model = policy.kind is StepKind.MODEL
    if model:
        run.model_spoke = True
    if key is not None and not child.counted:
        now = run.options.clock()
        expires = None if policy.cache_expiration is None else now + policy.cache_expiration.total_seconds()
        entry = CacheRow(key, data, now, expires, run.number)
        await rt.commit(run, rows, Extras(durable=model, cache=(entry,)))
    elif model:
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
    detail = failure_detail(child, error)
    rows = [*start_rows(call.frame), row := end_row(call, child, "failed", data, detail, attempt=attempt)]
    await rt.commit(run, rows)
    record_failure(shown, row.id, row.scope)
    return shown
