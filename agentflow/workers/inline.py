"""The worker inside a server or MCP process: starts runs of the flows it was given, recovers them, waits for them.

Each run has a thread of its own; a waiting one leaves memory after a while and comes back when its wait is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Self

from agentflow.engine.active import ActiveRun, Options
from agentflow.engine.flow_run import run_blocking
from agentflow.engine.waiting import waker_of
from agentflow.errors import (
    AgentflowError,
    FlowNotFoundError,
    ParameterError,
    RunFinishedError,
    RunNotFoundError,
    RunOwnedError,
    Unwinding,
)
from agentflow.flows import Flow, default_options
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS

#: Seconds before the third life in a row that got nowhere, and at the most.
_SHORTEST_REST, _LONGEST_REST = 0.5, 60.0


class _Rest(NamedTuple):
    """How many lives of a run in a row got nowhere, and until when it is left alone."""

    lives: int = 0
    until: float = 0.0


class InlineWorker:
    """Runs flows in this process. Usable as a context manager: `start` and `stop`."""

    def __init__(
        self,
        journal: Journal,
        flows: Mapping[str, Flow[..., Any]],
        *,
        options: Options | None = None,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.journal = journal
        self.flows = dict(flows)
        self.options = options or default_options()
        if self.options.suspend_after is None:
            self.options = default_options(self.options.settings.suspend_after)
        self._on_error = on_error
        self._threads: dict[str, threading.Thread] = {}
        self._active: dict[str, ActiveRun] = {}
        self._rests: dict[str, _Rest] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._stopping = False
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

    def stop(self, *, patience: float = 5.0) -> None:
        """Take no more runs and wait `patience` seconds for those that are under way; the rest is recovered later.

        Runs that only wait leave memory at once.
        """
        self._stopping = True
        self._wake.set()
        with self._lock:
            for active in self._active.values():
                active.options = replace(active.options, suspend_after=0.0)
        waker_of(self.journal).poke()
        if self._loop is not None:
            self._loop.join(patience)
        deadline = time.monotonic() + patience
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._undo()

    # -- asking
    def start_run(self, flow: str, arguments: Mapping[str, Any], *, origin: Origin) -> Run:
        """Start a run and return at once. `arguments` are by name and not yet validated.

        Raises `FlowNotFoundError`, `ParameterError` before any run exists.
        """
        found = self.flow(flow)
        validated = found.binder.validate_named(arguments)
        new = found.new_run(validated, self.journal, self.options, origin)
        run = self.journal.create_run(new, state=StateType.PENDING)
        self._launch(found, run.id)
        return run

    def flow(self, name: str) -> Flow[..., Any]:
        """The flow of that name. Raises `FlowNotFoundError`."""
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

    # -- inner
    def _on_change(self) -> None:
        self._wake.set()
        with self._changed:
            self._changed.notify_all()

    def _watch(self) -> None:
        while not self._stopping:
            try:
                self.recover()
            except (Exception, Unwinding) as error:  # noqa: BLE001 - the journal may be out of reach for a while
                self._on_error(f"cannot look for runs to recover: {error}")
            self._wake.wait(self.options.settings.poll_interval)
            self._wake.clear()

    def recover(self) -> list[str]:
        """Start whatever of these flows is due and owned by nobody; returns the ids."""
        started: list[str] = []
        for run in self.journal.due_runs(self.options.clock()):
            found = self.flows.get(run.flow)
            resting = self.options.clock() < self._rests.get(run.id, _Rest()).until
            if found is not None and not self._stopping and not resting and self._launch(found, run.id):
                started.append(run.id)
        return started

    def _launch(self, flow: Flow[..., Any], run_id: str) -> bool:
        with self._lock:
            if run_id in self._threads:
                return False
            thread = threading.Thread(
                target=self._live, args=(flow, run_id), name=f"agentflow-{flow.name}", daemon=True
            )
            self._threads[run_id] = thread
        thread.start()
        return True

    def _live(self, flow: Flow[..., Any], run_id: str) -> None:
        moved = False
        try:
            active, arguments = flow.claim(run_id, journal=self.journal, options=self.options)
            with self._lock:
                self._active[run_id] = active
            outcome = run_blocking(active, flow.body(arguments))
            moved = outcome.state.is_final or outcome.tally.executed > 0
        except (RunOwnedError, RunFinishedError):  # somebody else was faster
            pass
        except ParameterError as error:
            self._on_error(f"run {run_id}: {error}")
        except (AgentflowError, Unwinding) as error:
            self._on_error(f"run {run_id} stopped here and can be resumed: {error}")
        finally:
            with self._lock:
                self._threads.pop(run_id, None)
                self._active.pop(run_id, None)
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
