"""A side effect, from its place in the journal to one of its three ends: done, not done, unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from agentflow.engine.attempts import annotate, overdue, wants_retry
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.draining import hold
from agentflow.engine.effects import (
    Permission,
    Told,
    edited_arguments,
    intent_commit,
    keep_order,
    permit,
    resolve_doubt,
    shown_arguments,
    tell_edit,
)
from agentflow.engine.handing_on import record_failure
from agentflow.engine.hooks import running, tell
from agentflow.engine.limits import commit_and_give_back, give_back_soon, take_for_tags
from agentflow.engine.readings import stored
from agentflow.engine.records import Place, Record
from agentflow.engine.returned import taken
from agentflow.engine.runtime import DURABLY, Extras, Interrupted, Overdue
from agentflow.engine.shielding import note_unwinding
from agentflow.engine.staging import stage
from agentflow.engine.step import Call, body_frame, ended, find, recall
from agentflow.engine.step_rows import end_row, failure_bytes, start_rows
from agentflow.errors import (
    AgentflowError,
    ApprovalDenied,
    DecisionRefusedError,
    DivergenceError,
    InDoubtError,
    NotDone,
    TaskTimeoutError,
    Unwinding,
)
from agentflow.model.states import is_state
from agentflow.model.steps import StepRow
from agentflow.payloads.envelopes import Draft
from agentflow.payloads.failures import encode_failure

if TYPE_CHECKING:
    from agentflow.engine.runtime import Runtime


async def execute_effect(call: Call, place: Place, rt: Runtime) -> Any:
    """Find a side effect's recorded end, or get it permitted and run it.

    One that is under way already (an attempt around it was given up and follows again) is waited for, never doubled.
    """
    run = call.run
    step = run.identify(call.frame.stable, place)
    mine: Future[None] = Future()
    while (other := run.effects.setdefault(step, mine)) is not mine:
        await rt.over(other)
    try:
        return await _execute(call, place, rt)
    finally:
        run.effects.pop(step, None)
        mine.set_result(None)


async def _execute(call: Call, place: Place, rt: Runtime) -> Any:
    run, frame = call.run, call.frame
    record = find(call, place)
    place = record.place if record is not None else place
    if record is not None and record.end and not _goes_on(call, record):
        await keep_order(call, place, record, rt)
        call.last = record.row
        opened = await rt.deliver(run, record)
        run.check(frame)
        tell_edit(call, record.details())
        if call.ending is not None:
            call.ending.recall(run.codec, record)
        return recall(call.run, record, frame.scope, opened)
    call.refusals = 0 if record is None else record.refusals
    annotate(call, record)
    await rt.settled(run)
    run.check(frame)
    if run.guarded:
        run.admit(frame)
    try:
        await keep_order(call, place, record, rt)
        permission = await _permission(call, place, record, rt)
        if isinstance(permission, Told):
            return await _happened(call, place, permission, rt)
    except (ApprovalDenied, DivergenceError, InDoubtError) as refusal:
        raise await _refuse(call, place, refusal, rt, record) from None
    attempt = record.attempts if record is not None else 0
    return await _run_effect(call, place, permission, attempt, rt)


def _goes_on(call: Call, record: Record) -> bool:
    """Whether a recorded end is to be left behind, because an attempt around the effect follows the one that saw it.

    What was refused is asked for again only where it is a reason why somebody has the run, which had ended, go on.
    """
    run, details = call.run, record.details()
    if details.get("around") == call.frame.scope.hex():
        return False
    asked_again = run.records is not None and record.seq in run.records.again and "refused" in details
    return record.event in ("not_done", "unknown") or asked_again


async def _permission(call: Call, place: Place, record: Record | None, rt: Runtime) -> Permission | Told:
    """How the effect may start, or a person's word that it has happened already."""
    policy = call.policy
    if record is not None and (
        _of_the_source(call, record) or (is_in_doubt(record) and not policy.idempotent)
    ):
        verdict = await resolve_doubt(call, place, record, rt)
        if isinstance(verdict, Told):
            return verdict
        proposed = shown_arguments(call)
        permission = Permission(tuple(call.args), call.kwargs, proposed, verdict)
        details = record.details()
        permission.executed = details.get("arguments", proposed)
        if details.get("edited"):
            edited = edited_arguments(call, proposed, permission.executed)
            permission.args, permission.kwargs = call.rebind(edited)
            permission.edited = True
        return permission
    return await permit(call, place, record, rt)


def _of_the_source(call: Call, record: Record) -> bool:
    """Whether the run that this one comes from began it and nobody knows its end: no key of ours would protect it."""
    fork = call.run.fork
    if fork is None or record.seq > fork.taken:
        return False
    return is_in_doubt(record) or (call.policy.idempotent and record.event == "attempt")


