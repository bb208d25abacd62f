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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Self

from agentflow.background import background_flow
from agentflow.beginning import code_of, leaving
from agentflow.claiming import loaded
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
from agentflow.journal.protocol import Journal, RunClaim
from agentflow.model.limits import RunLimits
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS
from agentflow.tasks import Task
from agentflow.workers.admission import Admission
from agentflow.workers.pruning import Pruning
from agentflow.workers.rests import Rests
from agentflow.workers.suspects import Suspects

#: How many runs that are due are read at once.
_PAGE = 100
_LAST_MOMENT = 0.2  # seconds for a thread to notice that its run is over
#: How many runs in the background are remembered that wait for a place.
_BACKLOG = 100


class _Terms(NamedTuple):
    code: str  # the fingerprint of the flow's code
    limits: RunLimits


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
        #: The flows of the runs that are under way, or about to be, by name.
        self._under_way: dict[str, str] = {}
        self._backlog: deque[Run] = deque()  # in the background, and waiting for a place
        self._rests = Rests(self.options.clock)
        self._suspects = Suspects(journal, self.options, on_error)
        self._pruning = Pruning(journal, self.options)
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
            self._changed.wait_for(lambda: self._hurried or not self._under_way, patience)
        if self._under_way:
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

    @property
    @abstractmethod
    def places(self) -> int:
        """How many runs can be under way at once."""

    def has_room(self) -> bool:
        """Whether one more can be. Where none can, those that only wait leave memory at once."""
        if len(self._under_way) < self.places:
            return True
        self.make_room()
        return False

    def claim(self, runs: Sequence[tuple[Flow[..., Any], Run]]) -> Collection[str]:
        """Claim runs that are about to be under way, if that is done here and not by `live`; ids of those to begin."""
        return [run.id for _, run in runs]

    @abstractmethod
    def give_back(self, run_id: str) -> None:
        """Own a run no longer that was claimed here and will not begin."""

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
                self._pruning.go_on()
            except (Exception, Unwinding) as error:  # noqa: BLE001 - the journal may be out of reach for a while
                self._on_error(f"cannot look for runs to recover: {error}")
            self._wake.wait(self.options.settings.poll_interval)
            self._wake.clear()

    def recover(self) -> list[str]:
        """Start whatever of these flows is due and owned by nobody; returns the ids."""
        admission = Admission(self.journal, self._under_way)
        # there may be many thousands in the background: while some are known, nobody looks for more
        known = self.background.keys() if self._backlog else ()
        started: list[str] = []
        for page in self._due_runs(known):
            started += self._begin(run for run in page if self._takes_up(run, admission))
        waiting = list[Run]()
        while self._backlog and self.has_room() and not self._is_full():
            run = self._backlog.popleft()
            waiting += [run] if self._keeps_place(run, admission) else []
        return started + self._begin(waiting)

    def _due_runs(self, without: Collection[str]) -> Iterator[list[Run]]:
        """What is due, oldest first, for as long as there is room: as many as there are places for, then in pages."""
        after, size = 0, min(_PAGE, max(1, self.places - len(self._under_way)))
        while self.has_room():
            page = self.journal.due_runs(self.options.clock(), after=after, limit=size, without=without)
            yield page
            if len(page) < size:
                return
            after, size = page[-1].number, _PAGE

    def _takes_up(self, run: Run, admission: Admission) -> bool:
        return self.has_room() and not self._is_set_aside(run) and self._keeps_place(run, admission)

    def _begin(self, runs: Iterable[Run]) -> list[str]:
        """Claim runs that have a place, all at once, and start the lives of those that are free; returns their ids."""
        wanted: list[tuple[Flow[..., Any], Run]] = []
        begun: Collection[str] = ()
        try:
            wanted.extend((self.flow_of(run), run) for run in runs)
            begun = self.claim(wanted) if wanted else ()
        finally:
            for _, run in wanted:
                if run.id not in begun:
                    self._under_way.pop(run.id, None)
        return [run.id for flow, run in wanted if run.id in begun and self._start(flow, run.id)]

    def _is_set_aside(self, run: Run) -> bool:
        """Whether a run in the background has to wait: for a place, or behind others that do. Some are remembered."""
        if run.flow not in self.background or not (self._backlog or self._is_full()):
            return False
        if len(self._backlog) < _BACKLOG:
            self._backlog.append(run)
        return True

    def _keeps_place(self, run: Run, admission: Admission) -> bool:
        """Whether the run is to be begun here now; if so, it has a place from then on."""
        if not self.serves(run.flow):
            self._settle(run)
            return False
        found = self.flow_of(run)
        return (
            not self._stopping
            and not self._rests.holds(run.id)
            and run.id not in self._under_way
            and not self.is_parked(found, run)
            and not self.keeps_apart(run)
            and admission.admits(found, run)
            and self._reserve(found, run.id)
        )

    def _settle(self, run: Run) -> None:
        """A run that was asked to stop and whose owner has died is over, whoever sees that."""
        if run.state is StateType.CANCELLING:
            with suppress(RunFinishedError):
                self.journal.request_cancel(run.id, run.message)

    def is_parked(self, flow: Flow[..., Any], run: Run) -> bool:
        """Whether the run ends here, as all that its lives do is to take processes down."""
        return self._suspects.parks(flow, run)

    def keeps_apart(self, run: Run) -> bool:
        """Whether this process may die of it, or of one that is under way, so that the two are not to be together."""
        return self._suspects.keep_apart(run, list(self._under_way))

    def _is_full(self) -> bool:
        """Whether one more run in the background has to wait for a place; those that only wait then leave theirs."""
        taken = sum(name in self.background for name in list(self._under_way.values()))
        if self._limit is None or taken < self._limit:
            return False
        self.make_room()
        return True

    def _launch(self, flow: Flow[..., Any], run_id: str) -> bool:
        return self._reserve(flow, run_id) and self._start(flow, run_id)

    def _reserve(self, flow: Flow[..., Any], run_id: str) -> bool:
        with self._lock:
            free = not (self._stopping or run_id in self._under_way) and self.has_room()
            if free:  # else it stays due
                self._under_way[run_id] = flow.name
        return free

    def _start(self, flow: Flow[..., Any], run_id: str) -> bool:
        thread = threading.Thread(
            target=self._live, args=(flow, run_id), name=f"agentflow-{flow.name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads
            self._under_way.pop(run_id, None)
            self.give_back(run_id)
            self._on_error(f"run {run_id} cannot begin here now: {error}")
            return False
        with self._lock:
            if run_id in self._under_way:
                self._threads[run_id] = thread
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
            self._suspects.forget(run_id)
            self._rests.note(run_id, moved=moved)
            self._on_change()

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
        self._claimed: dict[str, tuple[Run, _Terms]] = {}  # their lives are about to begin

    @property
    def places(self) -> int:
        return self.options.settings.max_runs

    def claim(self, runs: Sequence[tuple[Flow[..., Any], Run]]) -> Collection[str]:
        flows = {flow for flow, _ in runs}
        known = {flow: _Terms(code_of(flow), flow.limits(self.journal)) for flow in flows}
        terms = {run.id: known[flow] for flow, run in runs}
        wanted = [RunClaim(run_id, code, start=not limits.names) for run_id, (code, limits) in terms.items()]
        claimed = {run.id: (run, terms[run.id]) for run in self.journal.claim_runs(wanted)}
        self._claimed |= claimed
        return claimed

    def give_back(self, run_id: str) -> None:
        known = self._claimed.pop(run_id, None)
        if known is not None:
            self.journal.release_run(known[0])

    def live(self, flow: Flow[..., Any], run_id: str) -> bool:
        known = self._claimed.pop(run_id, None)
        if known is None:
            active, arguments = flow.claim(run_id, journal=self.journal, options=self.options)
        else:
            active, arguments = loaded(self.journal, known[0], self.options, *known[1])
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
