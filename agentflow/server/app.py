"""The app: routes, guard, lifespan. Built from a worker; starts nothing but what its lifespan runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from agentflow.errors import AgentflowError
from agentflow.journal.wire import DOOR
from agentflow.server import stream
from agentflow.server.access import Access
from agentflow.server.answers import on_agentflow_error, on_http_error
from agentflow.server.api import approvals, deployments, flows, health, history, limits, logs, runs, steps
from agentflow.server.feeds import Hub
from agentflow.server.guard import Guard
from agentflow.server.journal.door import Door
from agentflow.server.mounting import MountedApp
from agentflow.server.rendering import HERE
from agentflow.server.site import Site
from agentflow.server.ui import approvals as approval_pages
from agentflow.server.ui import connect as connect_page
from agentflow.server.ui import deployments as deployment_pages
from agentflow.server.ui import flows as flow_pages
from agentflow.server.ui import limits as limit_pages
from agentflow.server.ui import login as login_page
from agentflow.server.ui import reruns as rerun_pages
from agentflow.server.ui import runs as run_pages
from agentflow.workers.inline import Worker

_NO_MOUNTS: Mapping[str, ASGIApp] = MappingProxyType({})


def create_app(
    worker: Worker,
    *,
    mount: Mapping[str, ASGIApp] = _NO_MOUNTS,
    allowed_hosts: Sequence[str],
    token: str | None,
    url: str = "",
) -> Starlette:
    """The web app of a worker, which the caller starts and stops.

    Args:
        worker: Whose journal is shown and whose flows can be started.
        mount: ASGI apps by path (``/mcp``); their lifespans are run with ours. Host and token are checked for them,
            and origins of other machines are refused; the rest of the Origin check is theirs.
        allowed_hosts: Names in the Host header that are answered to; ``0.0.0.0`` means any address.
        token: What everybody has to show; None = nothing, for loopback only. Workers show keys of their own.
        url: Where people find it.
    """
    access = Access(worker.journal.key, token=token, allowed_hosts=allowed_hosts)
    mounted = [MountedApp(path, app) for path, app in mount.items()]
    hub = Hub(worker.journal, poll_interval=worker.options.settings.poll_interval)
    door = Door(worker.journal, hub, url)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(hub.watching())
            await stack.enter_async_context(door.open())
            for app in mounted:
                await stack.enter_async_context(app.living())
            yield

    app = Starlette(
        routes=[MountedApp(DOOR, door.app), *mounted, *_api_routes(), *_page_routes()],
        middleware=[Middleware(Guard, access=access, mounts=tuple(mount), doors=(DOOR,))],
        exception_handlers={HTTPException: on_http_error, AgentflowError: on_agentflow_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.site = Site(worker, access, hub, tuple(mount))
    return app


def _api_routes() -> list[BaseRoute]:
    return [
        Route("/health", health.show_health, methods=["GET"]),
        Route("/api/flows", flows.list_flows, methods=["GET"]),
        Route("/api/runs", runs.list_runs, methods=["GET"]),
        Route("/api/runs", runs.start_run, methods=["POST"]),
        Route("/api/runs/{id}", runs.show_run, methods=["GET"]),
        Route("/api/runs/{id}/history", history.show_history, methods=["GET"]),
        Route("/api/runs/{id}/retry", history.retry_run, methods=["POST"]),
        Route("/api/runs/{id}/fork", history.fork_run, methods=["POST"]),
        Route("/api/runs/{id}/steps", steps.list_steps, methods=["GET"]),
        Route("/api/runs/{id}/steps/{seq}", steps.show_step, methods=["GET"]),
        Route("/api/runs/{id}/logs", logs.list_logs, methods=["GET"]),
        Route("/api/runs/{id}/cancel", runs.cancel_run, methods=["POST"]),
        Route("/api/runs/{id}/events", runs.send_event, methods=["POST"]),
        Route("/api/deployments", deployments.list_deployments, methods=["GET"]),
        Route("/api/deployments/{name:path}/runs", deployments.start_run, methods=["POST"]),
        Route("/api/deployments/{name:path}/pause", deployments.pause_deployment, methods=["POST"]),
        Route("/api/deployments/{name:path}/resume", deployments.resume_deployment, methods=["POST"]),
        Route("/api/deployments/{name:path}", deployments.show_deployment, methods=["GET"]),
        Route("/api/deployments/{name:path}", deployments.define_deployment, methods=["PUT"]),
        Route("/api/deployments/{name:path}", deployments.delete_deployment, methods=["DELETE"]),
        Route("/api/limits", limits.list_limits, methods=["GET"]),
        Route("/api/limits/{name:path}/reset", limits.reset_limit, methods=["POST"]),
        Route("/api/limits/{name:path}", limits.show_limit, methods=["GET"]),
        Route("/api/limits/{name:path}", limits.set_limit, methods=["PUT"]),
        Route("/api/limits/{name:path}", limits.remove_limit, methods=["DELETE"]),
        Route("/api/approvals", approvals.list_approvals, methods=["GET"]),
        Route("/api/approvals/{id}", approvals.show_approval, methods=["GET"]),
        Route("/api/approvals/{id}/decide", approvals.decide_approval, methods=["POST"]),
        Route("/api/events/stream", stream.stream, methods=["GET"]),
    ]


def _page_routes() -> list[BaseRoute]:
    return [
        Route("/", run_pages.list_page, methods=["GET"]),
        Route("/runs/{id}", run_pages.show_page, methods=["GET"]),
        Route("/runs/{id}/cancel", run_pages.cancel, methods=["POST"]),
        Route("/runs/{id}/retry", rerun_pages.retry, methods=["POST"]),
        Route("/runs/{id}/fork", rerun_pages.fork_page, methods=["GET"]),
        Route("/runs/{id}/fork", rerun_pages.fork, methods=["POST"]),
        Route("/flows", flow_pages.list_page, methods=["GET"]),
        Route("/flows/{name}", flow_pages.start_page, methods=["GET"]),
        Route("/flows/{name}", flow_pages.start, methods=["POST"]),
        Route("/deployments", deployment_pages.list_page, methods=["GET"]),
        Route("/deployments/{name:path}/pause", deployment_pages.pause, methods=["POST"]),
        Route("/deployments/{name:path}/resume", deployment_pages.resume, methods=["POST"]),
        Route("/deployments/{name:path}/delete", deployment_pages.delete, methods=["POST"]),
        Route("/deployments/{name:path}", deployment_pages.show_page, methods=["GET"]),
        Route("/deployments/{name:path}", deployment_pages.start, methods=["POST"]),
        Route("/limits", limit_pages.list_page, methods=["GET"]),
        Route("/limits", limit_pages.set_new, methods=["POST"]),
        Route("/limits/{name:path}/reset", limit_pages.reset, methods=["POST"]),
        Route("/limits/{name:path}/remove", limit_pages.remove, methods=["POST"]),
        Route("/limits/{name:path}", limit_pages.show_page, methods=["GET"]),
        Route("/limits/{name:path}", limit_pages.change, methods=["POST"]),
        Route("/approvals", approval_pages.inbox_page, methods=["GET"]),
        Route("/approvals/{id}", approval_pages.show_page, methods=["GET"]),
        Route("/approvals/{id}", approval_pages.decide_page, methods=["POST"]),
        Route("/connect", connect_page.show_page, methods=["GET"]),
        Route("/login", login_page.show_page, methods=["GET"]),
        Route("/login", login_page.login, methods=["POST"]),
        Route("/logout", login_page.logout, methods=["POST"]),
        Route("/favicon.ico", _favicon, methods=["GET"]),
        Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
    ]


def _favicon(_: Request) -> Response:
    return FileResponse(HERE / "static" / "favicon.svg", media_type="image/svg+xml")
