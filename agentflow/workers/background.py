"""``serve(task)``: a process that takes up the runs of tasks that somebody has delayed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

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
    *tasks: Task[..., Any],
    limit: int | None = 10,
    journal: Journal | None = None,
    options: Options | None = None,
) -> Any:
    """Take up what was asked for with `Task.delay`, until the process is told to stop (Ctrl-C, SIGTERM).

    Blocks; on a thread whose event loop runs it gives a coroutine instead, to be awaited or cancelled. What is under
    way when it stops is taken up by whoever serves the task next.

    Args:
        tasks: The tasks.
        limit: How many runs are under way at once; None = as many as ``max_runs`` of the settings allows.
        journal: Default: the one that the environment names.
        options: Clock, patience and so on of the runs.

    Raises:
        DefinitionError: where nothing, or something else than a task, is given, or no place for a run.
    """
    if not tasks:
        message = "serve() wants at least one task"
        raise DefinitionError(message)
    given: tuple[Any, ...] = tasks
    wrong = [item for item in given if not isinstance(item, Task)]
    if wrong:
        way_out = "; flows are served by `agentflow serve FILE`" if isinstance(wrong[0], Flow) else ""
        message = f"serve() wants tasks, not {wrong[0]!r}{way_out}"
        raise DefinitionError(message)
    if limit is not None and limit < 1:
        message = f"serve(limit={limit}) would run nothing; give at least 1, or None for no limit"
        raise DefinitionError(message)
    mark_worker()
    worker = InlineWorker(
        journal or open_journal(),
        {},
        tasks=tasks,
        limit=limit,
        options=options,
    )
    return serve_on_loop(worker) if running_loop() is not None else serve_until_stopped(worker)


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
