"""How one kind of step behaves: a frozen value, built once per task; run state never lives here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentflow.model.steps import StepKind

if TYPE_CHECKING:
    from agentflow.engine.caching import CachePolicy
    from agentflow.engine.hooks import Hooks
    from agentflow.engine.places import TaskRunner

#: Called with the transaction; may be async.
TransactionHook = Callable[[Any], Any]
#: What a task may say about approval: by origin (None), always, never, or a policy value of agentflow.approvals.
ApprovalRule = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPolicy:
    """Options of a step. Delays and timeouts are seconds."""

    name: str
    kind: StepKind = StepKind.TASK
    retries: int = 0
    retry_delays: tuple[float, ...] = ()
    retry_jitter_factor: float = 0.0
    #: What hooks and conditions are given first: the task or flow.
    owner: Any = field(default=None, repr=False, compare=False)
    hooks: Hooks | None = None
    #: The condition is called with (task, task run, state), as in Prefect, instead of with the exception.
    condition_sees_state: bool = False
    #: Called with the exception; False (or raising) = do not retry. May be async for async tasks.
    retry_condition: Callable[..., Any] | None = None
    timeout_seconds: float | None = None
    cache_policy: CachePolicy | None = None
    cache_expiration: dt.timedelta | None = None
    refresh_cache: bool = False
    side_effect: bool = False
    idempotent: bool = False
    not_done_on: tuple[type[BaseException], ...] = ()
    approval: ApprovalRule = None
    persist_result: bool = True
    #: None = as the code around it says.
    log_prints: bool | None = None
    tags: frozenset[str] = frozenset()
    #: (arguments by name) -> how people see this one call.
    run_name: Callable[[Mapping[str, Any]], str] | None = None
    #: Other names under which earlier code recorded the step.
    aliases: tuple[str, ...] = ()
    #: (arguments by name) -> validated and coerced arguments by name; raises ValueError. For edits of a person.
    validate: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    #: JSON schema of the arguments, for people who edit them.
    schema: Callable[[], dict[str, Any]] | None = None
    description: str = ""
    #: A person's JSON for the result of an effect that happened -> the value.
    read_answer: Callable[[Any], Any] | None = None
    #: Digest of the source, for cache policies that ask for it.
    source: Callable[[], bytes] | None = None
    #: ``file:qualname``: the task's identity across runs.
    identity: str = ""
    #: Written to the row of the end: (value) -> detail, e.g. the usage of a model request.
    detail: Callable[[Any], dict[str, Any]] | None = None
    #: Run once the transaction around the step commits, or is rolled back: by the names under which they are recorded.
    on_commit: Mapping[str, TransactionHook] = field(default_factory=dict[str, TransactionHook])
    on_rollback: Mapping[str, TransactionHook] = field(default_factory=dict[str, TransactionHook])
    #: Whether there is any of these.
    hooked: bool = False
    #: Of a flow: where the bodies of the tasks run that it submits; None = threads.
    runner: TaskRunner | None = None
    #: True where nothing but "run it, record it" is asked for; set by `finish`.
    plain: bool = field(default=False)

    def is_plain(self) -> bool:
        """Whether the lean way of the engine is enough."""
        return not (
            self.retries
            or self.side_effect
            or self.cache_policy is not None
            or self.timeout_seconds is not None
            or not self.persist_result
            or self.tags
            or self.run_name is not None
            or self.on_commit
            or self.hooks is not None
            or self.on_rollback
        )

    def delay_before(self, attempt: int, jitter: float) -> float:
        """Seconds to wait before attempt number `attempt` (from 1); `jitter` is a random number in [0, 1)."""
        if not self.retry_delays:
            return 0.0
        base = self.retry_delays[min(attempt, len(self.retry_delays)) - 1]
        return base * (1 + self.retry_jitter_factor * jitter)


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """Retry delays that double: ``backoff_factor * 2**n`` seconds before retry n + 1."""

    def delays(retries: int) -> list[float]:
        return [backoff_factor * 2.0**attempt for attempt in range(retries)]

    return delays


def retry_delays(
    value: float | Sequence[float] | Callable[[int], Sequence[float]] | None, retries: int
) -> tuple[float, ...]:
    """Normalise `retry_delay_seconds`: a number, a list whose last item repeats, or a function of the retry count."""
    if value is None:
        return ()
    if callable(value):
        value = value(retries)
    if isinstance(value, (int, float)):
        return (float(value),)
    return tuple(float(item) for item in value)
