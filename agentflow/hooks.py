"""Hooks of tasks and flows: ``on_completion``, ``on_failure``, ... as options, and as decorators of what is declared.

When they run, and what they may do: see `agentflow.engine.hooks`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from agentflow.engine.hooks import Hook, Hooks
from agentflow.engine.policy import StepPolicy
from agentflow.errors import DefinitionTypeError
from agentflow.model.runs import FlowRun, TaskRun

__all__ = ["FlowHooks", "FlowRun", "Hook", "TaskHooks", "TaskRun", "hooks_from", "sees_state"]

H = TypeVar("H", bound=Hook)
TASK_HOOKS = ("on_completion", "on_failure", "on_running")
FLOW_HOOKS = (*TASK_HOOKS, "on_cancellation", "on_crashed")
_PREFECTS = 3


def hooks_from(name: str, given: Mapping[str, Any]) -> Hooks | None:
    """The hooks among options; None where there are none. Raises `DefinitionTypeError` for what cannot be called."""
    unknown = sorted(given.keys() - set(FLOW_HOOKS))
    if unknown:
        message = f"{name}: unexpected keyword argument {', '.join(unknown)}"
        raise TypeError(message)
    found: dict[str, tuple[Hook, ...]] = {}
    for kind in FLOW_HOOKS:
        value = given.get(kind) or ()
        hooks = list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else [value]
        for hook in hooks:
            if not callable(hook):
                message = f"{name}: {kind} wants functions of (task or flow, its run, state), not {hook!r}"
                raise DefinitionTypeError(message)
        if hooks:
            found[kind] = tuple(hooks)
    return Hooks(**found) if found else None


def sees_state(name: str, condition: Callable[..., Any] | None) -> bool:
    """Whether a retry condition takes (task, task run, state), as in Prefect; otherwise it takes the exception."""
    if condition is None:
        return False
    try:
        signature = inspect.signature(condition)
    except (TypeError, ValueError):  # some builtins
        return False
    for count in (_PREFECTS, 1):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count == _PREFECTS
    message = f"{name}: retry_condition_fn wants a function of (task, task run, state), or of the exception"
    raise DefinitionTypeError(message)


class TaskHooks:
    """The decorators of a task."""

    name: str
    policy: StepPolicy
    options: Mapping[str, Any]

    def on_completion(self, hook: H) -> H:
        """Decorator: call `hook` after it has completed."""
        return self._watch("on_completion", hook)

    def on_failure(self, hook: H) -> H:
        """Decorator: call `hook` after it has failed for good, its retries used up."""
        return self._watch("on_failure", hook)

    def on_running(self, hook: H) -> H:
        """Decorator: call `hook` before each attempt."""
        return self._watch("on_running", hook)

    def _watch(self, kind: str, hook: H) -> H:
        hooks_from(self.name, {kind: [hook]})
        known = self.policy.hooks or Hooks()
        hooks = (*getattr(known, kind), hook)
        self.options = {**self.options, kind: hooks}
        self._set_policy(replace(self.policy, hooks=replace(known, **{kind: hooks}), plain=False))
        return hook

    def _set_policy(self, policy: StepPolicy) -> None:
        self.policy = policy


class FlowHooks(TaskHooks):
    """The decorators of a flow."""

    def on_cancellation(self, hook: H) -> H:
        """Decorator: call `hook` after the run has been cancelled, in the process that runs it or takes it up."""
        return self._watch("on_cancellation", hook)

    def on_crashed(self, hook: H) -> H:
        """Decorator: call `hook` after the run has ended as crashed (not after a kill: such a run goes on later)."""
        return self._watch("on_crashed", hook)
