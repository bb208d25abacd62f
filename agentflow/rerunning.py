"""Runs of a flow that go on after their end, and runs that begin where another one stood. Part of `agentflow.flows`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentflow.engine.active import ActiveRun, Options
from agentflow.engine.flow_run import Body, Outcome
from agentflow.engine.forks import Cut, cut_at
from agentflow.engine.poison import fruitless_lives, park, parked_message
from agentflow.engine.policy import StepPolicy
from agentflow.engine.reopening import reopen
from agentflow.engine.runtime import INLINE, drive
from agentflow.engine.termination import live, live_on_loop
from agentflow.errors import ParameterError, RunNotFoundError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.payloads.arguments import Given
from agentflow.payloads.opening import open_codec
from agentflow.settings import Settings
from agentflow.signatures import Binder


class Reruns:
    """What a flow can do with its earlier runs; mixed into `Flow`, which has the rest."""

    name: str
    binder: Binder
    validate_parameters: bool
    policy: StepPolicy

    def claim(
        self,
        run_id: str,
        *,
        journal: Journal | None = None,
        options: Options | None = None,
        take_over: bool = False,
        origin: Origin | None = None,
    ) -> tuple[ActiveRun, dict[str, Any]]:
        """See `Flow.claim`."""
        raise NotImplementedError

    def body(self, arguments: Mapping[str, Any]) -> Body:
        """See `Flow.body`."""
        raise NotImplementedError

    def new_run(
        self, arguments: Mapping[str, Any], journal: Journal, options: Options, origin: Origin
    ) -> NewRun:
        """See `Flow.new_run`."""
        raise NotImplementedError

    # -- going on
    def retry(
        self,
        run_id: str,
        *,
        journal: Journal | None = None,
        options: Options | None = None,
        origin: Origin | None = None,
    ) -> Outcome:
        """Have an ended run of this flow go on, in this thread: what failed runs again, the rest is reused.

        A run that failed gets another attempt: the steps through which it failed run again, and the pure ones after
        them in their branches; all pure ones, where the flow's own code failed. A cancelled or crashed run goes on
        where it was cut off. Side effects that happened stay; one in doubt is asked about.

        `origin`: who asks for it, if not whoever asked for the run. Raises `RunNotFoundError`, and `UsageError` where
        the run has not ended, or has completed.
        """
        journal = _opened(journal, options)
        self.reopen(run_id, journal, origin=origin)
        active, arguments = self.claim(run_id, journal=journal, options=options, origin=origin)
        return live(active, self.body(arguments))

    async def retry_async(
        self,
        run_id: str,
        *,
        journal: Journal | None = None,
        options: Options | None = None,
        origin: Origin | None = None,
    ) -> Outcome:
        """Like `retry`, for an async flow on the running loop."""
        journal = _opened(journal, options)
        self.reopen(run_id, journal, origin=origin)
        active, arguments = self.claim(run_id, journal=journal, options=options, origin=origin)
        return await live_on_loop(active, self.body(arguments))

    def reopen(self, run_id: str, journal: Journal, *, origin: Origin | None = None) -> Run:
        """Make an ended run of this flow PENDING, for whoever claims it. Raises as `retry` does."""
        return reopen(journal, self.own_run(run_id, journal), origin=origin)

    def park(self, run: Run, lives: int, *, journal: Journal, options: Options) -> str:
        """End a run that has taken so many processes down in a row as CRASHED, and run its hooks; returns why.

        "" where it has moved meanwhile. Raises as `claim` does.
        """
        active, _ = self.claim(run.id, journal=journal, options=options)
        if active.epoch != run.epoch + 1:
            journal.release_run(active.run)
            return ""
        message = parked_message(run, lives)
        drive(park(active, self.policy, message, INLINE))
        return message

    def parked(self, run: Run, *, journal: Journal, options: Options) -> str:
        """Why the run ends here and now, as it has only taken processes down lately; "" where it may go on."""
        most = options.settings.max_crashes
        lives = fruitless_lives(journal, run) if most else 0
        return self.park(run, lives, journal=journal, options=options) if 0 < most <= lives else ""

    # -- going another way
    def fork(
        self,
        run_id: str,
        *,
        from_step: str,
        parameters: Mapping[str, Any] | None = None,
        journal: Journal | None = None,
        options: Options | None = None,
        origin: Origin = Origin.PERSON,
    ) -> Outcome:
        """Run a new run that begins with what a run of this flow had recorded before a step.

        Each side effect from there on is signed by a person, whatever its policy says.

        Args:
            run_id: The run to begin with; no live process may be running it.
            from_step: Id of the step or an end of it, or its name; ``name#2`` is the second one of that name.
            parameters: Arguments that differ from those of the other run, by name.
            journal: Where both runs are kept; default: the one of the environment.
            options: As for `run`.
            origin: Who asks for it.

        Raises:
            RunNotFoundError: There is no such run.
            UsageError: There is no such step, or the run is being run.
            ParameterError: The arguments do not fit.
        """
        journal, options = _opened(journal, options), options or Options(settings=Settings.from_environment())
        cut = cut_at(journal, self.own_run(run_id, journal), from_step)
        run = self.forked(run_id, cut, parameters or {}, journal, options, origin)
        active, arguments = self.claim(run.id, journal=journal, options=options, origin=origin)
        return live(active, self.body(arguments))

    def forked(
        self,
        run_id: str,
        cut: Cut,
        parameters: Mapping[str, Any],
        journal: Journal,
        options: Options,
        origin: Origin,
    ) -> Run:
        """Make the run that `fork` runs, PENDING, for whoever claims it. Raises as that does."""
        source = self.own_run(run_id, journal)
        codec = open_codec(journal, options.settings)
        arguments: Any = codec.decode(source.parameters)
        if isinstance(arguments, Given):  # it has never begun
            arguments = self._read({**arguments.values, **parameters})
        elif parameters:
            named = {**self.binder.flat(arguments), **parameters}
            arguments = {**arguments, **(self._read(named))}
        new = replace(
            self.new_run(arguments, journal, options, origin),
            name=source.name,
            fingerprint=source.fingerprint,  # of the code that has written what is copied
            deployment=source.deployment,
            deployment_version=source.deployment_version,
        )
        fork = cut.fork(source, changed=bool(parameters))
        return journal.fork_run(new, fork, cut.rows, source.origins)

    def _read(self, named: Mapping[str, Any]) -> dict[str, Any]:
        return self.binder.validate_named(named) if self.validate_parameters else self.binder.spread(named)

    def own_run(self, run_id: str, journal: Journal) -> Run:
        """The run, which must be one of this flow. Raises `RunNotFoundError`, `ParameterError`."""
        known = journal.get_run(run_id)
        if known is None:
            raise RunNotFoundError(run_id)
        if known.flow != self.name:
            message = f"run {run_id} is one of {known.flow}, not of {self.name}"
            raise ParameterError(message)
        return known


def _opened(journal: Journal | None, options: Options | None) -> Journal:
    return journal or open_journal(options.settings if options else Settings.from_environment())