def is_in_doubt(record: Record) -> bool:
    """Whether an effect has started and nobody knows whether it happened."""
    return record.event in ("intent", "unknown") or bool(record.details().get("doubt"))


async def _happened(call: Call, place: Place, told: Told, rt: Runtime) -> Any:
    """A person said that it happened, with this result."""
    run = call.run
    child = body_frame(call, place, None)
    data, value = await stored(run, told.value, rt)
    details = {"around": call.frame.scope.hex(), "told": True, "arguments": told.executed}
    rows = [
        *start_rows(call.frame),
        row := end_row(call, child, "completed", data, details),
    ]
    _note(call, row)
    call.frame.count_around()
    await rt.commit(run, rows, Extras(durable=True, consumed=call.answered))
    return value


async def _refuse(
    call: Call, place: Place, refusal: AgentflowError, rt: Runtime, record: Record | None = None
) -> BaseException:
    run = call.run
    child = body_frame(call, place, None)
    data, shown = failure_bytes(call, refusal)
    details = {"around": call.frame.scope.hex(), "refused": type(refusal).__name__}
    if record is not None and is_in_doubt(record):  # it stays so, whoever has the run go on
        details = record.details() | details | {"doubt": True}
    rows = [
        *start_rows(call.frame),
        row := end_row(call, child, "failed", data, details),
    ]
    _note(call, row)
    call.frame.count_around()
    await rt.commit(run, rows, Extras(durable=True, consumed=call.answered))
    record_failure(shown, row.id, call.frame.scope)
    return shown


def _note(call: Call, row: StepRow) -> None:
    """Keep an effect's end for later attempts of the steps around it, in this life.

    Before it is committed: a cancellation of the caller interrupts that, and does not undo it.
    """
    call.run.kept().scope(row.scope).add(row, Record.DELIVERED)


async def _run_effect(call: Call, place: Place, permission: Permission, attempt: int, rt: Runtime) -> Any:
    run, frame = call.run, call.frame
    call.args, call.kwargs = permission.args, permission.kwargs
    while True:
        if run.guarded:
            await hold(run, frame, rt, inline=not call.own, work=call.work)
        child = body_frame(call, place, None, attempt)
        child.executed = permission.executed
        child.counted = True  # in its own branch, when it was asked for
        above = start_rows(frame)
        if above or call.answered:
            await rt.commit(run, above, Extras(durable=True, consumed=call.answered))
        if run.tag_limits:
            await take_for_tags(call, child, rt)
        details = {
            "arguments": permission.executed,
            "edited": permission.edited,
            "started_at": child.t0,
            "around": frame.scope.hex(),
            "approval": permission.wait_id,
            "tries": attempt,
        }
        try:
            await _intend(call, child, permission, details, rt)
            outcome = await _outcome(call, child, rt)
        except BaseException:
            give_back_soon(child)
            raise
        if isinstance(outcome, Exception):
            give_back_soon(child)
            shown, again = await _effect_failed(call, child, outcome, details, attempt, rt)
            if not again:
                raise shown from outcome.__cause__
            attempt += 1
            permission.again = bool(permission.wait_id)
            if call.ending is not None:
                call.ending.state = None
            continue
        data, value = outcome
        run.tally.executed += 1
        row = end_row(call, child, "completed", data, details, attempt=attempt)
        _note(call, row)
        extras = Extras(durable=True, cache=stage(frame, child.staged))
        if child.claim:
            await commit_and_give_back(child, [row], rt, extras)
        else:
            await rt.commit(run, [row], extras)
        return value


async def _intend(
    call: Call, child: Frame, permission: Permission, details: dict[str, Any], rt: Runtime
) -> None:
    """Commit that the effect is about to start; after this its end is unknown until it is recorded."""
    run, attempt = call.run, child.attempt
    await tell(call, running(attempt), rt, attempt)
    intent = end_row(call, child, "intent", None, details, attempt=attempt)
    call.frame.count_around()
    try:
        await intent_commit(call, rt, intent, permission)
    except DecisionRefusedError as refused:
        raise await _expired(call, child.place, refused, rt) from None
    except Interrupted as cancelled:
        error = cancelled.outcome.exception()
        if error is None:  # it is committed, and the body will not be run
            _note(call, intent)
            data, _ = encode_failure(run.codec, NotDone("cancelled before it began"))
            row = end_row(call, child, "attempt", data, details, attempt=attempt)
            await _record_late(call, row, rt)
        elif isinstance(error, DecisionRefusedError):
            await _to_its_end(call, _expired(call, child.place, error, rt))
        raise
    _note(call, intent)
    tell_edit(call, details)


async def _expired(call: Call, place: Place, refused: DecisionRefusedError, rt: Runtime) -> BaseException:
    """Record that the signature was good no longer when the effect was about to start."""
    return await _refuse(call, place, ApprovalDenied(call.policy.name, str(refused)), rt)


