"""``agentflow run``: start a flow of a file and see it through."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from agentflow.cli import persons
from agentflow.cli.execution import execute, present, tell
from agentflow.cli.output import INTERRUPTED, result_stream, say, seconds
from agentflow.cli.parameters import read_object, read_pairs
from agentflow.engine.active import Options
from agentflow.errors import AgentflowError, CorruptRecord, RunFinishedError, RunOwnedError, UsageError
from agentflow.flows import Flow, default_options
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.loading import load_flow
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.shells import mark_worker

Flag = Annotated[bool, Parameter(negative=())]

_INTERRUPTED = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


def run(
    target: str,
    /,
    *,
    param: Annotated[tuple[str, ...], Parameter(name=["--param", "-p"], negative=())] = (),
    params: str | None = None,
    json: Flag = False,
    recover: bool = True,
) -> int:
    """Run a flow, with a live progress tree; first finishes interrupted runs of the same flow.

    Exit codes: 0 completed, 1 failed, 2 wrong use, 3 waits for a person, 4 suspended on an event or timer,
    130 interrupted (resumable).

    Args:
        target: FILE.py:FLOW, or FILE.py where the file has only one flow.
        param: An argument of the flow, name=value; repeatable.
        params: All arguments as one JSON object.
        json: Print one JSON object on stdout instead of the result.
        recover: First recover interrupted runs of this flow that no process owns (the default).
    """
    with result_stream(alone=json) as stream:
        mark_worker()
        flow = load_flow(target)
        arguments = flow.binder.validate_named(
            {**read_object(params, "--params"), **read_pairs(param, flow.parameters_schema, "-p")}
        )
        journal = open_journal()
        if recover and not recover_interrupted(journal, flow):
            return INTERRUPTED
        started = start(journal, flow, arguments)
        say(f"run {started.id} of {flow.name}")
        return present(execute(journal, flow, started.id), json=json, stream=stream)


def start(journal: Journal, flow: Flow[..., Any], arguments: dict[str, Any]) -> Run:
    """Make a run that this process is about to claim."""
    options: Options = default_options(suspend_after=0)
    new = flow.new_run(arguments, journal, options, persons.origin())
    return journal.create_run(new, state=StateType.PENDING)


def recover_interrupted(journal: Journal, flow: Flow[..., Any]) -> bool:
    """Finish runs of this very entry point that were cut off and that nobody owns; other code is never imported.

    False where the person has had enough (Ctrl-C).
    """
    if not flow.entrypoint:
        return True
    for found in journal.due_runs(default_options().clock()):
        died_waiting = found.state is StateType.PAUSED and bool(found.owner)
        if found.entrypoint != flow.entrypoint or not (found.state in _INTERRUPTED or died_waiting):
            continue
        if parked := flow.parked(found, journal=journal, options=default_options()):
            say(f"run {found.id} is parked: {parked}")
            continue
        say(f"recovering run {found.id} of {flow.name}, which was interrupted (--no-recover leaves it)")
        try:
            report = execute(journal, flow, found.id, ask=False)
        except (RunOwnedError, RunFinishedError):
            continue  # somebody else was faster
        except UsageError as error:
            say(f"run {found.id} cannot be recovered: {error}")
            continue
        except (AgentflowError, CorruptRecord) as error:
            say(f"run {found.id} stopped again: {error}")
            continue
        if report.interrupted:
            tell(report)
            return False
        say(
            f"recovered run {found.id}: {report.run.state}, {report.reused} step{'s' * (report.reused != 1)} reused, "
            f"{seconds(report.elapsed_s)}"
        )
    return True
