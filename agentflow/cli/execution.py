"""Runs a life of a run for a person who watches: shows it, asks at the terminal, reports how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TextIO

from rich.text import Text

from agentflow.cli import output, persons
from agentflow.cli.output import json_text, people, print_line, say, seconds
from agentflow.cli.progress import RunProgress, describe_wait, watching
from agentflow.cli.questions import answer_on_terminal, questions_of, ways_to_decide
from agentflow.engine.flow_run import Outcome
from agentflow.engine.termination import live
from agentflow.errors import RunNotFoundError, Stopping
from agentflow.flows import Flow, default_options
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import ENDS
from agentflow.model.waits import PERSON_KINDS, Wait, WaitKind
from agentflow.payloads.envelopes import Draft
from agentflow.payloads.failures import describe_failure
from agentflow.payloads.opening import open_codec
from agentflow.shells import mark_worker
from agentflow.views import StepTree, plain, stamp, waiting_view

#: What a run waits for is told one by one up to here.
_TOLD_WAITS = 5


@dataclass(frozen=True)
class Report:
    """How a command left a run."""

    run: Run
    #: Finished steps in the run's journal.
    steps: int
    #: Those that this command found in the journal and did not execute.
    reused: int
    waiting_for: tuple[Wait, ...]
    elapsed_s: float
    #: Side effects that are recorded and that the run, as it is now, never asked for.
    unclaimed: tuple[str, ...] = ()
    #: Somebody pressed Ctrl-C or sent SIGTERM.
    interrupted: bool = False
    #: Reads what its row does not hold readably.
    opened: Callable[[bytes], Draft] | None = None

    @property
    def exit_code(self) -> int:
        """0 completed, 1 failed, 3 waits for a person, 4 suspended on an event or timer, 130 interrupted."""
        if self.interrupted and not self.run.state.is_final:
            return output.INTERRUPTED
        if self.run.state is StateType.COMPLETED:
            return output.COMPLETED
        if self.run.state.is_final:
            return output.FAILED
        if questions_of(self.waiting_for):
            return output.WAITS_FOR_PERSON
        return output.SUSPENDED if self.waiting_for else output.INTERRUPTED

    def as_json(self) -> dict[str, Any]:
        """The one object of ``--json``."""
        failure = None if self.run.error is None else describe_failure(self.run.error, self.opened)
        waiting = waiting_view(self.waiting_for)
        for entry in waiting:
            entry["url"] = persons.decision_page(entry["id"])
        return {
            "run_id": self.run.id,
            "state": self.run.state.value,
            "result": plain(self.run.result, self.opened),
            "error": failure and {"type": failure["type"], "text": failure["text"]},
            "steps": self.steps,
            "reused": self.reused,
            "waiting_for": waiting,
            "elapsed_s": round(self.elapsed_s, 3),
        }


def execute(
    journal: Journal,
    flow: Flow[..., Any],
    run_id: str,
    *,
    take_over: bool = False,
    ask: bool = True,
    web: str = "",
) -> Report:
    """Run `run_id` until it ends or waits for what cannot be had here; questions are asked at the terminal, if `ask`.

    `web`: the address of a server that shows the questions, too. Raises what claiming the run raises.
    """
    mark_worker()
    started = time.monotonic()
    try:
        outcome, reused = _lives(journal, flow, run_id, take_over=take_over, ask=ask, web=web)
    except (KeyboardInterrupt, Stopping):
        return replace(report(journal, run_id, 0, time.monotonic() - started), interrupted=True)
    return report(journal, run_id, reused, time.monotonic() - started, outcome)


def _lives(
    journal: Journal, flow: Flow[..., Any], run_id: str, *, take_over: bool, ask: bool, web: str
) -> tuple[Outcome, int]:
    """One life after the other, while questions are answered here; returns the last, and the steps the first reused."""
    reused: int | None = None
    while True:
        asked = persons.origin() if ask else None  # else it is recovered, and nobody asked for it
        outcome, found = _life(journal, flow, run_id, take_over=take_over, origin=asked)
        take_over = False  # it is ours from now on
        reused = found if reused is None else reused
        if outcome.state.is_final:
            return outcome, reused
        waits = outcome.waiting_for
        if not waits:
            continue  # answered while it left memory
        questions = questions_of(waits)
        if not (questions and ask and output.has_terminal() and not persons.agent_variable()):
            return outcome, reused
        if not answer_on_terminal(journal, questions, web=web):
            return outcome, reused


def report(
    journal: Journal, run_id: str, reused: int, elapsed: float, outcome: Outcome | None = None
) -> Report:
    """How the run stands now."""
    run = journal.get_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    waits = () if run.state.is_final else tuple(journal.list_waits(number=run.number))
    unclaimed = () if outcome is None else outcome.unclaimed
    opened = open_codec(journal).open
    return Report(run, count_steps(journal, run), reused, waits, elapsed, unclaimed, opened=opened)


def count_steps(journal: Journal, run: Run) -> int:
    """How many steps of the run have ended."""
    tree = StepTree(journal.key)
    tree.feed(row._replace(value=None) for row in journal.steps(run.number))
    return sum(step["event"] in ENDS for step in tree.steps)


def _life(
    journal: Journal, flow: Flow[..., Any], run_id: str, *, take_over: bool, origin: Origin | None
) -> tuple[Outcome, int]:
    """One life; returns how it ended, and how many recorded steps it did not have to execute."""
    active, arguments = flow.claim(
        run_id, journal=journal, options=default_options(suspend_after=0), take_over=take_over, origin=origin
    )
    active.tell = lambda why: say(f"run {run_id} {why}")
    with watching(RunProgress(journal, active.run, active)) as progress:
        outcome = live(active, flow.body(arguments), ours=True)
    return outcome, len(progress.reused())


def present(report: Report, *, json: bool, stream: TextIO) -> int:
    """Write the result to `stream` and everything else to stderr; returns the exit code."""
    if json:
        print_line(json_text(report.as_json()), stream)
    elif report.run.state is StateType.COMPLETED:
        value = plain(report.run.result, report.opened)
        if value is not None:
            print_line(value if isinstance(value, str) else json_text(value), stream)
    tell(report)
    return report.exit_code


def tell(report: Report) -> None:
    """How a run stands, for people."""
    run = report.run
    counted = f"{report.steps} step{'s' * (report.steps != 1)}"
    if report.reused:
        counted += f", {report.reused} of them reused"
    state = "INTERRUPTED" if report.interrupted and not run.state.is_final else run.state.value
    facts = f"{state}  {counted}, {seconds(report.elapsed_s)}"
    style = {StateType.COMPLETED: "green", StateType.PAUSED: "yellow"}.get(run.state, "red")
    people().print(Text.assemble((facts, style), f"  run {run.id}"), soft_wrap=True)
    if run.error is not None:
        failure = describe_failure(run.error, report.opened)
        say(f"{failure['type']}: {failure['text']}"[:2_000], style="red")
        say(f"Traceback: agentflow runs show {run.id}")
    tell_waits(report.waiting_for)
    if report.unclaimed:
        say(
            f"Recorded side effects that the run did not ask for again: {', '.join(report.unclaimed)}",
            style="yellow",
        )
    if not run.state.is_final:
        say(f"Resume with: agentflow runs resume {run.id}")


def tell_waits(waits: Iterable[Wait]) -> None:
    """What a run waits for and how to answer, for people: the first few, timers and equal events as one."""
    alike: dict[str, list[Wait]] = {}
    for wait in sorted(waits, key=lambda wait: (wait.kind not in PERSON_KINDS, wait.due or 0)):
        alike.setdefault(_ALIKE.get(wait.kind, lambda wait: wait.id)(wait), []).append(wait)
    groups = list(alike.values())
    for group in groups[:_TOLD_WAITS]:
        _tell_wait(group[0], several=len(group) > 1)
    if len(groups) > _TOLD_WAITS:
        run_id = groups[0][0].run_id
        say(f"and for more: agentflow approvals ls --run {run_id}, agentflow runs show {run_id} --json")


#: By what waits are alike, of which one says enough.
_ALIKE: dict[WaitKind, Callable[[Wait], str]] = {
    WaitKind.TIMER: lambda _: "a timer",
    WaitKind.EVENT: lambda wait: f"event {wait.name}",
}


def _tell_wait(wait: Wait, *, several: bool) -> None:
    if wait.kind is WaitKind.TIMER:
        say(f"Waits until {stamp(wait.due)}" + (", and for later timers" if several else ""))
    elif wait.kind is WaitKind.EVENT:
        say(
            f"Waits for the event {wait.name!r}{', several times' if several else ''}: "
            f"agentflow events send {wait.run_id} {wait.name} --payload JSON"
        )
    else:
        say(f"Waits for a person: {describe_wait(wait)}")
        for command in ways_to_decide(wait):
            say(f"  {command}")


def tell_what_is_left(journal: Journal, run: Run) -> None:
    """That a cancelled run, which nobody runs, has not ended yet."""
    if run.state is StateType.CANCELLING and not journal.is_owned(run):
        what = "has hooks on its cancellation" if run.on_cancellation else "was cancelled half-way"
        say(f"run {run.id} {what}; it ends when somebody takes it up: agentflow runs resume {run.id}")


def tell_doubts(doubts: list[dict[str, Any]]) -> None:
    """Which side effects of a run nobody knows the end of."""
    for doubt in doubts:
        say(f"in doubt: {doubt['name']} was started, and nobody knows whether it happened", style="yellow")
