"""Hooks: functions of the user's that are told how a run, a sub-flow or a task has come to a state.

They run outside of the run: what they call is not recorded, tasks are plain functions there. A hook of an end runs
after that end is in the journal, in the life that put it there, and never again: at most once. A life that has been
fenced runs none. What a hook raises is logged and changes nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentflow.engine.context import CURRENT
from agentflow.engine.logs import HOOK_OF, flush_logs, run_log
from agentflow.engine.tags import step_tags
from agentflow.errors import CorruptRecord
from agentflow.model.runs import FlowRun, TaskRun
from agentflow.model.states import State, StateType
from agentflow.model.steps import StepKind
from agentflow.payloads.arguments import decode_arguments

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.step import Call

#: (the task or flow, its run, the state); may be async.
Hook = Callable[[Any, Any, State[Any]], Any]


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a task or flow, in the order in which they run."""

    on_completion: tuple[Hook, ...] = ()
    on_failure: tuple[Hook, ...] = ()
    on_cancellation: tuple[Hook, ...] = ()
    on_crashed: tuple[Hook, ...] = ()
    on_running: tuple[Hook, ...] = ()

    def of(self, kind: StateType) -> tuple[Hook, ...]:
        """Those that want to know of states of that type."""
        name = _NAMES.get(kind)
        return () if name is None else getattr(self, name)


_NAMES = {
    StateType.COMPLETED: "on_completion",
    StateType.FAILED: "on_failure",
    StateType.CANCELLED: "on_cancellation",
    StateType.CRASHED: "on_crashed",
    StateType.RUNNING: "on_running",
}


def running(attempt: int) -> State[Any]:
    """The state of an attempt that begins, counted from 0."""
    return State(StateType.RUNNING, "Retrying" if attempt else "Running")


async def tell(call: Call, state: State[Any], rt: Runtime, attempt: int | None = None) -> None:
    """Run the hooks of a call that has come to `state`; `attempt`: the one that begins, counted from 0."""
    policy, run = call.policy, call.run
    if policy.hooks is None:
        return
    ending = call.noted()
    ending.attempt = attempt = ending.attempt if attempt is None else attempt
    hooks = policy.hooks.of(state.type)
    if hooks and run.fence is None:
        whose = flow_run_of(call, attempt) if policy.kind is StepKind.FLOW else task_run_of(call, attempt)
        await _call_all(run, policy, hooks, whose, state, rt)


async def tell_of_run(active: ActiveRun, policy: StepPolicy | None, state: State[Any], rt: Runtime) -> None:
    """Run the hooks of the run itself."""
    hooks = () if policy is None or policy.hooks is None else policy.hooks.of(state.type)
    if policy is not None and hooks:
        await _call_all(active, policy, hooks, flow_run_of_life(active), state, rt)
        flush_logs(active)


async def _call_all(
    run: ActiveRun, policy: StepPolicy, hooks: tuple[Hook, ...], whose: Any, state: State[Any], rt: Runtime
) -> None:
    here, mark = CURRENT.set(None), HOOK_OF.set((run, policy.name))
    run.busy_blocks += 1  # whatever else waits in the run, it does not leave memory meanwhile
    try:
        for hook in hooks:
            try:
                answer = hook(policy.owner, whose, state)
                if inspect.isawaitable(answer):
                    await rt.awaited(answer)
            except Exception as error:
                named = getattr(hook, "__qualname__", repr(hook))
                text = f"the hook {named} of {policy.name} raised {type(error).__name__}: {error}"
                run_log(run, text, level=logging.ERROR, step=policy.name)
    finally:
        run.busy_blocks -= 1
        HOOK_OF.reset(mark)
        CURRENT.reset(here)


def task_run_of(call: Call, attempt: int) -> TaskRun:
    """A call, as hooks and conditions see it."""
    run = call.run
    return TaskRun(
        id=run.identify(call.frame.stable, call.place()).hex(),
        name=call.notes.get("run_name") or call.policy.name,
        task_name=call.policy.name,
        flow_run_id=run.run.id,
        parameters=arguments_of(call),
        run_count=attempt + 1,
        tags=tuple(step_tags(call)),
    )


def arguments_of(call: Call) -> dict[str, Any]:
    """The arguments of a call by name; those of a plain one are bound now, as nobody has asked for them before."""
    owner = call.policy.owner
    if owner is None or not call.policy.plain or call.policy.kind is StepKind.FLOW:
        return call.flat(call.arguments())
    return owner.binder.flat(owner.binder.arguments(call.args, call.kwargs))


def flow_run_of(call: Call, attempt: int) -> FlowRun:
    """A sub-flow's call, as hooks see it."""
    run = call.run
    return FlowRun(
        id=run.identify(call.frame.stable, call.place()).hex(),
        name=call.notes.get("run_name") or call.policy.name,
        flow_name=call.policy.name,
        parameters=call.flat(call.arguments()),
        run_count=attempt + 1,
        tags=tuple(step_tags(call)),
        parent_run_id=run.run.id,
    )


def flow_run_of_life(active: ActiveRun) -> FlowRun:
    """A run, as hooks see it."""
    run = active.run
    try:
        parameters: Mapping[str, Any] = decode_arguments(active.codec, run.parameters)
    except CorruptRecord:  # of a class that is not loaded here; nothing that should end a run
        parameters = {}
    return FlowRun(
        id=run.id,
        name=run.name or run.flow,
        flow_name=run.flow,
        parameters=parameters,
        run_count=active.ending.attempt + 1,
        tags=run.tags,
        parent_run_id=run.parent,
        deployment=run.deployment,
    )
