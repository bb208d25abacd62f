"""The options of a task as one frozen policy, checked at its definition: what contradicts itself is refused here."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from agentflow.approvals.policies import policy_from
from agentflow.callables import identity_of, source_digest
from agentflow.engine.caching import NO_CACHE, CachePolicy, choose_policy
from agentflow.engine.calling import RESERVED
from agentflow.engine.policy import ApprovalRule, StepPolicy, TransactionHook, retry_delays
from agentflow.engine.tags import check_tags
from agentflow.engine.transaction_hooks import named_hooks
from agentflow.errors import DefinitionError, DefinitionTypeError
from agentflow.hooks import sees_state
from agentflow.naming import RunName, name_maker
from agentflow.settings import Settings
from agentflow.signatures import Binder

RetryDelay = float | Sequence[float] | Callable[[int], Sequence[float]] | None
_MAX_DELAYS = 50


def build_policy(
    name: str,
    fn: Callable[..., Any],
    binder: Binder,
    *,
    description: str | None = None,
    retries: int | None = None,
    retry_delay_seconds: RetryDelay = None,
    retry_jitter_factor: float = 0.0,
    retry_condition_fn: Callable[..., bool | Awaitable[bool]] | None = None,
    timeout_seconds: float | None = None,
    cache_policy: CachePolicy | None = None,
    cache_key_fn: Callable[[Any, Mapping[str, Any]], str | None] | None = None,
    cache_expiration: dt.timedelta | None = None,
    refresh_cache: bool = False,
    side_effect: bool = False,
    idempotent: bool = False,
    not_done_on: type[BaseException] | Sequence[type[BaseException]] = (),
    approval: ApprovalRule = None,
    persist_result: bool = True,
    log_prints: bool | None = None,
    task_run_name: RunName = None,
    tags: Iterable[str] = (),
    aliases: Iterable[str] = (),
    on_commit: Sequence[TransactionHook] = (),
    on_rollback: Sequence[TransactionHook] = (),
) -> StepPolicy:
    """The policy of a task. Raises `DefinitionError` for options that contradict each other."""
    count, delays = retries_of("task", retries, retry_delay_seconds, may_repeat=not side_effect)
    result = StepPolicy(
        name=name,
        retries=count,
        retry_delays=delays,
        retry_jitter_factor=retry_jitter_factor,
        retry_condition=retry_condition_fn,
        timeout_seconds=timeout_seconds,
        cache_policy=choose_policy(cache_policy, cache_key_fn, expires=cache_expiration is not None),
        cache_expiration=cache_expiration,
        refresh_cache=refresh_cache,
        side_effect=side_effect,
        idempotent=idempotent,
        not_done_on=(not_done_on,) if isinstance(not_done_on, type) else tuple(not_done_on),
        approval=approval,
        persist_result=persist_result,
        log_prints=log_prints,
        tags=check_tags(tags),
        run_name=name_maker("task_run_name", task_run_name, name, binder.parameters),
        aliases=tuple(aliases),
        validate=binder.validate_named,
        schema=lambda: binder.schema,
        description=description if description is not None else (inspect.getdoc(fn) or ""),
        source=functools.cache(lambda: source_digest(fn)),
        identity=identity_of(fn),
        read_answer=binder.read_result,
        on_commit=named_hooks(name, on_commit, "on_commit"),
        on_rollback=named_hooks(name, on_rollback, "on_rollback"),
        hooked=bool(on_commit or on_rollback),
        condition_sees_state=sees_state(name, retry_condition_fn),
    )
    check_policy(result)
    return replace(result, plain=result.is_plain())


def retries_of(
    kind: Literal["task", "flow"], retries: int | None, delays: RetryDelay, *, may_repeat: bool = True
) -> tuple[int, tuple[float, ...]]:
    """The retries of a task or flow and their delays: what it says, else what the settings say of all.

    Not `may_repeat`: nothing is said of it but by itself.
    """
    if retries is None and not may_repeat:
        retries = 0
    if retries is None or (retries and delays is None):
        settings = Settings.from_environment()
        task = kind == "task"
        if retries is None:
            retries = settings.task_retries if task else settings.flow_retries
        if delays is None:
            delays = settings.task_retry_delay_seconds if task else settings.flow_retry_delay_seconds
            delays = delays or None
    return retries, retry_delays(delays, retries)


#: The options of a task, but for its name and its hooks.
TASK_OPTIONS = frozenset(build_policy.__kwdefaults__ or ())


def merged_options(declared: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task with others laid over them.

    `cache_policy` and `cache_key_fn` replace each other, and None for the one that is given means: not cached.
    """
    merged = {**declared, **given}
    keys = {"cache_policy", "cache_key_fn"}
    if keys & given.keys():
        for name in keys - given.keys():
            merged.pop(name, None)
        if not any(merged.get(name) for name in keys):
            merged["cache_policy"] = NO_CACHE
    return merged


