"""The worker inside a server or MCP process: starts runs of the flows it was given, recovers them, waits for them.

`Worker` is what all kinds of workers have in common; an `InlineWorker` gives each run a thread of this process, and
`agentflow.workers.process` has the one that gives it a process of its own. A waiting run leaves memory after a while
and comes back when its wait is over.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Self

from agentflow.background import background_flow
from agentflow.beginning import code_of, leaving
from agentflow.claiming import loaded
from agentflow.engine.active import ActiveRun, Options
from agentflow.engine.crew import Crew
from agentflow.engine.ends import Ends
from agentflow.engine.flow_run import Outcome, run_blocking
from agentflow.engine.waiting import waker_of
from agentflow.errors import (
    AgentflowError,
    NotResumableError,
    OtherKeyError,
    ParameterError,
    RunFinishedError,
    RunOwnedError,
    Stopping,
    Unwinding,
)
from agentflow.flows import Flow, default_options
from agentflow.journal.protocol import EndsRunsTogether, Journal, RunClaim
from agentflow.model.limits import RunLimits
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.tasks import Task
from agentflow.workers.admission import Admission, Kind, kind_of
from agentflow.workers.asking import LAST_MOMENT, Asking
from agentflow.workers.pruning import Pruning
from agentflow.workers.rests import Rests
from agentflow.workers.suspects import Suspects
from agentflow.workers.times import Times

#: How many runs that are due are read at once.
_PAGE = 100
#: Seconds between two looks where the journal tells of what others do: for times that come, and for owners that died.
_LOOK = 1.0
#: The share of the places that are to be free before more is claimed, unless a moment (seconds) has passed.
_SHARE, _MOMENT = 4, 0.01
#: How many runs in the background are remembered that wait for a place.
_BACKLOG = 100


class _Terms(NamedTuple):
    code: str  # the fingerprint of the flow's code
    limits: RunLimits


class _Claimed(NamedTuple):
    """A run whose life is about to begin."""

    run: Run
    terms: _Terms
    fresh: bool  # nothing is recorded of it


class Worker(Asking):
    """Starts, recovers and watches runs. Usable as a context manager: `start` and `stop`."""

    def __init__(
        self,
        journal: Journal,
        flows: Mapping[str, Flow[..., Any]],
        *,
        tasks: Iterable[Task[..., Any]] = (),
        limit: int | None = None,
        limits_flows: bool = False,
        options: Options | None = None,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.journal = journal
        #: What can be asked for here.
        self.flows = dict(flows)
        #: The flows around tasks whose runs in the background this process takes up.
        self.background = {made.name: made for made in map(background_flow, tasks)}
        self.background = {name: made for name, made in self.background.items() if name not in self.flows}
        self._limit = limit
        #: The flows of which at most `limit` runs are under way at once: those around tasks, or (`limits_flows`) all.
        self._limited = self.background.keys() | (self.flows.keys() if limits_flows else set[str]())
        self.options = leaving(options or default_options())
        self._on_error = on_error
        self._crew = Crew()
        #: What the runs that are under way, or about to be, are runs of.
        self._under_way: dict[str, Kind] = {}
        self._backlog: deque[Run] = deque()  # waiting for a place
        self._rests = Rests(self.options.clock)
        self._times = Times(self.options.clock)
        self._suspects = Suspects(journal, self.options, on_error)
        self._pruning = Pruning(journal, self.options)
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._wake, self._has_room = threading.Event(), threading.Event()
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
        self._has_room.set()
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
    def live(self, flow: Flow[..., Any], run_id: str) -> bool | None:
        """Claim a run and execute a life of it to its end; returns whether it got anywhere. Raises what that raises.

        None: it is not over; `go_on` is called with the rest of it.
        """

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

    def executing(self, run: Run) -> list[tuple[str, str, float]]:
        """(kind, name, begin) of the steps that execute right now and that the journal cannot know of yet.

        Empty where another process executes them.
        """
        del run
        return []

    # -- inner
    def _on_change(self) -> None:
        if not self._wake.is_set():
            self._wake.set()
        with self._changed:
            self._changed.notify_all()

    def _watch(self) -> None:
        told = ""
        while not self._stopping:
            try:
                self.recover()
                self._pruning.go_on()
                if told:
                    self._on_error("looks for runs to recover again")
                told = ""
            except (Exception, Unwinding) as error:  # noqa: BLE001 - the journal may be out of reach for a while
                if str(error) != told:
                    self._on_error(f"cannot look for runs to recover: {error}")
                told = str(error)
            interval = self.options.settings.poll_interval
            longest = max(interval, _LOOK) if self.journal.hears() else interval
            self._wake.wait(self._times.until_next(longest))
            self._let_room_grow()
            self._wake.clear()

    def _let_room_grow(self) -> None:
        """Where few places are free, more may come free in a moment; and what would only wait for a thread can wait."""
        moment = True
        while not self._is_hungry() and not self._stopping and (moment or self._crew.waiting):
            self._has_room.wait(_MOMENT)
            self._has_room.clear()
            moment = False

    def _is_hungry(self) -> bool:
        share = self.places // _SHARE
        return self.places - len(self._under_way) >= share >= self._crew.waiting

    def recover(self) -> list[str]:
        """Start whatever of these flows is due and owned by nobody; returns the ids."""
        admission = Admission(self.journal, self._under_way)
        # there may be many thousands in the background: while some are known, nobody looks for more
        known = self._limited if self._backlog else ()
        started = self._begin_due(admission, known)
        waiting = list[Run]()
        while self._backlog and self.has_room() and not self._is_full():
            run = self._backlog.popleft()
            waiting += [run] if self._keeps_place(run, admission) else []
        return started + self._begin(waiting)

    def _begin_due(self, admission: Admission, without: Collection[str]) -> list[str]:
        """Start what is due, oldest first, for as many places as are free now; those that come free have a look again.

        As much is read as there are places for, and whole pages where nothing of that could begin.
        """
        free, after, found_none = self.places - len(self._under_way), 0, False
        started: list[str] = []
        while self.has_room() and len(started) < free:
            size = _PAGE if found_none else min(_PAGE, free - len(started))
            page = self.journal.due_runs(self.options.clock(), after=after, limit=size, without=without)
            begun = self._begin(run for run in page if self._takes_up(run, admission))
            started += begun
            if len(page) < size:
                break
            after, found_none = page[-1].number, not begun
        return started

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
        """Whether a run has to wait: for a place, or behind others that do. Some are remembered."""
        if run.flow not in self._limited or not (self._backlog or self._is_full()):
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
            and self._reserve(run)
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
        """Whether one more run has to wait for a place; those that only wait then leave theirs."""
        taken = sum(kind.flow in self._limited for kind in list(self._under_way.values()))
        if self._limit is None or taken < self._limit:
            return False
        self.make_room()
        return True

    def _launch(self, flow: Flow[..., Any], run: Run) -> bool:
        return self._reserve(run) and self._start(flow, run.id)

    def _reserve(self, run: Run) -> bool:
        with self._lock:
            free = not (self._stopping or run.id in self._under_way) and self.has_room()
            if free:  # else it stays due
                self._under_way[run.id] = kind_of(run)
        return free

    def _start(self, flow: Flow[..., Any], run_id: str) -> bool:
        try:
            self._crew.start(partial(self._live, flow, run_id), f"agentflow-{flow.name}")
        except RuntimeError as error:  # the system gives no more threads
            self._under_way.pop(run_id, None)
            self.give_back(run_id)
            self._on_error(f"run {run_id} cannot begin here now: {error}")
            return False
        return True

    def _live(self, flow: Flow[..., Any], run_id: str) -> None:
        self.go_on(run_id, lambda: self.live(flow, run_id))

    def go_on(self, run_id: str, stretch: Callable[[], bool | None]) -> None:
        """Execute a stretch of a run's life; see `live`."""
        moved: bool | None = False
        try:
            moved = stretch()
        except (RunOwnedError, RunFinishedError):  # somebody else was faster
            pass
        except OtherKeyError as error:
            self._on_error(str(error))
            self._rests.leave(run_id)
        except (ParameterError, NotResumableError) as error:
            self._on_error(f"run {run_id}: {error}")
        except (AgentflowError, Unwinding) as error:
            self._on_error(f"run {run_id} stopped here and can be resumed: {error}")
        finally:
            if moved is not None:
                self._is_over(run_id, moved=moved)

    def _is_over(self, run_id: str, *, moved: bool) -> None:
        with self._lock:
            self._under_way.pop(run_id, None)
        self._suspects.forget(run_id)
        self._rests.note(run_id, moved=moved)
        if self._is_hungry():
            self._has_room.set()
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
        self._claimed: dict[str, _Claimed] = {}
        self._ends = (
            Ends(journal, lambda: self._crew.waiting > 0) if isinstance(journal, EndsRunsTogether) else None
        )

    @property
    def places(self) -> int:
        return self.options.settings.max_runs

    def claim(self, runs: Sequence[tuple[Flow[..., Any], Run]]) -> Collection[str]:
        kinds = {kind_of(run): flow for flow, run in runs}
        known = {
            kind: _Terms(code_of(flow, self.journal), flow.limits(self.journal, kind.deployment))
            for kind, flow in kinds.items()
        }
        terms = {run.id: known[kind_of(run)] for _, run in runs}
        wanted = [RunClaim(run_id, code, start=not limits.names) for run_id, (code, limits) in terms.items()]
        claimed = self.journal.claim_runs(wanted)
        first = {run.number for run in claimed if run.epoch == 1}
        first -= set(self.journal.forked(list(first))) if first else first
        held = {run.id: _Claimed(run, terms[run.id], run.number in first) for run in claimed}
        self._claimed |= held
        return held

    def give_back(self, run_id: str) -> None:
        known = self._claimed.pop(run_id, None)
        if known is not None:
            self.journal.release_run(known.run)

    def live(self, flow: Flow[..., Any], run_id: str) -> bool | None:
        known = self._claimed.pop(run_id, None)
        if known is None:
            if self._stopping:
                return False
            active, arguments = flow.claim(run_id, journal=self.journal, options=self.options)
        else:
            run, terms, fresh = known
            active, arguments = loaded(flow, self.journal, run, self.options, *terms, fresh=fresh)
        with self._lock:
            self._active[run_id] = active
            if self._stopping:
                active.drain()
        self._suspects.begin(run_id)
        body = flow.body(arguments)
        active.leaves_end = self._ends is not None and not body.is_async and body.policy.hooks is None
        outcome = run_blocking(active, body)
        if self._ends is None or outcome.end is None:
            return self._has_moved(outcome)
        with self._lock:
            self._active.pop(run_id, None)
        self._ends.add(outcome.end, partial(self._has_ended, run_id))
        return None

    def _has_ended(self, run_id: str, refusal: BaseException | None) -> None:
        def moved() -> bool:
            if refusal is not None:
                raise refusal
            return True

        self.go_on(run_id, moved)

    def _has_moved(self, outcome: Outcome) -> bool:
        self._times.note(wait.due for wait in outcome.waiting_for)
        return outcome.state.is_final or outcome.tally.executed > 0

    def _is_over(self, run_id: str, *, moved: bool) -> None:
        with self._lock:
            self._active.pop(run_id, None)
        super()._is_over(run_id, moved=moved)

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
        self._let_end(self._under_way, LAST_MOMENT)
        for run_id in tuple(self._claimed):
            self.give_back(run_id)
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
