"""``agentflow runs``: what has run, what runs, what waits - and resuming or cancelling it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from agentflow.cli import persons
from agentflow.cli.execution import Report, execute, present, report, tell_wait
from agentflow.cli.finding import find_run
from agentflow.cli.output import (
    COMPLETED,
    age,
    json_line,
    json_text,
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
from agentflow.errors import UsageError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.loading import load_flow
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.payloads.failures import describe_failure
from agentflow.views import run_view, stamp, steps_of, waiting_view

app = App(
    name="runs",
    help="Inspect runs, resume and cancel them. A run is named by its id or an end of it (4 or more).",
)

_LOOK_SECONDS = 0.2


@app.command
def ls(
    *,
    state: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    flow: str = "",
    limit: int = 20,
    json: Flag = False,
) -> int:
    """List runs, newest first.

    Args:
        state: Only runs in this state, such as running, paused or failed; repeatable.
        flow: Only runs of this flow.
        limit: At most so many; default: 20.
        json: Print a JSON list.
    """
    states = tuple(_state(name) for name in state)
    journal = open_journal()
    runs = journal.list_runs(RunFilter(limit=max(limit, 0), states=states, flow=flow))
    if json:
        print_json([run_view(run, full=False) for run in runs])
        return COMPLETED
    rows = [_row(journal, run) for run in runs]
    print_table(
        ("run", "flow", "state", "age", "took", ""), rows, empty="no runs; start one: agentflow run FILE:FLOW"
    )
    return COMPLETED


def _state(name: str) -> StateType:
    try:
        return StateType(name.upper())
    except ValueError:
        message = f"no state {name!r}; there are: {', '.join(item.value.lower() for item in StateType)}"
        raise UsageError(message) from None


def _row(journal: Journal, run: Run) -> tuple[str, ...]:
    view = run_view(run, full=False)
    message = run.message
    if run.state is StateType.RUNNING and not journal.is_owned(run):
        message = "interrupted: nobody runs it"
    return (
        run.id,
        run.flow,
        run.state.value,
        age(view["created"]),
        seconds(view["elapsed_s"]),
        message,
    )


@app.command
def show(run: str, /, *, json: Flag = False) -> int:
    """Show a run: its arguments, its steps, what it waits for, its result or its traceback.

    Args:
        run: Id of the run, or an end of it.
        json: Print a JSON object.
    """
    journal = open_journal()
    found = find_run(journal, run)
    steps = steps_of(journal, found)
    waits = () if found.state.is_final else tuple(journal.list_waits(number=found.number))
    view = run_view(found) | {
        "owned": journal.is_owned(found),
        "waiting_for": waiting_view(waits),
        "steps": steps,
    }
    if json:
        print_json(view)
        return COMPLETED
    for name in ("run_id", "flow", "entrypoint", "state", "message", "created", "started", "ended"):
        if view[name]:
            print_line(f"{name:<12}{view[name]}")
    print_line(f"{'origins':<12}{', '.join(found.origins)}")
    if found.crashes:
        print_line(f"{'crashes':<12}{found.crashes}")
    print_line(f"{'arguments':<12}{json_text(view['parameters'])}")
    progress = RunProgress(journal, found)
    progress.recorded = frozenset()  # this is no life in which some steps are old
    headline = Text(f"{found.flow}: {len(progress.steps)} steps", style="bold")
    Console(highlight=False).print(progress.final(headline))
    if view["result"] is not None:
        print_line(f"result      {json_text(view['result'])}")
    if found.error is not None:
        failure = describe_failure(found.error)
        print_line(failure["traceback"].rstrip() or f"{failure['type']}: {failure['text']}")
    for wait in waits:
        tell_wait(wait)
    return COMPLETED


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
            line = {"at": at, "level": row.level, "step": row.step, "text": row.text}
            if not json:
                print_line(f"{when(at)}  {row.step or found.flow}  {row.text}")
            elif follow:
                print_line(json_line(line))
            else:
                lines.append(line)
        if not page and not moves:
            break
        if not page:
            _pause(journal)
    if json and not follow:
        print_json(lines)
    return COMPLETED


def _moves(journal: Journal, run: Run) -> bool:
    stored = journal.get_run(run.id)
    return stored is not None and not stored.state.is_final and journal.is_owned(stored)


def _pause(journal: Journal) -> None:
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
            _pause(journal)
    with result_stream(alone=json) as stream:
        return present(report(journal, found.id, 0, time.monotonic() - started), json=json, stream=stream)


@app.command
def resume(run: str, /, *, take_over: Flag = False, json: Flag = False) -> int:
    """Continue a run: what is recorded is reused, the rest runs. Output and exit codes are those of `run`.

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
    if found.state.is_final:
        message = f"run {found.id} has already ended ({found.state}); start a new run instead"
        raise UsageError(message)
    if not found.entrypoint:
        message = (
            f"run {found.id} was started by code without a file; resume it there with {found.flow}.resume()"
        )
        raise UsageError(message)
    persons.mark_worker()
    if found.cwd and Path(found.cwd).is_dir():
        with contextlib.suppress(OSError):
            os.chdir(found.cwd)
    flow = load_flow(found.entrypoint)
    who = persons.origin()
    if who is not Origin.PERSON and who not in found.origins:
        journal.add_origin(found.id, who)
    return execute(journal, flow, found.id, take_over=take_over, web=web)


@app.command
def cancel(run: str, /, *, reason: str = "", json: Flag = False) -> int:
    """Stop a run: at once where nobody runs it, else at its next step.

    Args:
        run: Id of the run, or an end of it.
        reason: Recorded with the run.
        json: Print the run as a JSON object.
    """
    journal = open_journal()
    found = find_run(journal, run)
    cancelled = journal.request_cancel(found.id, reason or f"cancelled by {persons.person()}")
    if json:
        print_json(run_view(cancelled))
    elif cancelled.state is StateType.CANCELLED:
        say(f"run {found.id} is cancelled")
    else:
        say(f"run {found.id} stops at its next step (it runs in {found.owner or 'another process'})")
    return COMPLETED
