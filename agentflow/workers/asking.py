"""What can be asked of a worker: runs begun, gone on with, forked, waited for. Part of `agentflow.workers.inline`."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from agentflow.deployments import Asked, ask_for_run, defaults_of, find_deployment
from agentflow.engine.active import Options
from agentflow.engine.forks import Cut, cut_at
from agentflow.errors import FlowNotFoundError, RunNotFoundError
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS
from agentflow.workers.admission import Admission, Kind

#: Seconds for a thread to notice that its run is over.
LAST_MOMENT = 0.2


class Asking(ABC):
    """The questions; a `Worker` answers them."""

    journal: Journal
    #: What can be asked for here.
    flows: dict[str, Flow[..., Any]]
    #: The flows around tasks whose runs in the background this process takes up.
    background: dict[str, Flow[..., Any]]
    options: Options
    _under_way: dict[str, Kind]
    _changed: threading.Condition

    @abstractmethod
    def _launch(self, flow: Flow[..., Any], run: Run) -> bool:
        """Begin a life of a run, if there is a place for it; else it stays due."""

    def start_run(self, flow: str, arguments: Mapping[str, Any], *, origin: Origin) -> Run:
        """Start a run and return at once. `arguments` are by name and not yet validated.

        Raises `FlowNotFoundError`, `ParameterError` before any run exists.
        """
        found = self.flow(flow)
        validated = found.binder.validate_named(arguments)
        new = self.new_run(found, validated, origin)
        run = self.journal.create_run(new, state=StateType.PENDING)
        self._offer(found, run)
        return run

    def start_deployed(self, deployment: str, asked: Asked) -> Run:
        """Ask for a run of a deployment and return at once; it begins here, if its flow is served here.

        Raises `DeploymentNotFoundError`, `DeploymentPausedError`, `ParameterError` before any run exists.
        """
        known = find_deployment(self.journal, deployment)
        flow = self.flows.get(known.flow)
        if flow is not None and flow.validate_parameters:
            flow.binder.validate_named({**defaults_of(known), **asked.parameters})
        run = ask_for_run(self.journal, deployment, asked)
        if flow is not None and run.state is StateType.PENDING:
            self._offer(flow, run)
        return run

    def _offer(self, flow: Flow[..., Any], run: Run) -> None:
        if Admission(self.journal, self._under_way).admits(flow, run):
            self._launch(flow, run)

    def new_run(self, flow: Flow[..., Any], arguments: Mapping[str, Any], origin: Origin) -> NewRun:
        """The run that is made of a call."""
        return flow.new_run(arguments, self.journal, self.options, origin)

    def retry_run(self, run_id: str, *, origin: Origin) -> Run:
        """Have an ended run go on and return at once; see `Flow.retry`. A person who asks leaves no other trace.

        Raises `RunNotFoundError`, `FlowNotFoundError`, and `UsageError` where it has not ended, or has completed.
        """
        flow = self._flow_of(run_id)
        run = flow.reopen(run_id, self.journal, origin=None if origin is Origin.PERSON else origin)
        self._launch(flow, run)
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
        self._launch(flow, run)
        return run, cut

    def _flow_of(self, run_id: str) -> Flow[..., Any]:
        run = self.journal.get_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        if run.state.is_final:
            self._let_end([run_id], LAST_MOMENT)  # it may just be being given back
        return self.flow_of(run)

    def _let_end(self, runs: Iterable[str], seconds: float) -> None:
        """Wait for lives of these runs to be over."""
        ending = set(runs)
        with self._changed:
            self._changed.wait_for(lambda: ending.isdisjoint(self._under_way), seconds)

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
