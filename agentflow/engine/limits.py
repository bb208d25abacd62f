"""Limits that apply by themselves: to each task of a tag, each run of a flow or deployment. For slots see `slots`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from agentflow.engine.context import Frame
from agentflow.engine.logs import run_log
from agentflow.engine.records import ROOT
from agentflow.engine.runtime import Extras
from agentflow.engine.slots import claim_of, keeper_of, take
from agentflow.engine.tags import effective_tags
from agentflow.errors import (
    AcquireConcurrencySlotTimeoutError,
    Cancelling,
    DefinitionError,
    LimitNotFoundError,
    Unwinding,
    UsageError,
)
from agentflow.journal.protocol import Journal
from agentflow.model.limits import (
    DEPLOYMENT_PREFIX,
    FLOW_PREFIX,
    TAG_PREFIX,
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    Limit,
    RunLimits,
    Slot,
    tag_limits,
)
from agentflow.model.states import StateType
from agentflow.model.steps import StepKind, StepRow

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.step import Call

#: Sub-flows and waits are no tasks.
_LIMITED = frozenset({StepKind.TASK, StepKind.MODEL, StepKind.TOOL})
#: How many holders of a limit are named.
_NAMED = 5


# -- tasks of a tag
def is_limited(call: Call) -> bool:
    """Whether the call may need a slot of a limit on one of its tags."""
    wanted = (TAG_PREFIX + tag for tag in effective_tags(call))
    return call.policy.kind in _LIMITED and not call.run.tag_limits.isdisjoint(wanted)


async def take_for_tags(call: Call, child: Frame, rt: Runtime) -> None:
    """Take a slot of each limit on a tag of the call, for one attempt of it: `child` has the claim.

    What a task around it holds counts for what it calls as well; and so does what a generator holds, for what is called
    in the branch that consumes it, between two items: it would have to wait for a generator that waits for it.
    """
    run = call.run
    if not is_limited(call):
        return
    around = {name for body in child.enclosing() for name in body.slots}
    if run.resting and not call.own:
        around |= {name for rests in tuple(run.resting) if _called_by(rests, call) for name in rests.slots}
    names = [TAG_PREFIX + tag for tag in sorted(effective_tags(call))]
    names = [name for name in names if name in run.tag_limits and name not in around]
    if not names:
        return
    settings = run.options.settings
    claim = claim_of(run.journal, settings, names, frame=call.frame, step=call.policy.name)
    if await take(run.journal, settings, claim, rt, frame=call.frame, work=call.work):
        child.slots, child.claim = tuple(names), claim.id
    child.t0 = run.clock()


def _called_by(generator: Frame, call: Call) -> bool:
    """Whether a body around the call has called the generator."""
    caller = generator.parent
    return caller is not None and caller.root in call.frame.enclosing()


async def commit_and_give_back(child: Frame, rows: list[StepRow], rt: Runtime, extras: Extras) -> None:
    """Commit how an attempt has ended and, in the same transaction, give back what it held."""
    run = child.run
    try:
        await rt.commit(run, rows, extras + Extras(released=(child.claim,)))
    except BaseException:
        give_back_soon(child)
        raise
    keeper_of(run.journal).forget(child.claim)
    child.claim = ""


def give_back_soon(child: Frame) -> None:
    """Give back what an attempt holds, if it still does; does not block and does not fail."""
    if child.claim:
        keeper_of(child.run.journal).drop(child.claim)
        child.claim = ""


# -- runs
async def enter_run(active: ActiveRun, policy: StepPolicy, rt: Runtime) -> None:
    """Wait for the slots that the run needs before it starts, or cancel it where it does not want to wait."""
    journal, settings, run = active.journal, active.options.settings, active.run
    names = active.limits.names
    frame = Frame(active, None, policy, (ROOT, ROOT, 0), 0, rt.task())
    active.check(frame)
    if active.closing is not None:  # it only rolls back what it has begun
        return
    waits = run.started is not None or not active.limits.cancelling

    def say() -> None:
        message = f"waits for {describe(journal, names)}"
        run_log(active, message)
        if active.tell is not None:
            active.tell(message)

    async def taken(patience: float | None) -> str:
        claim = claim_of(journal, settings, names, frame=frame, step=run.flow)
        held = await take(journal, settings, claim, rt, frame=frame, patience=patience, on_wait=say)
        return claim.id if held else ""

    try:
        active.claim = await taken(None if waits else 0.0)
    except AcquireConcurrencySlotTimeoutError:
        full = [name for name in active.limits.cancelling if not has_room(journal, name)]
        if full:
            message = (
                f"no free slot, and {run.deployment or run.flow} does not wait: {describe(journal, full)}"
            )
            active.fence = Cancelling(message)
            raise active.fence from None
        active.claim = await taken(None)  # of those that are full, none cancels
    await rt.blocking(
        partial(journal.set_state, active.number, active.epoch, StateType.RUNNING, durable=False)
    )


def limit_config(who: str, limit: int | ConcurrencyLimitConfig | None) -> ConcurrencyLimitConfig | None:
    """What a flow or a deployment declares. Raises `DefinitionError` for a limit with which it could never run."""
    if limit is None:
        return None
    config = ConcurrencyLimitConfig(limit) if isinstance(limit, int) else limit
    strategies = [strategy.value for strategy in ConcurrencyLimitStrategy]
    if config.collision_strategy not in strategies:
        given = config.collision_strategy
        message = f"{who}: collision_strategy is {' or '.join(strategies)}, not {given!r}"
        raise DefinitionError(message)
    if config.limit < 1:
        message = f"{who}: concurrency_limit must be at least 1, not {config.limit}"
        raise DefinitionError(message)
    strategy = ConcurrencyLimitStrategy(config.collision_strategy)  # its name will do, as for Prefect
    return replace(config, collision_strategy=strategy)


def limits_of_run(
    journal: Journal, flow: str, declared: ConcurrencyLimitConfig | None, deployment: str = ""
) -> RunLimits:
    """The limits of a run of `flow`; `declared`: what the flow's code says."""
    limits = journal.list_limits()
    found = [_declared(journal, limits, FLOW_PREFIX + flow, declared)]
    if deployment:
        row = journal.get_deployment(deployment)
        config = None if row is None else row.concurrency_limit
        found.append(_declared(journal, limits, DEPLOYMENT_PREFIX + deployment, config))
    mine = [limit for limit in found if limit is not None and limit.active]
    return RunLimits(
        tuple(limit.name for limit in mine),
        tuple(
            limit.name for limit in mine if limit.collision_strategy is ConcurrencyLimitStrategy.CANCEL_NEW
        ),
        tag_limits(limits),
    )


