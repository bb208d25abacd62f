"""The worker inside a server or MCP process: starts runs of the flows it was given, recovers them, waits for them.

`Worker` is what all kinds of workers have in common; an `InlineWorker` gives each run a thread of this process, and
`agentflow.workers.process` has the one that gives it a process of its own. A waiting run leaves memory after a while
and comes back when its wait is over.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Self

from agentflow.background import background_flow
from agentflow.beginning import leaving
from agentflow.engine.active import ActiveRun, Options
from agentflow.engine.flow_run import run_blocking
from agentflow.engine.forks import Cut, cut_at
from agentflow.engine.waiting import waker_of
from agentflow.errors import (
    AgentflowError,
    FlowNotFoundError,
    NotResumableError,
    ParameterError,
    RunFinishedError,
    RunNotFoundError,
    RunOwnedError,
    Stopping,
    Unwinding,
)
from agentflow.flows import Flow, default_options
from agentflow.journal.protocol import Journal
from agentflow.model.runs import CRASHES_LIMIT, NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS
from agentflow.settings import DAY
from agentflow.tasks import Task
from agentflow.workers.admission import Admission

#: Seconds before the third life in a row that got nowhere, and at the most.
_SHORTEST_REST, _LONGEST_REST = 0.5, 60.0
_HOUR = 3600.0
#: How many runs that are due, or old, are read at once.
_PAGE = 100
#: Seconds for a thread to notice that its run is over.
_LAST_MOMENT = 0.2
#: How many runs in the background are remembered that wait for a place.
_BACKLOG = 100


class _Rest(NamedTuple):
    """How many lives of a run in a row got nowhere, and until when it is left alone."""

    lives: int = 0
    until: float = 0.0


class _Pruning(NamedTuple):
    """When payloads of old runs are to be removed next, and after which run."""

    at: float = 0.0
    after: int = 0


class Worker(ABC):
    """Starts, recovers and watches runs. Usable as a context manager: `start` and `stop`."""

    def __init__(
        self,
        journal: Journal,
        flows: Mapping[str, Flow[..., Any]],
        *,
        tasks: Iterable[Task[..., Any]] = (),
        limit: int | None = None,
        options: Options | None = None,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.journal = journal
        #: What can be asked for here.
        self.flows = dict(flows)
        #: The flows around tasks whose runs in the background this process takes up, `limit` of them at once.
        self.background = {made.name: made for made in map(background_flow, tasks)}
        self.background = {name: made for name, made in self.background.items() if name not in self.flows}
        self._limit = limit
        self.options = leaving(options or default_options())
        self._on_error = on_error
        self._threads: dict[str, threading.Thread] = {}
        #: The flows of the runs that are under way, by name.
        self._under_way: dict[str, str] = {}
        #: Runs in the background that have to wait for a place.
        self._backlog: deque[Run] = deque()
        self._rests: dict[str, _Rest] = {}
        self._parked: set[str] = set()
        self._pruning = _Pruning()
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._stopping = self._hurried = False
        self._undo = journal.subscribe(self._on_change)
        self._loop: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- life
    def start(self) -> None:
        """Begin to recover runs of these flows that nobody owns, now and from now on."""
        if self._loop is None:
            self._loop = threading.Thread(target=self._watch, name="agentflow-worker", daemon=True)
            self._loop.start()

    def drain(self) -> None:
        """Take no more runs, and let those that are under way begin no more steps; returns at once."""
        self._stopping = True
        self._wake.set()

    def stop(self, *, patience: float | None = None) -> None:
        """Take no more runs, and give back those that are under way; others go on with them later.

        Runs that only wait leave memory, steps that have begun have `patience` seconds (default: ``drain_patience``) to
        end. What has not ended then is abandoned: it is begun again by whoever goes on with the run.
        """
        self.drain()
        patience = self.options.settings.drain_patience if patience is None else patience
        if self._loop is not None:
            self._loop.join(patience)
        with self._changed:
            self._changed.wait_for(lambda: self._hurried or not self._threads, patience)
        if self._threads:
            self.abandon()
        self._undo()

    def hurry(self) -> None:
        """Let `stop`, in another thread or later, wait for nothing."""
        self._hurried = True
        self._on_change()

    @abstractmethod
    def abandon(self) -> None:
        """Give back the runs that are still under way, at once."""

    @abstractmethod
    def live(self, flow: Flow[..., Any], run_id: str) -> bool:
        """Claim a run and execute a life of it to its end; returns whether it got anywhere. Raises what that raises."""

    @abstractmethod
    def has_room(self) -> bool:
        """Whether one more run can be under way."""

    @abstractmethod
    def make_room(self) -> None:
        """Let runs that only wait leave memory at once."""

    # -- asking
    def start_run(self, flow: str, arguments: Mapping[str, Any], *, origin: Origin) -> Run:
        """Start a run and return at once. `arguments` are by name and not yet validated.

        Raises `FlowNotFoundError`, `ParameterError` before any run exists.
        """
        found = self.flow(flow)
        validated = found.binder.validate_named(arguments)
        new = self.new_run(found, validated, origin)
        run = self.journal.create_run(new, state=StateType.PENDING)
        if Admission(self.journal, self._under_way).admits(found, run):
            self._launch(found, run.id)
        return run

    def new_run(self, flow: Flow[..., Any], arguments: Mapping[str, Any], origin: Origin) -> NewRun:
        """The run that is made of a call."""
        return flow.new_run(arguments, self.journal, self.options, origin)

    def retry_run(self, run_id: str, *, origin: Origin) -> Run:
        """Have an ended run go on and return at once; see `Flow.retry`. A person who asks leaves no other trace.

        Raises `RunNotFoundError`, `FlowNotFoundError`, and `UsageError` where it has not ended, or has completed.
        """
        flow = self._flow_of(run_id)
        run = flow.reopen(run_id, self.journal, origin=None if origin is Origin.PERSON else origin)
        self._launch(flow, run_id)
        return run

    def fork_run(
        self, run_id: str, from_step: str, parameters: Mapping[str, Any], *, origin: Origin
    ) -> tuple[Run, Cut]:
        """Begin a run where another one stood and return at once: the new run, and where it parts; see `Flow.fork`.

        Raises what that raises, and `FlowNotFoundError`.
        """
        flow = self._flow_of(run_id)
        cut = cut_at(self.journal, flow.own_run(run_id, self.journal), from_step)
        run = flow.forked(run_id, cut, parameters, self.journal, self.options, origin)
        self._launch(flow, run.id)
        return run, cut

    def _flow_of(self, run_id: str) -> Flow[..., Any]:
        run = self.journal.get_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        thread = self._threads.get(run_id)
        if thread is not None and run.state.is_final:
            thread.join(_LAST_MOMENT)  # it has ended, and is just being given back
        return self.flow_of(run)

    def serves(self, name: str) -> bool:
        """Whether runs of the flow of that name go on here; for runs in the background, the one around their task."""
        return name in self.flows or name in self.background

    def flow_of(self, run: Run) -> Flow[..., Any]:
        """The flow of a run. Raises `FlowNotFoundError`."""
        return self.background.get(run.flow) or self.flow(run.flow)

    def flow(self, name: str) -> Flow[..., Any]:
        """The flow of that name, which can be asked for here. Raises `FlowNotFoundError`."""
        found = self.flows.get(name)
        if found is None:
            message = f"no flow {name!r} here; there are: {', '.join(sorted(self.flows)) or 'none'}"
            raise FlowNotFoundError(message)
        return found

    def await_run(self, run_id: str, timeout: float, *, until_asked: bool = True) -> Run:
        """The run once it has ended, or (`until_asked`) waits for a person, or `timeout` seconds have passed.

        Raises `RunNotFoundError`.
        """
        deadline = time.monotonic() + timeout
        while True:
            run = self.journal.get_run(run_id)
            if run is None:
                raise RunNotFoundError(run_id)
            if run.state.is_final or (until_asked and self.asks(run)):
                return run
            left = deadline - time.monotonic()
            if left <= 0:
                return run
            with self._changed:
                self._changed.wait(min(left, self.options.settings.poll_interval))

    def asks(self, run: Run) -> bool:
        """Whether the run waits for a person, and nothing else of it moves."""
        if run.state is not StateType.PAUSED:
            return False
        return bool(self.journal.list_waits(number=run.number, kinds=PERSON_KINDS, limit=1))

    def executing(self, run: Run) -> list[tuple[str, str, float]]:
        """(kind, name, begin) of the steps that execute right now and that the journal cannot know of yet.

        Empty where another process executes them.
        """
        del run
        return []

    # -- inner
    def _on_change(self) -> None:
        self._wake.set()
        with self._changed:
            self._changed.notify_all()

    def _watch(self) -> None:
        while not self._stopping:
            try:
                self.recover()
                self._prune()
            except (Exception, Unwinding) as error:  # noqa: BLE001 - the journal may be out of reach for a while
                self._on_error(f"cannot look for runs to recover: {error}")
            self._wake.wait(self.options.settings.poll_interval)
            self._wake.clear()

    def _prune(self) -> None:
        """Remove the payloads of runs that ended long ago: some at each look, all of them once an hour."""
        days, now = self.options.settings.retention_days, self.options.clock()
        if days <= 0 or now < self._pruning.at:
            return
        last = self.journal.prune_runs(now - days * DAY, after=self._pruning.after, limit=_PAGE).last
        self._pruning = _Pruning(now if last else now + _HOUR, last)

    def recover(self) -> list[str]:
        """Start whatever of these flows is due and owned by nobody; returns the ids."""
        admission = Admission(self.journal, self._under_way)
        # there may be many thousands in the background: while some are known, nobody looks for more
        known = self.background.keys() if self._backlog else ()
        due = (run for run in self._due_runs(known) if not self._is_set_aside(run))
        started = [run.id for run in due if self._take_up(run, admission)]
        while self._backlog and self.has_room() and not self._is_full():
            run = self._backlog.popleft()
            started += [run.id] if self._take_up(run, admission) else []
        return started

    def _due_runs(self, without: Collection[str]) -> Iterator[Run]:
        """What is due, oldest first, for as long as there is room; read page by page."""
        after = 0
        while self.has_room():
            page = self.journal.due_runs(self.options.clock(), after=after, limit=_PAGE, without=without)
            for run in page:
                if not self.has_room():
                    return
                yield run
            if len(page) < _PAGE:
                return
            after = page[-1].number

    def _is_set_aside(self, run: Run) -> bool:
        """Whether a run in the background has to wait: for a place, or behind others that do. Some are remembered."""
        if run.flow not in self.background or not (self._backlog or self._is_full()):
            return False
        if len(self._backlog) < _BACKLOG:
            self._backlog.append(run)
        return True

    def _take_up(self, run: Run, admission: Admission) -> bool:
        if not self.serves(run.flow):
            self._settle(run)
            return False
        found = self.flow_of(run)
        resting = self.options.clock() < self._rests.get(run.id, _Rest()).until
        return (
            not self._stopping
            and not resting
            and not self._is_parked(run)
            and run.id not in self._threads
            and admission.admits(found, run)
            and self._launch(found, run.id)
        )

    def _settle(self, run: Run) -> None:
        """A run that was asked to stop and whose owner has died is over, whoever sees that."""
        if run.state is StateType.CANCELLING:
            with suppress(RunFinishedError):
                self.journal.request_cancel(run.id, run.message)

    def _is_parked(self, run: Run) -> bool:
        """Whether a run takes its processes down with it: it is left alone until a person resumes or cancels it."""
        if run.state is not StateType.RUNNING or run.crashes < CRASHES_LIMIT:
            return False
        if run.id not in self._parked:
            self._parked.add(run.id)
            advice = f"agentflow runs resume {run.id}, or cancel it"
            self._on_error(f"run {run.id} has crashed {run.crashes} times and is left alone ({advice})")
        return True

    def _is_full(self) -> bool:
        """Whether one more run in the background has to wait for a place; those that only wait then leave theirs."""
        taken = sum(name in self.background for name in list(self._under_way.values()))
        if self._limit is None or taken < self._limit:
            return False
        self.make_room()
        return True

    def _launch(self, flow: Flow[..., Any], run_id: str) -> bool:
        with self._lock:
            if self._stopping or run_id in self._threads or not self.has_room():
                return False  # it stays due
            thread = threading.Thread(
                target=self._live, args=(flow, run_id), name=f"agentflow-{flow.name}", daemon=True
            )
            self._threads[run_id], self._under_way[run_id] = thread, flow.name
        thread.start()
        return True

    def _live(self, flow: Flow[..., Any], run_id: str) -> None:
        moved = False
        try:
            moved = self.live(flow, run_id)
        except (RunOwnedError, RunFinishedError):  # somebody else was faster
            pass
        except (ParameterError, NotResumableError) as error:
            self._on_error(f"run {run_id}: {error}")
        except (AgentflowError, Unwinding) as error:
            self._on_error(f"run {run_id} stopped here and can be resumed: {error}")
        finally:
            with self._lock:
                self._threads.pop(run_id, None)
                self._under_way.pop(run_id, None)
            self._rest(run_id, moved=moved)
            self._on_change()

    def _rest(self, run_id: str, *, moved: bool) -> None:
        """A run whose lives get nowhere (an answer that nobody asks for any more, a full disk) has to wait."""
        if moved:
            self._rests.pop(run_id, None)
            return
        lives = self._rests.get(run_id, _Rest()).lives + 1
        pause = 0.0 if lives == 1 else min(_LONGEST_REST, _SHORTEST_REST * 2.0 ** (lives - 2))
        self._rests[run_id] = _Rest(lives, self.options.clock() + pause)

    def interrupt(self) -> None:
        """Look at the journal now."""
        waker_of(self.journal).poke()
        self._wake.set()


class InlineWorker(Worker):
    """Runs flows in threads of this process."""

    def __init__(self, journal: Journal, flows: Mapping[str, Flow[..., Any]], **options: Any) -> None:
        """See `Worker`."""
        super().__init__(journal, flows, **options)
        self._active: dict[str, ActiveRun] = {}

    def live(self, flow: Flow[..., Any], run_id: str) -> bool:
        active, arguments = flow.claim(run_id, journal=self.journal, options=self.options)
        with self._lock:
            self._active[run_id] = active
            if self._stopping:
                active.drain()
        try:
            outcome = run_blocking(active, flow.body(arguments))
        finally:
            with self._lock:
                self._active.pop(run_id, None)
        return outcome.state.is_final or outcome.tally.executed > 0

    def has_room(self) -> bool:
        """At most ``max_runs`` are under way. Where there are as many, those that only wait leave memory at once."""
        if len(self._threads) < self.options.settings.max_runs:
            return True
        self.make_room()
        return False

    def make_room(self) -> None:
        for life in list(self._active.values()):
            if life.options.suspend_after and life.pendings:
                life.options = replace(life.options, suspend_after=0.0)
                waker_of(self.journal).poke()

    def drain(self) -> None:
        super().drain()
        with self._lock:
            lives = list(self._active.values())
        for life in lives:
            life.drain()
        waker_of(self.journal).poke()

    def abandon(self) -> None:
        """A thread cannot be ended: its run is given back, and whatever it still does is refused."""
        with self._lock:
            lives = list(self._active.values())
        for life in lives:
            life.stop(Stopping("the process ended while it ran; it goes on when it is resumed"))
        for thread in list(self._threads.values()):
            thread.join(_LAST_MOMENT)
        for life in lives:
            self.journal.release_run(life.run)

    def executing(self, run: Run) -> list[tuple[str, str, float]]:
        """(kind, name, begin) of the steps that execute here right now and that the journal cannot know of yet."""
        life = waker_of(self.journal).life_of(run.number)
        if life is None:
            return []
        bodies = [
            body
            for body in list(life.bodies)
            if body.parent is not None and not body.waits and not body.started
        ]
        return sorted(
            ((body.policy.kind, body.policy.name, body.t0) for body in bodies), key=lambda item: item[2]
        )