def check_policy(policy: StepPolicy) -> None:
    """Raise `DefinitionError` for options that contradict each other."""
    name, effect, cached = policy.name, policy.side_effect, policy.cache_policy is not None
    check_options(
        name,
        policy.retries,
        policy.retry_delays,
        policy.timeout_seconds,
        side_effect=effect,
        persist=policy.persist_result,
    )
    policy_from(policy.approval)
    problem = ""
    if effect and policy.retries and not policy.idempotent and not policy.not_done_on:
        problem = (
            "a side effect with retries needs idempotent=True, or not_done_on=(...) with the exceptions that prove it "
            "did not happen; anything else could run it twice"
        )
    elif effect and (cached or policy.refresh_cache):
        problem = "a side effect cannot be cached; take the cache options away"
    elif not effect and (policy.idempotent or policy.not_done_on or policy.approval is not None):
        problem = "idempotent, not_done_on and approval are options of side effects; say side_effect=True"
    elif not policy.persist_result and cached:
        problem = "persist_result=False records nothing, so nothing can be cached"
    elif not policy.persist_result and policy.hooked:
        problem = "persist_result=False records nothing, so no transaction can commit or undo it; take its hooks away"
    elif policy.cache_expiration is not None and policy.cache_expiration < dt.timedelta(0):
        problem = "cache_expiration must not be negative"
    if problem:
        message = f"{name}: {problem}"
        raise DefinitionError(message)


def check_generator(policy: StepPolicy) -> None:
    """Raise `DefinitionError` for options that a generator cannot have."""
    problem = ""
    if policy.side_effect:
        problem = (
            "a side effect has one end, a generator has many items; call side effects from its body instead"
        )
    elif policy.cache_policy is not None or policy.refresh_cache:
        problem = (
            "the items of a generator cannot be cached; return them as a list, or cache the tasks it calls"
        )
    if problem:
        message = f"{policy.name}: {problem}"
        raise DefinitionError(message)


def check_options(
    name: str,
    retries: int,
    delays: tuple[float, ...],
    timeout: float | None,
    *,
    side_effect: bool = False,
    persist: bool = True,
) -> None:
    """Raise `DefinitionError` for numbers that make no sense."""
    if retries < 0 or any(delay < 0 for delay in delays) or (timeout is not None and timeout <= 0):
        message = f"{name}: retries and delays must not be negative, timeout_seconds must be positive"
        raise DefinitionError(message)
    if len(delays) > _MAX_DELAYS:
        message = f"{name}: at most {_MAX_DELAYS} retry delays; the last one repeats"
        raise DefinitionError(message)
    if side_effect and not persist:
        message = f"{name}: a side effect is always recorded; take persist_result=False away"
        raise DefinitionError(message)


def check_parameters(name: str, binder: Binder) -> None:
    """Raise `DefinitionTypeError` for parameters that are called like the keyword arguments of every task and flow."""
    taken = sorted(RESERVED.intersection(item.name for item in binder.parameters))
    if taken:
        message = f"{name}: {', '.join(taken)} cannot be a parameter's name; every call takes that itself: rename it"
        raise DefinitionTypeError(message)
