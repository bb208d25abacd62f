"""``agentflow serve``, ``server``, ``worker`` and ``mcp``: flows kept ready for use; heavy imports inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from agentflow.background import PREFIX
from agentflow.callables import entrypoint_of
from agentflow.cli.output import COMPLETED, print_line, say
from agentflow.errors import UsageError
from agentflow.journal.opening import open_journal
from agentflow.loading import find_tasks, flows_in, load_flows, load_module, split_target, tasks_in
from agentflow.mcp.install import install as install_server
from agentflow.mcp.stdio import stdout_kept_clean
from agentflow.settings import Settings
from agentflow.shells import mark_worker
from agentflow.tasks import Task
from agentflow.workers.background import serve_until_stopped
from agentflow.workers.inline import InlineWorker, Worker
from agentflow.workers.process import ProcessWorker

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MCP_PATH = "/mcp"

app = App(
    name="mcp",
    help="Serve flows as MCP tools on standard input and output, for a chat client that starts this command.",
)


def serve(
    *files: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: Annotated[str | None, Parameter(env_var="AGENTFLOW_TOKEN")] = None,
    allowed_host: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    isolate: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Serve flows: pages, REST API, MCP (/mcp) and a worker, in one process, until Ctrl-C.

    Interrupted and waiting runs of these flows go on here, and so does what was asked for with `delay` of the files'
    tasks. Without a file it only shows runs and takes decisions.

    Args:
        files: FILE.py or FILE.py:FLOW, as many as you like.
        host: Where to listen; default: 127.0.0.1. Anything but this machine itself needs a token.
        port: Default: AGENTFLOW_PORT, else 4300; 0 = any free one.
        token: What clients must show (also AGENTFLOW_TOKEN in the environment).
        allowed_host: Another name under which the server may be called; repeatable.
        isolate: Run each run in a process of its own, with the code as it is then; one that does not stop is killed.
    """
    from agentflow.server.serving import serve as serve_app  # noqa: PLC0415 - loads the web server

    worker = _worker(files, isolate=isolate, with_tasks=True)
    chosen = Settings.from_environment().port if port is None else port

    def mount(url: str) -> Mapping[str, ASGIApp]:
        from agentflow.mcp.server import http_app  # noqa: PLC0415 - loads the MCP library

        return {MCP_PATH: http_app(worker, base_url=url, path=MCP_PATH, allowed_hosts=allowed_host)}

    def ready(url: str) -> None:
        print_line(url)
        say(f"MCP      {url}{MCP_PATH}")
        say(f"flows    {', '.join(sorted(worker.flows)) or 'none'}")
        if worker.background:
            say(f"tasks    {', '.join(sorted(name.removeprefix(PREFIX) for name in worker.background))}")
        say(f"journal  {worker.journal.url}")
        say("Ctrl-C stops the server; its runs can be resumed.", style="dim")

    serve_app(
        worker,
        host=host,
        port=chosen,
        mount=mount,
        allowed_hosts=allowed_host,
        token=token,
        on_ready=ready,
    )
    return COMPLETED


def server(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: Annotated[str | None, Parameter(env_var="AGENTFLOW_TOKEN")] = None,
    allowed_host: Annotated[tuple[str, ...], Parameter(negative=())] = (),
) -> int:
    """Serve pages, REST API and MCP (/mcp) without running any flow: `agentflow worker` does that, where the code is.

    Args:
        host: Where to listen; default: 127.0.0.1. Anything but this machine itself needs a token.
        port: Default: AGENTFLOW_PORT, else 4300; 0 = any free one.
        token: What clients must show (also AGENTFLOW_TOKEN in the environment).
        allowed_host: Another name under which the server may be called; repeatable.
    """
    return serve(host=host, port=port, token=token, allowed_host=allowed_host)


def work(*files: str, isolate: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Execute runs of flows, and tasks in the background, until Ctrl-C or SIGTERM; without pages, API and MCP.

    For machines beside the one that serves, with a journal that they share (AGENTFLOW_DATABASE_URL): on PostgreSQL, or
    behind that server. What is under way when it stops goes on elsewhere.

    Args:
        files: FILE.py or FILE.py:FLOW, as many as you like.
        isolate: Run each run in a process of its own, with the code as it is then; one that does not stop is killed.
    """
    if not files:
        message = "name at least one file with flows or tasks: agentflow worker FILE.py"
        raise UsageError(message)
    worker = _worker(files, isolate=isolate, with_tasks=True)
    say(f"flows    {', '.join(sorted(worker.flows)) or 'none'}")
    if worker.background:
        say(f"tasks    {', '.join(sorted(name.removeprefix(PREFIX) for name in worker.background))}")
    say(f"journal  {worker.journal.url}")
    serve_until_stopped(worker)
    return COMPLETED


@app.default
def mcp(*files: str, inbox: str = "") -> int:
    """Serve flows as MCP tools on standard input and output.

    Args:
        files: FILE.py or FILE.py:FLOW, as many as you like.
        inbox: Address of an `agentflow serve` on the same journal, for links to approvals.
    """
    if not files:
        message = "name at least one file with flows: agentflow mcp FILE.py"
        raise UsageError(message)
    with stdout_kept_clean():
        worker = _worker(files)
    from agentflow.mcp.server import run_stdio  # noqa: PLC0415 - loads the MCP library

    run_stdio(worker, base_url=inbox)
    return COMPLETED


@app.command
def install(client: str, /, *files: str) -> int:
    """Write the flows' MCP server into the configuration of a client: claude-code, claude-desktop, cursor or vscode.

    Args:
        client: The client.
        files: FILE.py or FILE.py:FLOW, as many as you like.
    """
    with stdout_kept_clean():
        load_flows(files)  # a server that cannot start is not worth installing
    installed = install_server(client, files)
    say(installed.text)
    print_line(installed.line)
    return COMPLETED


def _worker(files: tuple[str, ...], *, isolate: bool = False, with_tasks: bool = False) -> Worker:
    mark_worker()
    settings = Settings.from_environment()
    tasks = _served_tasks(files, isolate=isolate) if with_tasks else []
    flows = load_flows(tuple(file for file in files if not (with_tasks and _has_only_tasks(file))))
    kind = ProcessWorker if isolate else InlineWorker
    return kind(
        open_journal(settings),
        flows,
        tasks=tasks,
        limit=settings.max_workers,
        on_error=say,
    )


def _served_tasks(files: tuple[str, ...], *, isolate: bool) -> list[Task[..., Any]]:
    """The tasks of the files that were not narrowed to a flow, so far as it is clear which is meant by a name."""
    tasks = find_tasks(tuple(file for file in files if not split_target(file)[1]))
    if isolate:  # another process has to find it
        tasks = [task for task in tasks if entrypoint_of(task.function)]
    count = Counter(task.name for task in tasks)
    twice = sorted(name for name, times in count.items() if times > 1)
    if twice:
        say(f"several tasks are named {', '.join(twice)}: not served; tell them apart with @task(name=...)")
    return [task for task in tasks if count[task.name] == 1]


def _has_only_tasks(target: str) -> bool:
    """Whether a file has something to serve, but no flow."""
    file, name = split_target(target)
    if name:
        return False
    module = load_module(file)
    return bool(tasks_in(module)) and not flows_in(module)
