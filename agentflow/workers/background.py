"""``serve(...)``: a process that takes up runs of deployments, and of tasks that somebody has delayed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

from agentflow.deploying import RunnerDeployment, refuse_options
from agentflow.engine.active import Options
from agentflow.engine.runtime import running_loop
from agentflow.errors import DefinitionError
from agentflow.flows import Flow
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.shells import mark_worker
from agentflow.tasks import Task
from agentflow.workers.ending import ending_when_told
from agentflow.workers.inline import InlineWorker, Worker


def serve(
    *served: Task[..., Any] | RunnerDeployment,
    limit: int | None = 10,
    journal: Journal | None = None,
    options: Options | None = None,
    **others: Any,
) -> Any:
    """Execute runs of deployments, and of tasks as asked for with `Task.delay`, until the process is told to stop.

    Blocks; on a thread whose event loop runs it gives a coroutine instead, to be awaited or cancelled. The deployments
    are stored first. What is under way when the process stops (Ctrl-C, SIGTERM) is taken up by whoever serves the same
    next; so are all other runs of the deployments' flows that nobody executes.

    Args:
        served: Tasks, and deployments as `Flow.to_deployment` makes them.
        limit: How many runs are under way at once; None = as many as ``max_runs`` of the settings allows.
        journal: Default: the one that the environment names.
        options: Clock, patience and so on of the runs.
        others: Nothing; an option of Prefect's that there is not is refused with the reason.

    Raises:
        DefinitionError: where nothing, or something else than tasks and deployments, is given, or no place for a run.
    """
    refuse_options("serve()", others, ("limit",))
    if not served:
        message = "serve() wants at least one task or deployment"
        raise DefinitionError(message)
    given: tuple[Any, ...] = served
    wrong = [item for item in given if not isinstance(item, (Task, RunnerDeployment))]
    if wrong:
        way_out = (
            "; a flow is served by flow.serve(), or as flow.to_deployment(NAME)"
            if isinstance(wrong[0], Flow)
            else ""
        )
        message = f"serve() wants tasks and deployments, not {wrong[0]!r}{way_out}"
        raise DefinitionError(message)
    if limit is not None and limit < 1:
        message = f"serve(limit={limit}) would run nothing; give at least 1, or None for no limit"
        raise DefinitionError(message)
    deployments = [item for item in served if isinstance(item, RunnerDeployment)]
    flows = _flows_of(deployments)
    journal = journal or open_journal()
    for (
        deployment
    ) in deployments:  # before this process counts as one that runs flows: who starts it defines them
        deployment.apply(journal)
    mark_worker()
    worker = InlineWorker(
        journal,
        flows,
        tasks=[item for item in served if isinstance(item, Task)],
        limit=limit,
        limits_flows=True,
        options=options,
    )
    return serve_on_loop(worker) if running_loop() is not None else serve_until_stopped(worker)


def _flows_of(deployments: Iterable[RunnerDeployment]) -> dict[str, Flow[..., Any]]:
    """The flows of deployments, by name. Raises `DefinitionError` where a name does not say which is meant."""
    flows: dict[str, Flow[..., Any]] = {}
    names: set[str] = set()
    for deployment in deployments:
        if deployment.full_name in names:
            message = f"two deployments are named {deployment.full_name}; give one of them another name"
            raise DefinitionError(message)
        names.add(deployment.full_name)
        if flows.setdefault(deployment.flow_name, deployment.flow) is not deployment.flow:
            message = f"two flows are named {deployment.flow_name!r}; give one of them @flow(name=...)"
            raise DefinitionError(message)
    return flows


def serve_until_stopped(worker: Worker) -> None:
    """Serve until Ctrl-C or SIGTERM; a second one does not wait for tasks to end."""
    stop = threading.Event()
    with ending_when_told(worker, stop.set), worker:
        stop.wait()


async def serve_on_loop(worker: InlineWorker) -> None:
    """Serve until the task that awaits this is cancelled."""
    worker.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await asyncio.shield(asyncio.to_thread(worker.stop))
