"""Lives of runs for tests: start one, kill it, answer what it asks, resume it - with injected clocks and no waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agentflow.approvals.decisions import decide
from agentflow.approvals.gate import PolicyGate
from agentflow.engine.active import Options
from agentflow.engine.flow_run import Outcome
from agentflow.flows import Flow
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.runs import Origin
from agentflow.model.steps import StepRow
from agentflow.model.waits import Channel, Verdict, Wait
from agentflow.settings import Settings

KEY = b"k" * 32


class Death(BaseException):
    """The process dies here: nothing is recorded any more, and the run can be resumed."""


class Clock:
    """A clock that moves when somebody sleeps, or is told to."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now
        #: Every delay that was asked for.
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)
        await asyncio.sleep(0)


def options(
    clock: Clock | None = None, *, gate: bool = False, suspend: bool = True, **settings: Any
) -> Options:
    """A virtual clock, eviction at once, a short grace; `gate`: approvals are asked for."""
    clock = clock or Clock()
    given: dict[str, Any] = {"quiet_grace": 0.001, "poll_interval": 0.01, **settings}
    chosen = Settings(**given)
    return Options(
        settings=chosen,
        clock=clock,
        sleep=clock.sleep,
        sleep_async=clock.sleep_async,
        random=lambda: 0.5,
        suspend_after=0.0 if suspend else None,
        gate=PolicyGate() if gate else None,
    )


def always(value: Any) -> Callable[..., Any]:
    """A function that returns `value`, whatever it is called with."""

    def call(*_: Any, **__: Any) -> Any:
        return value

    return call


def memory() -> MemoryJournal:
    """An empty journal."""
    return MemoryJournal(KEY)


def start(
    flow: Flow[..., Any],
    *args: Any,
    journal: Journal | None = None,
    using: Options | None = None,
    origin: Origin = Origin.PERSON,
    **kwargs: Any,
) -> Outcome:
    """The first life of a run."""
    arguments = flow.binder.validate(flow.binder.arguments(args, kwargs))
    return flow.run(arguments, journal=journal or memory(), options=using or options(), origin=origin)


def value_of(flow: Flow[..., Any], *args: Any, using: Options | None = None, **kwargs: Any) -> Any:
    """What a flow returns; its exception is raised."""
    outcome = start(flow, *args, using=using, **kwargs)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def die(
    flow: Flow[..., Any], *args: Any, journal: Journal, using: Options | None = None, **kwargs: Any
) -> str:
    """A first life that dies; returns the run's id."""
    try:
        outcome = start(flow, *args, journal=journal, using=using, **kwargs)
    except Death:
        return last_run(journal)
    message = f"it lived: {outcome}"
    raise AssertionError(message)


def last_run(journal: Journal) -> str:
    """The id of the newest run."""
    return journal.list_runs(RunFilter(limit=1))[0].id


def resume(flow: Flow[..., Any], run_id: str, journal: Journal, using: Options | None = None) -> Outcome:
    """A later life."""
    return flow.resume(run_id, journal=journal, options=using or options())


def open_wait(journal: Journal) -> Wait:
    """The one question that is open."""
    (wait,) = journal.list_waits()
    return wait


def answer(journal: Journal, verdict: Verdict, value: Any = None, reason: str = "") -> Wait:
    """A person answers the one open question."""
    return decide(
        journal,
        open_wait(journal).id,
        verdict,
        answer=value,
        reason=reason,
        actor="ann",
        channel=Channel.CODE,
    )


def rows(journal: Journal, *events: str, name: str = "") -> list[StepRow]:
    """The rows of the first run, by event and step name."""
    return [
        row
        for row in journal.steps(1)
        if (not events or row.event in events) and (not name or row.name == name)
    ]


def log_of(journal: Journal, number: int = 1) -> list[str]:
    """The lines that a run has logged."""
    return [line.text for _, line in journal.logs(number)]


def with_gate(using: Options) -> Options:
    """The same options, with approvals."""
    return replace(using, gate=PolicyGate())
