"""Hooks of transactions: which steps have left some, and running one - once, as a recorded step.

A hook is found by the names of its step and of its function, so that a later life finds it, too: where the step's own
code does not run again (it lies inside a finished step, or in an attempt that was given up), the journal knows of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.logs import run_log
from agentflow.engine.policy import StepPolicy, TransactionHook
from agentflow.engine.records import Place, Record
from agentflow.engine.step import Call, execute
from agentflow.engine.transaction_values import Transaction
from agentflow.engine.waiting import wait_durably, wait_id
from agentflow.errors import AgentflowError, Cancelling, DefinitionTypeError
from agentflow.model.steps import StepKind, StepRow, sequence_of
from agentflow.model.transactions import TransactionState
from agentflow.model.waits import Verdict, Wait, WaitKind, binding

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.transactions import OpenTransaction

COMMIT, ROLLBACK = "commit", "rollback"
_HAPPENED = frozenset({"completed", "cached"})
#: Every hook that this process has seen, by its phase, the name of its step and its own.
HOOKS: dict[tuple[str, str, str], TransactionHook] = {}


def named_hooks(step: str, hooks: Sequence[TransactionHook], what: str) -> Mapping[str, TransactionHook]:
    """Hooks by the names under which they are recorded. Raises `DefinitionTypeError` for what cannot be called."""
    named: dict[str, TransactionHook] = {}
    for hook in hooks:
        if not callable(hook):
            message = f"{step}: {what} wants functions of one argument, the transaction; got {hook!r}"
            raise DefinitionTypeError(message)
        base = getattr(hook, "__qualname__", type(hook).__qualname__).rpartition("<locals>.")[2]
        name, count = base, 1
        while name in named:
            count += 1
            name = f"{base} #{count}"
        named[name] = HOOKS[what.removeprefix("on_"), step, name] = hook
    return named


@dataclass(slots=True)
class Done:
    """A step that has happened in a transaction, and has hooks."""

    #: Position of its last row in the run's journal: hooks of commits run in this order, those of rollbacks against it.
    seq: int
    name: str
    on_commit: Sequence[str]
    on_rollback: Sequence[str]
    #: JSON of the values that its body has set.
    values: dict[str, Any]
    #: Nobody knows whether it happened: what its row says of that.
    doubt: dict[str, Any] | None = None
    #: The functions by phase and name, where this life has seen them: one of each phase may have the same name.
    hooks: Mapping[tuple[str, str], TransactionHook] = field(
        default_factory=dict[tuple[str, str], TransactionHook]
    )
    #: The transaction in whose block it was called.
    within: Transaction | None = None


class HookCall(NamedTuple):
    """One hook to be run, as the journal keeps it."""

    seq: int
    step: str
    hook: str
    #: JSON of the values that it finds, without those of the transaction that runs it.
    values: dict[str, Any]
    doubt: dict[str, Any] | None


def done(row: StepRow, policy: StepPolicy | None = None) -> Done | None:
    """What a step's last row leaves to a transaction; None for a step that has not happened, or has no hooks."""
    doubtful = row.event == "unknown"
    if (row.event not in _HAPPENED and not doubtful) or row.detail is None:
        return None
    detail: dict[str, Any] = orjson.loads(row.detail)
    if "hooks" not in detail:
        return None
    on_commit, on_rollback = detail["hooks"]
    found = Done(sequence_of(row.id), row.name, on_commit, on_rollback, detail.get("values", {}))
    if policy is not None:  # the code of this life has the last word
        found.on_commit, found.on_rollback = list(policy.on_commit), list(policy.on_rollback)
        phases = ((COMMIT, policy.on_commit), (ROLLBACK, policy.on_rollback))
        found.hooks = {(phase, name): hook for phase, hooks in phases for name, hook in hooks.items()}
    if doubtful:
        found.on_commit = ()
        found.doubt = {
            "started": detail.get("started_at"),
            "executed": detail.get("arguments"),
            "evidence": detail.get("error"),
        }
    return found