async def _outcome(call: Call, child: Frame, rt: Runtime) -> tuple[bytes, Any] | Exception:
    """What the body gives, encoded, or what it raises."""
    try:
        value = await _shielded_body(call, child, rt)
        data, value = call.run.codec.drafted(value)
        return (await _kept(call, child, data, rt) if isinstance(data, Draft) else data), value
    except Exception as error:
        return error


async def _kept(call: Call, child: Frame, draft: Draft, rt: Runtime) -> bytes:
    """What the row holds of a large value. A cancellation meanwhile does not keep the end from being recorded."""
    try:
        return await rt.transfer(partial(call.run.codec.keep, draft))
    except Interrupted as cancelled:
        details = {"arguments": child.executed, "around": call.frame.scope.hex()}
        row = end_row(call, child, "completed", cancelled.outcome.result(), details)
        await _record_late(call, row, rt)
        raise


async def _shielded_body(call: Call, child: Frame, rt: Runtime) -> Any:
    """Run an effect to its end even if the caller is cancelled; its end is recorded, then the cancellation goes on."""
    run = call.run
    child.task = rt.task()
    if child.task is None:
        child.thread = get_ident()
    run.bodies[child] = call
    if call.work is not None:
        run.moving.discard(call.work)
    token = CURRENT.set(child)
    try:
        value = await rt.shielded(call.fn, call.args, call.kwargs, child)
        return value if child.children is not None else await ended(call, child, value, rt)
    except Overdue:
        raise overdue(call) from None
    except Interrupted as cancelled:
        CURRENT.reset(token)
        token = CURRENT.set(child)
        await _to_its_end(call, _end_late(call, child, cancelled, rt))
        raise
    except Unwinding as error:
        note_unwinding(run, error)
        raise
    finally:
        CURRENT.reset(token)
        if call.work is not None:
            run.moving.add(call.work)
        run.bodies.pop(child, None)


async def _end_late(call: Call, child: Frame, cancelled: Interrupted, rt: Runtime) -> None:
    """Record the end of an effect whose body ended after its caller had been cancelled."""
    row = await _late_row(call, child, cancelled, rt)
    _note(call, row)
    await rt.commit(call.run, [row], DURABLY)


async def _late_row(call: Call, child: Frame, cancelled: Interrupted, rt: Runtime) -> StepRow:
    details = {"arguments": child.executed, "around": call.frame.scope.hex()}
    error = cancelled.outcome.exception()
    if error is None:
        try:
            value = cancelled.outcome.result()
            if is_state(value):
                value = taken(value, call.noted(), call.policy.name)
            data, _ = await stored(call.run, value, rt)
            return end_row(call, child, "completed", data, details)
        except Exception as broken:
            error = broken
    elif isinstance(error, Overdue):
        error = TaskTimeoutError(call.policy.name, call.policy.timeout_seconds or 0.0)
    data, _ = encode_failure(call.run.codec, error)
    event = "not_done" if _is_not_done(call, error) else "unknown"
    return end_row(call, child, event, data, details | {"error": repr(error)})


async def _record_late(call: Call, row: StepRow, rt: Runtime) -> None:
    """Commit a row although the caller has been cancelled."""
    _note(call, row)
    await _to_its_end(call, rt.commit(call.run, [row], DURABLY))


async def _to_its_end(call: Call, work: Coroutine[Any, Any, object]) -> None:
    """Await what is to be done although the caller has been cancelled, and may be once more."""
    hop = asyncio.ensure_future(work)
    call.run.shielded.add(hop)
    while not hop.done():
        try:
            await asyncio.shield(hop)
        except asyncio.CancelledError:
            continue
    hop.result()


def _is_not_done(call: Call, error: BaseException) -> bool:
    return isinstance(error, (NotDone, *call.policy.not_done_on))


async def _effect_failed(
    call: Call, child: Frame, error: Exception, details: dict[str, Any], attempt: int, rt: Runtime
) -> tuple[BaseException, bool]:
    """Record how a failed attempt of an effect ended; True = run it again (it did not happen, or is idempotent)."""
    run, policy = call.run, call.policy
    run.tally.executed += 1
    not_done = _is_not_done(call, error)
    data, shown = failure_bytes(call, error)
    details = details | {"error": repr(error)}
    if (not_done or policy.idempotent) and await wants_retry(call, error, attempt, rt):
        delay = policy.delay_before(attempt + 1, run.options.random())
        details["due"] = run.options.clock() + delay
        await rt.commit(run, [end_row(call, child, "attempt", data, details, attempt=attempt)], DURABLY)
        await rt.pause(run, delay)
        return shown, True
    event = "not_done" if not_done else "unknown"
    row = end_row(call, child, event, data, details, attempt=attempt)
    _note(call, row)
    await rt.commit(run, [row], DURABLY)
    record_failure(shown, row.id, call.frame.scope)
    return shown, False