def declare(journal: Journal, name: str, declared: ConcurrencyLimitConfig | None) -> None:
    """Define a limit of runs as a deployment declares it, unless a person has."""
    _declared(journal, journal.list_limits(), name, declared)


def _declared(
    journal: Journal, limits: Iterable[Limit], name: str, declared: ConcurrencyLimitConfig | None
) -> Limit | None:
    """The limit of that name: what a person has set, or what is declared, which is defined then."""
    found = next((limit for limit in limits if limit.name == name), None)
    if found is None or found.declared:
        wanted = None
        if declared is not None:
            wanted = Limit(
                name, declared.limit, collision_strategy=declared.collision_strategy, declared=True
            )
        if wanted is not None and wanted != found:
            journal.set_limit(wanted)
        elif wanted is None and found is not None:
            journal.delete_limit(name)
        found = wanted
    return found


def has_room(journal: Journal, name: str) -> bool:
    """Whether a slot of a limit is free, and nobody waits for it."""
    with suppress(LimitNotFoundError):  # removed meanwhile: it limits nobody
        return journal.free_slots(name) >= 1 and not journal.list_slots(limit=name, waiting_only=True)
    return True


def leave_run(active: ActiveRun) -> None:
    """Give back what the run held. It has ended, or left memory, so nothing may go wrong here."""
    if active.claim:
        with suppress(Exception, Unwinding):
            keeper_of(active.journal).drop(active.claim)


# -- for people
def define(
    journal: Journal,
    name: str,
    *,
    limit: int | None = None,
    active: bool | None = None,
    slot_decay_per_second: float | None = None,
    collision_strategy: ConcurrencyLimitStrategy | None = None,
) -> Limit:
    """Define a limit, or change what is given of it; returns it. Whoever fits in now goes on at once.

    From then on the code of a flow does not change it any more. Raises `UsageError` for numbers that make no sense, and
    where a new limit has none.
    """
    before = next((found for found in journal.list_limits() if found.name == name), None)
    if before is None:
        if limit is None:
            message = f"say how many slots the new limit {name!r} has"
            raise UsageError(message)
        before = Limit(name, limit)
    changed = Limit(
        name,
        before.limit if limit is None else limit,
        before.active if active is None else active,
        before.slot_decay_per_second if slot_decay_per_second is None else slot_decay_per_second,
        before.collision_strategy if collision_strategy is None else collision_strategy,
    )
    journal.set_limit(changed)
    return changed


def describe(journal: Journal, names: Iterable[str]) -> str:
    """Of what slots are waited for, and who holds them."""
    known = {limit.name: limit for limit in journal.list_limits()}
    return "; ".join(
        _describe(known[name], journal.list_slots(limit=name)) for name in names if name in known
    )


def _describe(limit: Limit, slots: list[Slot]) -> str:
    holders = list(dict.fromkeys(holder_of(slot) for slot in slots if slot.granted is not None))
    named = ", ".join(holders[:_NAMED]) + (
        f" and {len(holders) - _NAMED} more" if len(holders) > _NAMED else ""
    )
    return f"a slot of {limit.name} (limit {limit.limit}{f', held by {named}' if named else ''})"


def holder_of(slot: Slot) -> str:
    """Who holds a slot, or waits for it."""
    return f"run {slot.run_id}" if slot.run_id else f"process {slot.owner}"