def calls_of(entries: Sequence[Done], phase: str, outer: Transaction) -> list[HookCall]:
    """The hooks to be run in `phase`, in their order."""
    calls: list[HookCall] = []
    for entry in sorted(entries, key=lambda item: item.seq):
        names = entry.on_commit if phase == COMMIT else entry.on_rollback
        around = {} if entry.within is None or entry.within is outer else entry.within.seen(outer)
        values = around | entry.values
        calls += [HookCall(entry.seq, entry.name, name, values, entry.doubt) for name in names]
    if phase == ROLLBACK:
        calls.reverse()
    return calls


def hook_frame(run: ActiveRun, body: Frame, phase: str, rt: Runtime) -> Frame:
    """The frame in which hooks of `body` (a transaction, or what a step was called from) run."""
    frame = Frame(run, body.parent, body.policy, body.place)
    frame.stand_for(body.stable)  # hooks belong to all attempts, as effects do
    frame.branch = run.hasher.digest(b"hooks|" + phase.encode())
    frame.started = True  # a row of the body itself, or of the step, has been written
    frame.compensating = True
    frame.counted = body.counted
    frame.in_effect = body.in_effect
    frame.task = rt.task()
    frame.thread = 0 if frame.task is not None else get_ident()
    return frame


async def run_hooks(
    body: Frame,
    phase: str,
    calls: Sequence[HookCall],
    outer: Transaction | None,
    known: Mapping[int, Done],
    rt: Runtime,
) -> tuple[str, ...]:
    """Run hooks in their order, each once over all lives. One that raises is logged, the others still run.

    `known`: the steps that this life has seen, by their positions. Returns the waits whose answers were read and not
    yet taken.
    """
    run = body.run
    frame = hook_frame(run, body, phase, rt)
    answered: tuple[str, ...] = ()
    own: dict[int, Transaction] = {}
    for item in calls:
        key = run.hasher.digest(b"hook|%b|%d|%b" % (phase.encode(), item.seq, item.hook.encode()))
        if key in run.transactions.hooks_run:
            continue
        if item.doubt is not None:
            decided = await _ask(frame, item, rt)
            answered += (decided.id,)
            if decided.decision is None or decided.decision.verdict is not Verdict.HAPPENED:
                continue
        if item.seq not in own:
            own[item.seq] = Transaction(item.step, run.codec, outer, values=item.values)
            own[item.seq].state = (
                TransactionState.COMMITTED if phase == COMMIT else TransactionState.ROLLED_BACK
            )
        seen = known.get(item.seq)
        hook = None if seen is None else seen.hooks.get((phase, item.hook))
        hook = hook or HOOKS.get((phase, item.step, item.hook))
        await _run_hook(frame, phase, item, key, hook, own[item.seq], answered, rt)
        run.transactions.hooks_run.add(key)
        body.counted = frame.counted
        answered = ()
    return answered


async def _run_hook(
    frame: Frame,
    phase: str,
    item: HookCall,
    key: bytes,
    hook: TransactionHook | None,
    own: Transaction,
    answered: tuple[str, ...],
    rt: Runtime,
) -> None:
    run = frame.run
    policy = StepPolicy(name=f"{phase} {item.step}: {item.hook}", kind=StepKind.HOOK, plain=True)
    function = partial(_body if not rt.awaits else _body_async, hook, item, own)
    call = Call(frame, policy, key, function, (), {}, dict, lambda _: ((), {}))
    call.answered = answered
    try:
        own.restore(await execute(call, rt))
    except (Exception, asyncio.CancelledError) as error:
        if run.fence is not None and not isinstance(run.fence, Cancelling):
            raise
        row, records = call.last, run.records
        if row is None or records is None or row.id > records.last:  # not only recalled
            text = f"{policy.name} raised {error!r}; the other hooks still run"
            run_log(run, text, level=logging.ERROR, step=item.step)


