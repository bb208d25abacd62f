"""``agentflow task``: processes that run what was asked for with `Task.delay`."""

from __future__ import annotations

from cyclopts import App

from agentflow.cli.output import COMPLETED, say
from agentflow.errors import UsageError
from agentflow.journal.opening import open_journal
from agentflow.loading import load_tasks
from agentflow.settings import Settings
from agentflow.shells import mark_worker
from agentflow.workers.background import serve_until_stopped
from agentflow.workers.inline import InlineWorker

app = App(name="task", help="Run tasks in the background, as code asks for them with `task.delay(...)`.")


@app.command
def serve(*files: str, limit: int = 10) -> int:
    """Run what is asked for of the tasks of these files, until Ctrl-C or SIGTERM.

    What is under way then is taken up by whoever serves the tasks next; so is what a killed process leaves behind.

    Args:
        files: FILE.py (all of its tasks) or FILE.py:TASK, as many as you like.
        limit: How many are under way at once; default: 10, 0 = as many as AGENTFLOW_MAX_RUNS (64) allows.
    """
    if limit < 0:
        message = f"--limit wants a number of runs, not {limit}; 0 means as many as AGENTFLOW_MAX_RUNS allows"
        raise UsageError(message)
    mark_worker()
    settings = Settings.from_environment()
    tasks = load_tasks(files)
    if not tasks:
        message = "name at least one file with tasks: agentflow task serve FILE.py"
        raise UsageError(message)
    journal = open_journal(settings)
    worker = InlineWorker(journal, {}, tasks=tasks.values(), limit=limit or None, on_error=say)
    say(f"tasks    {', '.join(sorted(tasks))}")
    say(f"journal  {journal.url}")
    serve_until_stopped(worker)
    return COMPLETED
