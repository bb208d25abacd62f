"""``agentflow deploy`` and ``agentflow deployments``: flows under names, of which anybody can ask for runs."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import App, Parameter

from agentflow.cli import persons
from agentflow.cli.execution import present, report
from agentflow.cli.output import (
    COMPLETED,
    WRONG_USE,
    age,
    at_most,
    complain,
    print_json,
    print_line,
    print_table,
    result_stream,
    say,
    when,
)
from agentflow.cli.parameters import read_object, read_pairs
from agentflow.cli.progress import RunProgress, watching
from agentflow.cli.run import Flag
from agentflow.cli.runs import pause_for_news
from agentflow.deployments import Asked, ask_for_run, find_deployment, remove_deployment, schema_of
from agentflow.engine.tags import check_tags
from agentflow.errors import DeploymentNotFoundError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import DeploymentFilter, Journal, RunFilter
from agentflow.loading import load_flow
from agentflow.model.limits import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.views import deployment_view, run_view

app = App(
    name="deployments",
    help="Flows under names (FLOW/NAME): list them, ask for runs of them, pause and delete them.",
)
#: How many of the runs of a deployment are shown, the newest ones.
_RUNS = 10

Pairs = Annotated[tuple[str, ...], Parameter(name=["--param", "-p"], negative=())]
Texts = Annotated[tuple[str, ...], Parameter(negative=())]


def deploy(
    target: str,
    /,
    *,
    name: str,
    param: Pairs = (),
    params: str | None = None,
    tag: Texts = (),
    description: str | None = None,
    version: str | None = None,
    concurrency_limit: int | None = None,
    collision_strategy: ConcurrencyLimitStrategy | None = None,
    paused: Annotated[bool | None, Parameter(negative="--no-paused")] = None,
    json: Flag = False,
) -> int:
    """Put a flow of a file under a name, so that anybody can ask for runs of it; replaces what has that name.

    Its runs are executed by whoever serves the flow: agentflow serve FILE.

    Args:
        target: FILE.py:FLOW, or FILE.py where the file has only one flow.
        name: Its name; with the flow's, FLOW/NAME, it is unique.
        param: An argument of its runs, name=value, where it differs from the flow's default; repeatable.
        params: The same as one JSON object.
        tag: A label of its runs; repeatable.
        description: What it is for; default: the flow's description.
        version: A label of yours; default: the flow's version.
        concurrency_limit: How many of its runs are executed at once; default: as many as there are.
        collision_strategy: What becomes of a run beyond that: ENQUEUE (it waits, the default) or CANCEL_NEW.
        paused: Take no new runs; default: as it was, and at first it takes them. --no-paused takes them again.
        json: Print the deployment as a JSON object.
    """
    flow = load_flow(target)
    if collision_strategy is not None and concurrency_limit is None:
        complain(
            "--collision-strategy says what becomes of runs beyond a limit; give --concurrency-limit N as well"
        )
        return WRONG_USE
    strategy = collision_strategy or ConcurrencyLimitStrategy.ENQUEUE
    definition = flow.to_deployment(
        name,
        parameters={**read_object(params, "--params"), **read_pairs(param, flow.parameters_schema, "-p")},
        tags=tag,
        description=description,
        version=version,
        concurrency_limit=None
        if concurrency_limit is None
        else ConcurrencyLimitConfig(concurrency_limit, strategy),
        paused=paused,
    )
    journal = open_journal()
    known = journal.get_deployment(definition.full_name)
    saved = definition.apply(journal, origins=(persons.origin(),))
    if json:
        print_json(deployment_view(saved))
        return COMPLETED
    done = "deployed" if known is None else "unchanged" if saved == known else "deployed anew"
    say(f"{saved.name} is {done}" + (f" (version {saved.version})" if saved.version else ""))
    say(f"runs of it are executed by: agentflow serve {target.partition(':')[0]}", style="dim")
    say(f"ask for one:                agentflow deployments run {saved.name}", style="dim")
    return COMPLETED


@app.command
def ls(*, flow: str = "", tag: Texts = (), limit: int = 1000, json: Flag = False) -> int:
    """List deployments by name.

    Args:
        flow: Only deployments of this flow.
        tag: Only deployments with this tag; repeatable: with all of them.
        limit: At most so many; default: 1000.
        json: Print a JSON list.
    """
    found = open_journal().list_deployments(DeploymentFilter(limit=at_most(limit), flow=flow, tags=tag))
    views = [deployment_view(deployment, full=False) for deployment in found]
    if json:
        print_json(views)
        return COMPLETED
    rows = [
        (
            view["name"],
            view["version"],
            "paused" if view["paused"] else "",
            ""
            if view["concurrency_limit"] is None
            else f"{view['concurrency_limit']} {view['collision_strategy']}",
            age(view["updated"]),
            view["description"],
        )
        for view in views
    ]
    print_table(
        ("deployment", "version", "", "limit", "changed", "description"),
        rows,
        empty="no deployments; make one: agentflow deploy FILE:FLOW --name NAME",
    )
    return COMPLETED


@app.command
def show(name: str, /, *, json: Flag = False) -> int:
    """Show a deployment and its newest runs.

    Args:
        name: FLOW/NAME.
        json: Print a JSON object.
    """
    journal = open_journal()
    view = deployment_view(find_deployment(journal, name))
    runs = [run_view(run, full=False) for run in journal.list_runs(RunFilter(_RUNS, deployment=name))]
    if json:
        print_json(view | {"runs": runs})
        return COMPLETED
    limit = view["concurrency_limit"]
    for key, value in (
        ("name", view["name"]),
        ("entry point", view["entrypoint"]),
        ("version", view["version"]),
        ("description", " ".join(view["description"].split())),
        ("parameters", ", ".join(f"{key}={value!r}" for key, value in view["parameters"].items())),
        ("tags", ", ".join(view["tags"])),
        ("limit", "" if limit is None else f"{limit} at once, {view['collision_strategy']}"),
        ("paused", "yes: it takes no new runs" if view["paused"] else ""),
        ("defined by", ", ".join(view["origins"])),
        ("created", when(view["created"])),
        ("changed", when(view["updated"])),
    ):
        if value:
            print_line(f"{key:<12} {value}")
    rows = [
        (
            run["run_id"],
            run["name"],
            run["state"],
            run["deployment_version"],
            age(run["created"]),
            run["message"],
        )
        for run in runs
    ]
    print_table(
        ("run", "name", "state", "version", "age", ""),
        rows,
        empty=f"no runs yet; ask for one: agentflow deployments run {name}",
    )
    return COMPLETED


@app.command
def run(
    name: str,
    /,
    *,
    param: Pairs = (),
    params: str | None = None,
    tag: Texts = (),
    run_name: Annotated[str, Parameter(name="--flow-run-name")] = "",
    idempotency_key: str = "",
    watch: Flag = False,
    json: Flag = False,
) -> int:
    """Ask for a run of a deployment; it begins as soon as somebody serves its flow.

    Prints the run's id. With --watch: follows it to its end; output and exit codes are those of agentflow run.

    Args:
        name: FLOW/NAME.
        param: An argument, name=value, beside those of the deployment; repeatable.
        params: The same as one JSON object.
        tag: A label of the run; repeatable.
        run_name: How people see the run.
        idempotency_key: If a run was asked for with the same key, that one is meant.
        watch: Follow the run until it ends, or waits out of memory.
        json: Print one JSON object on stdout.
    """
    journal = open_journal()
    deployment = find_deployment(journal, name)
    given = {**read_object(params, "--params"), **read_pairs(param, schema_of(deployment), "-p")}
    asked = Asked(
        given, persons.origin(), name=run_name, tags=check_tags(tag), idempotency_key=idempotency_key
    )
    made = ask_for_run(journal, name, asked)
    if watch:
        say(f"run {made.id} of {name}; it begins as soon as somebody serves {made.flow}")
        return _follow(journal, made, json=json)
    if json:
        print_json(run_view(made))
        return COMPLETED
    print_line(made.id)
    say(f"asked for; it begins as soon as somebody serves {made.flow}: agentflow serve FILE", style="dim")
    say(f"follow it: agentflow runs watch {made.id}", style="dim")
    return COMPLETED


def _follow(journal: Journal, made: Run, *, json: bool) -> int:
    started = time.monotonic()
    with watching(RunProgress(journal, made)):
        while _moves(journal, made):
            pause_for_news(journal)
    with result_stream(alone=json) as stream:
        return present(report(journal, made.id, 0, time.monotonic() - started), json=json, stream=stream)


def _moves(journal: Journal, made: Run) -> bool:
    """Whether the run has not ended, and does not wait out of memory."""
    stored = journal.get_run(made.id)
    return (
        stored is not None
        and not stored.state.is_final
        and (stored.state is not StateType.PAUSED or journal.is_owned(stored))
    )


@app.command
def pause(name: str, /) -> int:
    """Let a deployment take no new runs. Those that were asked for already are not touched.

    Args:
        name: FLOW/NAME.
    """
    open_journal().pause_deployment(name, paused=True)
    say(f"{name} takes no new runs; take them again: agentflow deployments resume {name}")
    return COMPLETED


@app.command
def resume(name: str, /) -> int:
    """Let a deployment take new runs again.

    Args:
        name: FLOW/NAME.
    """
    open_journal().pause_deployment(name, paused=False)
    say(f"{name} takes new runs")
    return COMPLETED


@app.command
def delete(name: str, /) -> int:
    """Remove a deployment. Its runs stay, and those that have not ended go on.

    Args:
        name: FLOW/NAME.
    """
    if not remove_deployment(open_journal(), name):
        raise DeploymentNotFoundError(name)
    say(f"{name} is removed; its runs stay")
    return COMPLETED
