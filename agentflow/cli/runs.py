"""``agentflow runs``: what has run, what runs, what waits - and resuming or cancelling it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from agentflow.cli import persons
from agentflow.cli.execution import Report, execute, present, report, tell_doubts, tell_what_is_left
from agentflow.cli.finding import find_run
from agentflow.cli.output import (
    COMPLETED,
    age,
    at_most,
    json_line,
    print_json,
    print_line,
    print_table,
    result_stream,
    say,
    seconds,
    when,
)
from agentflow.cli.progress import RunProgress, watching
from agentflow.cli.run import Flag
from agentflow.errors import RunFinishedError, UsageError
from agentflow.flows import Flow
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.limit_views import Queues, in_the_way
from agentflow.loading import load_flow_of
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.run_context import cancel_run
from agentflow.shells import mark_worker, person
from agentflow.views import in_doubt, run_view, stamp

app = App(
    name="runs",
    help="Inspect runs; resume, retry, fork and cancel them. A run is named by its id or an end of it (4 or more).",
)
app.command("agentflow.cli.showing:show", name="show")
app.command("agentflow.cli.reruns:retry", name="retry")
app.command("agentflow.cli.reruns:fork", name="fork")

_LOOK_SECONDS = 0.2


@app.command
def ls(
    *,
    state: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    flow: str = "",
    deployment: str = "",
    parent: str = "",
    tag: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    limit: int = 20,
    json: Flag = False,
) -> int:
    """List runs, newest first.

    Args:
        state: Only runs in this state, such as running, paused or failed; repeatable.
        flow: Only runs of this flow.
        deployment: Only runs of this deployment, FLOW/NAME.
        parent: Only runs that this run has started.
        tag: Only runs with this tag; repeatable: with all of them.
        limit: At most so many; default: 20.
        json: Print a JSON list.
    """
    states = tuple(_state(name) for name in state)
    journal = open_journal()
    above = find_run(journal, parent).id if parent else ""
    wanted = RunFilter(at_most(limit), states, flow, parent=above, tags=tag, deployment=deployment)
    runs, queues = journal.list_runs(wanted), Queues(journal)
    if json:
        print_json([queues.view(run, full=False) for run in runs])
        return COMPLETED
    rows = [_row(journal, run, queues.view(run, full=False)) for run in runs]
    print_table(
        ("run", "name", "flow", "state", "age", "took", ""),
        rows,
        empty="no runs; start one: agentflow run FILE:FLOW",
    )
    return COMPLETED


def _state(name: str) -> StateType:
    try:
        return StateType(name.upper())
    except ValueError:
        message = f"no state {name!r}; there are: {', '.join(item.value.lower() for item in StateType)}"
        raise UsageError(message) from None


def _row(journal: Journal, run: Run, view: dict[str, Any]) -> tuple[str, ...]:
    message = in_the_way(view["awaiting_slots"]) or run.message
    if run.state is StateType.RUNNING and not journal.is_owned(run):
        message = "interrupted: nobody runs it"
    return (
        run.id,
        run.name,
        run.flow,
        view["state_name"] or run.state.value,
        age(view["created"]),
        seconds(view["elapsed_s"]),
        message,
    )


@app.command
def logs(
    run: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    json: Flag = False,
) -> int:
    """Print what a run has logged (and printed, with log_prints).

    Args:
        run: Id of the run, or an end of it.
        follow: Go on until the run ends or waits.
        json: Print a JSON list; with --follow, one JSON object a line.
    """
    journal = open_journal()
    found = find_run(journal, run)
    last, lines = 0, list[dict[str, Any]]()
    while True:
        moves = follow and _moves(journal, found)
        page = journal.logs(found.number, after=last)
        for number, row in page:
            last = number
            at = stamp(row.at)
            line = {
                "at": at, "level": row.level, "step": row.step, "text": row.text, "source": row.source
            }  # fmt: skip
            if not json:
                print_line(f"{when(at)}  {row.step or found.flow}  {row.text}")
            elif follow:
                print_line(json_line(line))
            else:
                lines.append(line)
        if not page and not moves:
            break
        if not page:
            pause_for_news(journal)
    if json and not follow:
        print_json(lines)
    return COMPLETED


def _moves(journal: Journal, run: Run) -> bool:
    stored = journal.get_run(run.id)
    return stored is not None and not stored.state.is_final and journal.is_owned(stored)


def pause_for_news(journal: Journal) -> None:
    """Until something was committed, by whomever, or a moment has passed."""
    woken = threading.Event()
    undo = journal.subscribe(woken.set)
    try:
        woken.wait(_LOOK_SECONDS)
    finally:
        undo()


@app.command
def watch(run: str, /, *, json: Flag = False) -> int:
    """Follow a run that another process runs, until it ends or leaves memory. Exit codes are those of `run`.

    Args:
        run: Id of the run, or an end of it.
        json: Print one JSON object at the end, as `run` does.
    """
    journal = open_journal()
    found = find_run(journal, run)
    started = time.monotonic()
    with watching(RunProgress(journal, found)):
        while _moves(journal, found):
            pause_for_news(journal)
    with result_stream(alone=json) as stream:
        return present(report(journal, found.id, 0, time.monotonic() - started), json=json, stream=stream)


@app.command
def resume(run: str, /, *, take_over: Flag = False, json: Flag = False) -> int:
    """Continue a run: what is recorded is reused, the rest runs. Output and exit codes are those of `run`.

    One that was parked, as its process died again and again, is retried.

    Args:
        run: Id of the run, or an end of it.
        take_over: Take the run away from the live process that owns it; that process is fenced off.
        json: Print one JSON object on stdout instead of the result.
    """
    journal = open_journal()
    found = find_run(journal, run)
    with result_stream(alone=json) as stream:
        return present(resume_run(journal, found, take_over=take_over), json=json, stream=stream)


def resume_run(journal: Journal, found: Run, *, take_over: bool = False, web: str = "") -> Report:
    """Load the recorded entry point in the recorded folder, and go on."""
    if found.state.is_final and found.state is not StateType.CRASHED:
        raise RunFinishedError(found.id, found.state.value)
    flow = load_recorded(found, "resume")
    who = persons.origin()
    if found.state is StateType.CRASHED:
        flow.reopen(found.id, journal)
    if who is not Origin.PERSON and who not in found.origins:
        journal.add_origin(found.id, who)
    return execute(journal, flow, found.id, take_over=take_over, web=web)


def load_recorded(found: Run, verb: str) -> Flow[..., Any]:
    """The flow of a run: its recorded entry point, loaded in its recorded folder. `verb`: what is wanted of it."""
    if not found.entrypoint:
        message = (
            f"run {found.id} was started by code without a file; {verb} it there with {found.flow}.{verb}()"
        )
        raise UsageError(message)
    mark_worker()
    if found.cwd and Path(found.cwd).is_dir():
        with contextlib.suppress(OSError):
            os.chdir(found.cwd)
    return load_flow_of(found.entrypoint, found.flow)


@app.command
def cancel(*runs: str, reason: str = "", json: Flag = False) -> int:
    """Stop runs, and those that they have started: at once where nobody runs them, else at their next step.

    Args:
        runs: Ids of runs, or ends of them.
        reason: Recorded with the runs.
        json: Print the run as a JSON object; of several a list.
    """
    if not runs:
        message = "name at least one run: agentflow runs cancel RUN"
        raise UsageError(message)
    journal = open_journal()
    found = {run.id: run for run in [find_run(journal, name) for name in runs]}
    ended = [run for run in found.values() if run.state.is_final]
    if ended:  # nothing is done by halves
        raise RunFinishedError(ended[0].id, ended[0].state.value)
    cancelled = [_cancel(journal, run, reason) for run in found.values()]
    if json:
        views = [run_view(run) | {"in_doubt": in_doubt(journal, run)} for run in cancelled]
        print_json(views[0] if len(runs) == 1 else views)
        return COMPLETED
    for run in cancelled:
        if run.state.is_final:
            say(f"run {run.id} is {run.state.lower()}")
            tell_doubts(in_doubt(journal, run))
        elif journal.is_owned(run):
            say(f"run {run.id} stops at its next step (it runs in {run.owner or 'another process'})")
        tell_what_is_left(journal, run)
    return COMPLETED


def _cancel(journal: Journal, run: Run, reason: str) -> Run:
    try:
        return cancel_run(run.id, actor=person(), reason=reason, journal=journal)
    except RunFinishedError:  # meanwhile: by itself, or with its parent, which was named before it
        return journal.get_run(run.id) or run
