"""The MCP server over a worker: flows and control tools, on stdio or HTTP, in both protocol eras.

Putting together only; what the tools do stands in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
from fastmcp import FastMCP
from fastmcp.server.http import StarletteWithLifespan

from agentflow.mcp.calls import Desk, Patience
from agentflow.mcp.control_tools import ControlTools
from agentflow.mcp.flow_tools import FlowTools
from agentflow.mcp.leaving import leaving_when_told
from agentflow.mcp.sealing import AUDIENCE, Keys, state_security
from agentflow.mcp.tasks import DurableTasks
from agentflow.model.runs import Origin
from agentflow.version import VERSION
from agentflow.workers.inline import Worker

INSTRUCTIONS = """\
Each flow here is a tool. A call starts a durable run and returns its result. A run can outlive the call: then the
result says `status: running` and a run_id - call await_run with it, and do not start the flow again. Side effects that
you ask for are signed by a person: `status: awaiting_approval` says what is asked and where; tell the user, then call
await_run. You cannot approve anything yourself.
"""


def build_server(
    worker: Worker,
    *,
    base_url: str = "",
    origin: Origin = Origin.MODEL,
    patience: Patience | None = None,
) -> FastMCP[Any]:
    """The MCP server of a worker's flows.

    Args:
        worker: Runs the flows; started with the server, stopped by whoever made it.
        base_url: Where the web inbox is (``http://127.0.0.1:4300``), for links; empty = there is none.
        origin: Who asks for the runs that this server starts.
        patience: How long calls may last.

    Raises:
        DefinitionError: where a flow has the name of another tool.
    """
    desk = Desk(worker, base_url, patience or Patience(), Keys(worker.journal.key))
    controls = ControlTools(desk, origin).tools()
    flows = FlowTools(desk, origin, frozenset(tool.name for tool in controls))

    @asynccontextmanager
    async def lifespan(_: FastMCP[Any]) -> AsyncGenerator[dict[str, Any]]:
        worker.start()
        yield {}

    server: FastMCP[Any] = FastMCP(
        AUDIENCE,
        instructions=INSTRUCTIONS,
        version=VERSION,
        providers=[flows],
        tools=controls,
        lifespan=lifespan,
        request_state_security=state_security(worker.journal.key),
    )
    server.add_extension(DurableTasks(desk, flows))
    return server


def run_stdio(worker: Worker, *, base_url: str = "") -> None:
    """Serve over standard input and output until the client goes away; stdout carries nothing but the protocol.

    In the main thread, SIGTERM and Ctrl-C end the process: see `agentflow.mcp.leaving`. Load the flows inside
    `agentflow.mcp.stdio.stdout_kept_clean`: what they print while imported is not caught here.
    """
    server = build_server(worker, base_url=base_url)
    with leaving_when_told(worker):
        anyio.run(lambda: server.run_stdio_async(show_banner=False, log_level="WARNING"))


def http_app(
    worker: Worker,
    *,
    base_url: str,
    path: str = "/mcp",
    origin: Origin = Origin.MODEL,
    allowed_hosts: tuple[str, ...] = (),
    allowed_origins: tuple[str, ...] = (),
) -> StarletteWithLifespan:
    """The server as an ASGI application (streamable HTTP); whoever mounts it must run its `lifespan`.

    Requests with a Host or Origin other than those of `base_url`, loopback and the ones allowed here are refused (DNS
    rebinding, MCP transports, "Security warning").
    """
    own = urlsplit(base_url)
    server = build_server(worker, base_url=base_url, origin=origin)
    return server.http_app(
        path=path,
        transport="http",
        host_origin_protection=True,
        allowed_hosts=[*([own.hostname] if own.hostname else []), *allowed_hosts],
        allowed_origins=[*([f"{own.scheme}://{own.netloc}"] if own.hostname else []), *allowed_origins],
    )
