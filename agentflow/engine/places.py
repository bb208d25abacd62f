"""Places where the bodies of submitted tasks run instead of in this process: what the engine asks of a task runner.

Only a body goes there. Its record, retries, cache, approval and future stay in the flow's process, so that a place
holds nothing that the journal does not. The task runners themselves are in `agentflow.task_runners`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from agentflow.engine.away import Away, Line
from agentflow.engine.context import CURRENT, Frame, key_of
from agentflow.engine.logs import heard, lowest_level, records_prints
from agentflow.engine.runtime import Loop
from agentflow.engine.tags import effective_tags
from agentflow.model.steps import StepKind

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.step import Call


@dataclass(frozen=True, slots=True)
class Errand:
    """A body to be run somewhere else, once."""

    away: Away
    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    #: The context variables that the body is to see.
    context: Context
    #: Limit in seconds, counted from when the body begins; the place keeps it.
    seconds: float | None
    #: Takes the body's lines, from any thread.
    hear: Callable[[Line], None]


@dataclass(frozen=True, slots=True)
class Returned:
    """How a body ended: its value, or its exception."""

    value: Any = None
    error: BaseException | None = None
    #: How long it ran.
    seconds: float = 0.0


class Sent(Protocol):
    """A body on its way."""

    @property
    def future(self) -> Future[Returned]:
        """Its end. Fails with `Overdue`, `WorkerDied` or `NotSent` where the body itself gave none."""
        ...

    def stop(self) -> None:
        """Nobody wants it any more: it is not begun, or ended where that is possible. Callable from any thread."""
        ...


class Workplace(Protocol):
    """Where the bodies of one run are sent."""

    @property
    def runs_once(self) -> bool:
        """Whether a body never runs a second time because something broke. Otherwise side effects stay at home."""
        ...

    def send(self, errand: Errand) -> Sent:
        """Run a body as soon as there is room for it. Does not block; callable from any thread."""
        ...

    def close(self) -> None:
        """End everything that was begun for the run. What still runs is ended where that is possible."""
        ...


class TaskRunner(Protocol):
    """Where the bodies of the tasks run that a flow submits: the flow's ``task_runner``.

    A hashable value without state of a run: many runs may share one.
    """

    @property
    def max_workers(self) -> int | None:
        """How many bodies of one run may run at once; None: the runner's own measure."""
        ...

    def open(self) -> Workplace | None:
        """A place for the bodies of one run; None = threads of this process. Does not block."""
        ...


class LoopAway(Loop):
    """A loop whose bodies run elsewhere: the place keeps their time, because it knows when they begin."""

    async def timed(
        self,
        seconds: float,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        frame: Frame,
    ) -> Any:
        """Call the user's function."""
        del seconds, frame
        return await function(*args, **kwargs)


LOOP_AWAY = LoopAway()


def runner_of(frame: Frame) -> TaskRunner | None:
    """The task runner of the flow in which a call is made; None = threads, as many as the settings say."""
    for around in frame.enclosing():
        if around.policy.kind is StepKind.FLOW:
            return around.policy.runner
    return None


def place_for(frame: Frame, policy: StepPolicy, runner: TaskRunner | None) -> Workplace | None:
    """Where the body of a task submitted in `frame` is to run; None = in this process."""
    if runner is None:
        return None
    place = _opened(frame, runner)
    if place is None or (policy.side_effect and not policy.idempotent and not place.runs_once):
        return None
    return place


def _opened(frame: Frame, runner: TaskRunner) -> Workplace | None:
    run = frame.run
    if runner not in run.places:
        run.check(frame)  # a run that has ended opens nothing
        with run.lock:
            if runner not in run.places:
                run.places[runner] = runner.open()
    return run.places[runner]


def close_places(run: ActiveRun) -> None:
    """End what was begun for a run elsewhere."""
    with run.lock:
        places = [place for place in run.places.values() if place is not None]
    for place in places:
        place.close()


def send_away(call: Call, place: Workplace) -> Call:
    """Let the call's function run at `place`."""
    body = partial(_run_away, place, call.policy, call.fn)
    body.__wrapped__ = call.fn  # pyright: ignore[reportAttributeAccessIssue] - cache keys see through it
    call.fn = body
    return call


async def _run_away(
    place: Workplace, policy: StepPolicy, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    frame = cast("Frame", CURRENT.get())
    run = frame.run
    away = Away(
        run_id=run.run.id,
        flow=run.run.flow,
        step=policy.name,
        attempt=frame.attempt + 1,
        run_name=run.run.name,
        task_run_name=frame.root.notes.get("run_name", ""),
        tags=effective_tags(frame),
        key=key_of(frame),
        log_prints=records_prints(frame),
        log_level=lowest_level(run),
    )
    hear = partial(heard, run, policy.name)
    sent = place.send(Errand(away, fn, args, kwargs, copy_context(), policy.timeout_seconds, hear))
    try:
        returned = await asyncio.wrap_future(sent.future)
    except asyncio.CancelledError:
        sent.stop()
        raise
    frame.t0 = run.clock() - returned.seconds
    if returned.error is not None:
        raise returned.error
    return returned.value
