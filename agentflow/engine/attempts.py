"""The full way of a step: cached results, retries, timeouts. Side effects: see `agentflow.engine.effect_run`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from agentflow.engine.cache_locks import check_colour, lock, unlock
from agentflow.engine.cached_calls import Lookup, take
from agentflow.engine.caching import is_serialised
from agentflow.engine.context import Frame
from agentflow.engine.draining import hold
from agentflow.engine.endings import timed_out
from agentflow.engine.handing_on import failure_detail, guilty_below, hand_on, record_failure
from agentflow.engine.hooks import running, task_run_of, tell
from agentflow.engine.limits import commit_and_give_back, give_back_soon, take_for_tags
from agentflow.engine.logs import run_log
from agentflow.engine.records import Place, Record, attempt_scope
from agentflow.engine.runtime import NO_EXTRAS, Extras, Overdue
from agentflow.engine.staging import stage, stage_again, staged_note
from agentflow.engine.step import LARGE, Call, body_frame, find, replay, run_body
from agentflow.engine.step_rows import end_row, failure_bytes, start_rows
from agentflow.engine.tags import TAGS, step_tags
from agentflow.engine.transactions import roll_back_below
from agentflow.errors import (
    ApprovalDenied,
    CodecError,
    DivergenceError,
    InDoubtError,
    TaskTimeoutError,
    Unwinding,
)
from agentflow.model.steps import StepKind, StepRow
from agentflow.payloads.envelopes import TEXT, Draft
from agentflow.payloads.failures import encode_failure

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.runtime import Runtime


async def execute_fully(call: Call, place: Place, rt: Runtime) -> Any:
    """Like `agentflow.engine.step.execute`, for steps with options."""
    if not call.policy.tags:
        return await watched(call, partial(_chosen, call, place, rt), rt)
    token = TAGS.set(TAGS.get() | call.policy.tags)
    try:
        return await watched(call, partial(_chosen, call, place, rt), rt)
    finally:
        TAGS.reset(token)


async def watched(call: Call, run: Callable[[], Coroutine[Any, Any, Any]], rt: Runtime) -> Any:
    """Run the call, and its hooks once its end is in the journal - unless an earlier life has put it there."""
    if call.policy.hooks is None:
        return await run()
    ending = call.noted()
    try:
        value = await run()
    except Exception as error:
        if not ending.recalled:
            await tell(call, ending.of_failure(error), rt)
        raise
    if not ending.recalled:
        await tell(call, ending.of_value(value), rt)
    return value


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
    record = find(call, place)
    if record is not None and record.end and call.policy.persist_result:
        if call.policy.cache_policy is not None:
            stage_again(call.frame, record.row)
        return await replay(call, record, rt)
    annotate(call, record)
    at = record.place if record is not None else place
    if call.policy.cache_policy is None:
        return await run_attempts(call, at, record, None, rt)
    return await _through_the_cache(call, at, record, rt)


async def _through_the_cache(call: Call, place: Place, record: Record | None, rt: Runtime) -> Any:
    """Take an earlier result, or run and leave one; serialised: after whoever computes the same."""
    serialised = is_serialised(call.policy.cache_policy)
    if serialised:
        check_colour(call, rt)
    look = Lookup(call)
    await look.read(rt)
    if look.hit is not None:
        return await take(call, place, look, look.hit, rt)
    mine = await lock(call, place, look, rt) if serialised else None
    try:
        if look.hit is not None:
            return await take(call, place, look, look.hit, rt)
        return await run_attempts(call, place, record, look, rt)
    finally:
        if mine is not None:
            await unlock(call, mine, rt)


async def run_attempts(
    call: Call, place: Place, record: Record | None, look: Lookup | None, rt: Runtime
) -> Any:
    """Run the body, again after each failure that wants a retry, and record how it ended."""
    run, policy = call.run, call.policy
    attempt = record.attempts if record is not None and not record.end else 0
    if attempt and record is not None:
        due = record.details().get("due", 0.0)
        await rt.pause(run, max(0.0, due - run.options.clock()))
    counted = False
    while True:
        if run.guarded:
            await hold(run, call.frame, rt, inline=not call.own, work=call.work)
        child = body_frame(call, place, record, attempt)
        child.counted = child.counted or counted
        if look is not None and look.is_locked:
            child.computes = look.key or b""
        first = run.next_id()
        if run.tag_limits:
            await take_for_tags(call, child, rt)
        try:
            try:
                value = await _timed_body(call, child, rt)
                if call.pack is not None:
                    data, value = call.pack(value)
                else:
                    data, value = run.codec.drafted(value) if policy.persist_result else (b"null", value)
            except Exception as error:
                run.check(call.frame)
                if not await wants_retry(call, error, attempt, rt):
                    raise (await _fail(call, child, error, attempt, look, rt)) from error.__cause__
                await _next_attempt(call, child, error, attempt, first, rt)
                if call.ending is not None:
                    call.ending.state = None
                attempt, record, counted = attempt + 1, None, child.counted
                continue
            return await _complete(call, child, value, data, attempt, look, rt)
        finally:
            give_back_soon(child)


async def _timed_body(call: Call, child: Frame, rt: Runtime) -> Any:
    if call.policy.hooks is not None:
        await tell(call, running(child.attempt), rt, child.attempt)
    try:
        return await run_body(call, child, rt)
    except Overdue:
        error = overdue(call)
        await roll_back_below(call.run, child, error, rt)
        raise error from None


def overdue(call: Call) -> TaskTimeoutError:
    """The failure of a call whose time is up."""
    seconds = call.policy.timeout_seconds if call.limit is None else call.limit
    error = TaskTimeoutError(call.policy.name, seconds or 0.0)
    call.noted().state = timed_out(error)
    return error


async def wants_retry(call: Call, error: BaseException, attempt: int, rt: Runtime) -> bool:
    """Whether a failed attempt is to be followed by another one."""
    policy = call.policy
    if attempt >= policy.retries or isinstance(
        error, (CodecError, DivergenceError, InDoubtError, ApprovalDenied)
    ):
        return False
    ended = None if call.ending is None else call.ending.state
    if ended is not None and not ended.is_failed():
        return False  # it returned that it was cancelled or has crashed
    if policy.retry_condition is None:
        return True
    try:
        if policy.condition_sees_state:
            state = call.noted().of_failure(error)
            answer = policy.retry_condition(policy.owner, task_run_of(call, attempt), state)
        else:
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
    await _commit(child, rows, rt)
    if guilty:
        identity = run.identify(call.frame.scope, child.place)
        hand_on_now(run, child, attempt_scope(run.identify, identity, attempt + 1), guilty, first)
    run_log(
        run,
        f"{policy.name} failed ({run.codec.shown(error)}); attempt {attempt + 2} follows in {delay:g} s",
        step=policy.name,
    )
    await rt.pause(run, delay)


def hand_on_now(run: ActiveRun, frame: Frame, after: bytes, guilty: list[int], first: int) -> None:
    """Give the attempt of scope `after` what stays good of the one that has just failed in `frame`."""
    records = run.kept()
    records.standing = run.transactions.standing
    records.take(run.journal.steps(run.number, first), frame.scope, frame.stable)
    hand_on(records, frame.scope, after, frozenset(guilty))


async def _complete(
    call: Call,
    child: Frame,
    value: Any,
    data: bytes | Draft,
    attempt: int,
    look: Lookup | None,
    rt: Runtime,
) -> Any:
    run, policy = call.run, call.policy
    if isinstance(data, Draft):
        data = await rt.transfer(partial(run.codec.keep, data))
    await rt.settled(run)
    run.check(call.frame)
    run.tally.executed += 1
    if not call.policy.persist_result:
        return value
    detail = None if policy.detail is None else policy.detail(value)
    visible = stage(call.frame, child.staged)
    if look is not None:
        entry = look.entry(data, unpure=child.counted)
        detail = (detail or {}) | look.detail()
        if entry is not None:
            own = stage(call.frame, (entry,), at_once=is_serialised(policy.cache_policy))
            detail |= {} if own else staged_note(entry)
            visible += own
    rows = [*start_rows(call.frame), end_row(call, child, "completed", data, detail, attempt=attempt)]
    if len(data) > LARGE or data[0] < TEXT:
        call.stored = rows[-1].id
    model = policy.kind is StepKind.MODEL
    if model:
        run.model_spoke = True
    if visible or model:
        await _commit(child, rows, rt, Extras(durable=model, cache=visible))
    else:
        await _commit(child, rows, rt)
    return value


async def _commit(child: Frame, rows: list[StepRow], rt: Runtime, extras: Extras | None = None) -> None:
    """Commit how an attempt has ended; what it held of limits is free then."""
    if child.claim:
        await commit_and_give_back(child, rows, rt, extras or NO_EXTRAS)
    else:
        await rt.commit(child.run, rows, extras)


async def _fail(
    call: Call, child: Frame, error: BaseException, attempt: int, look: Lookup | None, rt: Runtime
) -> BaseException:
    run = call.run
    await rt.settled(run)
    run.check(call.frame)
    run.tally.executed += 1
    if not call.policy.persist_result:
        return error
    data, shown = failure_bytes(call, error)
    detail = failure_detail(child, error)
    if look is not None:
        detail = (detail or {}) | look.detail()
    rows = [*start_rows(call.frame), row := end_row(call, child, "failed", data, detail, attempt=attempt)]
    await _commit(child, rows, rt)
    record_failure(shown, row.id, row.scope)
    return shown
