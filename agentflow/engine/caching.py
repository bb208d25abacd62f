"""Results across runs: cache policies, and the key that finds an earlier result.

The task's identity (its file and qualified name) is always part of the key. A key that would contain something that
cannot be made canonical (a client, a connection) is no key: the call is not cached, and the log says which argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

from agentflow.errors import DefinitionError
from agentflow.payloads.digests import canonical

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.policy import StepPolicy


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What makes two calls of a task the same. Policies add up with ``+``; ``- "name"`` leaves an argument out."""

    inputs: bool = False
    task_source: bool = False
    run_id: bool = False
    flow_parameters: bool = False
    without: frozenset[str] = frozenset()
    key_fn: Callable[[Any, Mapping[str, Any]], str | None] | None = None

    def __add__(self, other: CachePolicy) -> CachePolicy:
        return CachePolicy(
            self.inputs or other.inputs,
            self.task_source or other.task_source,
            self.run_id or other.run_id,
            self.flow_parameters or other.flow_parameters,
            self.without | other.without,
            self.key_fn or other.key_fn,
        )

    def __sub__(self, argument: str) -> CachePolicy:
        return replace(self, inputs=True, without=self.without | {argument})

    @property
    def is_on(self) -> bool:
        """Whether anything is cached at all."""
        return (
            self.inputs or self.task_source or self.run_id or self.flow_parameters or self.key_fn is not None
        )


INPUTS = CachePolicy(inputs=True)
TASK_SOURCE = CachePolicy(task_source=True)
RUN_ID = CachePolicy(run_id=True)
FLOW_PARAMETERS = CachePolicy(flow_parameters=True)
NO_CACHE = CachePolicy()
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID


def choose_policy(
    policy: CachePolicy | None,
    key_fn: Callable[[Any, Mapping[str, Any]], str | None] | None,
    *,
    expires: bool,
) -> CachePolicy | None:
    """The policy of a task: what it says; its key function; INPUTS + TASK_SOURCE where only an expiration is given."""
    if policy is not None and key_fn is not None:
        message = "give cache_policy or cache_key_fn, not both"
        raise DefinitionError(message)
    if key_fn is not None:
        return CachePolicy(key_fn=key_fn)
    if policy is None:
        return INPUTS + TASK_SOURCE if expires else None
    return policy if policy.is_on else None


class NoKey(Exception):
    """The call cannot be cached; the text says why."""


def closure_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """What a function takes from the functions around it: inputs like its arguments, by name."""
    cells = inspect.unwrap(fn).__closure__ if isinstance(inspect.unwrap(fn), FunctionType) else None
    if not cells:
        return {}
    names = inspect.unwrap(fn).__code__.co_freevars
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True) if _is_filled(cell)}


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def cache_key(
    run: ActiveRun,
    policy: StepPolicy,
    arguments: Mapping[str, Any],
    context: object,
    closure: Mapping[str, Any],
) -> bytes:
    """The key of a call across runs. Raises `NoKey`."""
    rule = policy.cache_policy
    if rule is None:
        message = "no cache policy"
        raise NoKey(message)
    parts: list[Any] = [policy.identity]
    if rule.key_fn is not None:
        own = rule.key_fn(context, arguments)
        if own is None:
            message = "cache_key_fn returned None"
            raise NoKey(message)
        parts.append(own)
    if rule.inputs and closure:
        parts += _inputs(rule, closure)
    if rule.inputs:
        parts += _inputs(rule, arguments)
    if rule.task_source:
        parts.append(policy.source() if policy.source is not None else b"")
    if rule.run_id:
        parts.append(run.run.id)
    if rule.flow_parameters:
        parts.append(run.run.parameters)
    return run.hasher.digest(canonical(parts)[0])


def _inputs(rule: CachePolicy, arguments: Mapping[str, Any]) -> list[Any]:
    parts: list[Any] = []
    for name, value in arguments.items():
        if name in rule.without:
            continue
        data, opaque = canonical([value])
        if opaque:
            kinds = ", ".join(opaque)
            message = f"argument {name!r} ({kinds}) has no canonical form; subtract it from the policy"
            raise NoKey(message)
        parts += [name, data]
    return parts
