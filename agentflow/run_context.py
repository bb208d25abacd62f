"""What code can ask of runs: inside one who it is, a key, a name for a branch; from anywhere an event, its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from agentflow.engine.away import ABROAD, Away, refusal
from agentflow.engine.context import CURRENT, Frame, current_frame, key_of
from agentflow.engine.hooks import flow_run_of, flow_run_of_life, task_run_of
from agentflow.engine.tags import TAGS, check_tags, effective_tags
from agentflow.errors import MissingContextError, RunNotFoundError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.runs import FlowRun, Run, TaskRun
from agentflow.model.steps import StepKind
from agentflow.payloads.arguments import decode_arguments
from agentflow.payloads.opening import open_codec

if TYPE_CHECKING:
    from agentflow.engine.step import Call

_TASKS = frozenset({StepKind.TASK, StepKind.MODEL, StepKind.TOOL})
#: Characters of a reason that are kept.
_REASON_LIMIT = 300


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where the caller stands."""

    run_id: str
    flow: str
    #: Name of the running task; the flow's name in the flow's own code.
    step: str
    #: Which attempt of it this is, from 1.
    attempt: int
    #: The run's name.
    run_name: str
    #: The running task's own name (``task_run_name``), where it has one.
    task_run_name: str
    #: Everything that labels what runs here.
    tags: frozenset[str]
    _read_parameters: Callable[[], dict[str, Any]] = field(repr=False, compare=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the run, as they were recorded."""
        return self._read_parameters()

    @property
    def flow_run(self) -> FlowRun:
        """The run of the flow around the caller, as hooks see it: inside of a sub-flow, the call of that one.

        Raises `MissingContextError` in a body that a task runner has sent to another process.
        """
        return flow_run_around(_frame_here("get_run_context().flow_run"))

    @property
    def task_run(self) -> TaskRun | None:
        """The call of the task around the caller, as hooks see it; None in a flow's own code.

        Raises `MissingContextError` in a body that a task runner has sent to another process.
        """
        return task_run_around(_frame_here("get_run_context().task_run"))


def _frame_here(what: str) -> Frame:
    if ABROAD.get() is not None:
        raise MissingContextError(refusal(what))
    return current_frame(what)


def flow_run_around(frame: Frame) -> FlowRun:
    """The run, or the call of a sub-flow, in whose body a frame is."""
    body = next(flows_around(frame))
    if body.parent is None:
        return flow_run_of_life(frame.run)
    return flow_run_of(_call_of(body), body.attempt)


def task_run_around(frame: Frame) -> TaskRun | None:
    """The call of a task in whose body a frame is, without a flow in between."""
    for body in frame.enclosing():
        if body.policy.kind is StepKind.FLOW:
            return None
        if body.policy.kind in _TASKS:
            return task_run_of(_call_of(body), body.attempt)
    return None


def flows_around(frame: Frame) -> Iterator[Frame]:
    """The bodies of flows around a frame, from the inside out; the last one is the run's."""
    return (body for body in frame.enclosing() if body.policy.kind is StepKind.FLOW)


def _call_of(body: Frame) -> Call:
    call = body.run.bodies.get(body)
    if call is None:
        message = f"this code of {body.policy.name} was given up: its time was over"
        raise MissingContextError(message)
    return call


def get_run_context() -> RunContext:
    """The context of the running flow or task. Raises `MissingContextError` outside of a flow."""
    abroad = ABROAD.get()
    if abroad is not None:
        return _context_away(abroad.step)
    frame = current_frame("get_run_context()")
    run = frame.run
    return RunContext(
        run_id=run.run.id,
        flow=run.run.flow,
        step=frame.policy.name,
        attempt=frame.attempt + 1,
        run_name=run.run.name,
        task_run_name=frame.root.notes.get("run_name", ""),
        tags=effective_tags(frame),
        _read_parameters=partial(decode_arguments, run.codec, run.run.parameters),
    )


def _context_away(step: Away) -> RunContext:
    def no_parameters() -> dict[str, Any]:
        raise MissingContextError(refusal("reading the run's parameters"))

    return RunContext(
        run_id=step.run_id,
        flow=step.flow,
        step=step.step,
        attempt=step.attempt,
        run_name=step.run_name,
        task_run_name=step.task_run_name,
        tags=step.tags,
        _read_parameters=no_parameters,
    )


def idempotency_key() -> str:
    """A key for the running side effect, to be sent to whoever executes it: 32 hexadecimal digits.

    It depends on the run, the step and the executed arguments: the same over attempts and resumes. Raises
    `MissingContextError` outside of a flow.
    """
    abroad = ABROAD.get()
    return key_of(current_frame("idempotency_key()")) if abroad is None else abroad.step.key


@contextmanager
def tags(*labels: str) -> Generator[frozenset[str], None, None]:
    """Label the runs and steps that begin in this block, beside the labels that they have; blocks add up.

    Raises `DefinitionError` for what is no tag: empty, not text, of several lines.
    """
    token = TAGS.set(TAGS.get() | check_tags(labels))
    try:
        yield TAGS.get()
    finally:
        TAGS.reset(token)


@contextmanager
def scope(name: str) -> Generator[None, None, None]:
    """Name the branch of the calls made in this block, so that they keep their records when code around them moves."""
    frame = current_frame("scope()")
    base = frame.run.hasher.digest(b"scope|" + name.encode())
    count = frame.kids.get(base, 0)
    frame.kids[base] = count + 1
    branch = frame.branched(frame.run.hasher.digest(b"%b|%b|%d" % (frame.branch, base, count)), frame.task)
    token = CURRENT.set(branch)
    try:
        yield
    finally:
        CURRENT.reset(token)


def send_event(run_id: str, name: str, payload: Any = None, *, journal: Journal | None = None) -> bool:
    """Send an event to a run: to the first `wait_for_event` of that name, else kept for the next one.

    Returns whether somebody was waiting. Raises `RunNotFoundError`, `RunFinishedError`.
    """
    journal = journal or open_journal()
    if journal.get_run(run_id) is None:
        raise RunNotFoundError(run_id)
    data = open_codec(journal).encode_part(payload)
    return journal.send_event(run_id, name, data, time.time()) is not None


def cancel_run(run_id: str, *, actor: str, reason: str = "", journal: Journal | None = None) -> Run:
    """Ask a run to stop, and the runs that it has started; returns it as it stands then.

    Where nobody runs it, it is CANCELLED at once; unless a transaction is to be rolled back, or its flow has
    ``on_cancellation`` hooks: then as soon as somebody takes it up again, who runs nothing else of it. Else it is
    CANCELLING until its owner has seen that: what waits is woken, async work is cancelled, sync work is refused its
    next step, side effects under way end first. Who asked and why stays with the run; a second request changes nothing.
    Raises `RunNotFoundError`, `RunFinishedError`.
    """
    why = f"cancelled by {actor}" + (f": {reason[:_REASON_LIMIT]}" if reason else "")
    return (journal or open_journal()).request_cancel(run_id, why)