def _called(hook: TransactionHook | None, item: HookCall, own: Transaction) -> Any:
    if hook is None:
        message = (
            f"the journal knows of the hook {item.hook!r} of {item.step}, and the code has none of that name"
        )
        raise AgentflowError(message)
    frame = CURRENT.get()
    if frame is not None:
        frame.root.transaction = own
    return hook(own)


def _body(hook: TransactionHook | None, item: HookCall, own: Transaction) -> dict[str, Any]:
    from agentflow.engine.runtime import await_in_thread  # noqa: PLC0415 - the two need each other

    answer = _called(hook, item, own)
    if isawaitable(answer):
        await_in_thread(answer)
    return own.seen(own.parent)


async def _body_async(hook: TransactionHook | None, item: HookCall, own: Transaction) -> dict[str, Any]:
    answer = _called(hook, item, own)
    if isawaitable(answer):
        await answer
    return own.seen(own.parent)


async def _ask(frame: Frame, item: HookCall, rt: Runtime) -> Wait:
    """Ask whether an effect of a transaction that is being rolled back happened: only then is it undone."""
    run, doubt = frame.run, item.doubt or {}
    place: Place = (b"doubt", frame.branch, item.seq)
    arguments = doubt.get("executed")
    question = {
        "message": (
            f"{item.step} ended in doubt, and its transaction is being rolled back. Did it happen? Only if you say "
            f"so does {item.hook} run to undo it; nothing runs {item.step} again"
        ),
        "arguments": arguments,
        **doubt,
    }
    wait = Wait(
        id=wait_id(run, WaitKind.IN_DOUBT, frame.stable, place),
        run=run.number,
        run_id=run.run.id,
        flow=run.run.flow,
        step=run.identify(frame.stable, place).hex(),
        kind=WaitKind.IN_DOUBT,
        name=item.step,
        question=question,
        schema={},
        digest=binding(item.step, arguments),
        policy="",
        opened=run.options.clock(),
    )
    return await wait_durably(run, frame, wait, rt)


def open_around(frame: Frame) -> list[OpenTransaction]:
    """The transactions around a call, from the inside out; none for what a hook does."""
    found: list[OpenTransaction] = []
    for body in frame.enclosing():
        if body.compensating:
            break
        if body.opened is not None:
            found.append(body.opened)
    return found


Execute = Callable[[Call, Place, "Runtime"], Awaitable[Any]]


async def execute_hooked(call: Call, place: Place, rt: Runtime, run_it: Execute) -> Any:
    """Execute a step that has hooks, and leave them to the transaction around it; outside of one, it has committed."""
    opens = open_around(call.frame)
    mine: Future[None] = Future()
    for opened in opens:
        opened.running.add(mine)
    try:
        try:
            value = await run_it(call, place, rt)
        finally:
            entry = None if call.last is None else done(call.last, call.policy)
            if entry is not None and opens:
                entry.within = opens[0].transaction
                opens[0].done[entry.seq] = entry
        if entry is not None and not opens:
            await _committed_alone(call, entry, rt)
        elif entry is not None and opens[0].is_over:
            await opens[0].too_late(entry, rt)
    finally:
        for opened in opens:
            opened.running.discard(mine)
        mine.set_result(None)
    return value


async def _committed_alone(call: Call, entry: Done, rt: Runtime) -> None:
    calls = [HookCall(entry.seq, entry.name, name, entry.values, None) for name in entry.on_commit]
    if calls:
        await run_hooks(call.frame.root, COMMIT, calls, None, {entry.seq: entry}, rt)


def left_over(run: ActiveRun, record: Record, seen: Mapping[int, Done]) -> list[Done]:
    """What earlier lives recorded in a transaction, and the code of this one has not come to."""
    if run.records is None:
        return []
    fresh = (
        inner.row
        for inner in run.records.below(record)
        if inner.seq not in seen and inner.seq not in run.transactions.hooks_over
    )
    return [entry for row in fresh if (entry := done(row)) is not None]
