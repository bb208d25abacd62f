"""The page that connects an MCP client."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from agentflow.server.rendering import pretty_json, render
from agentflow.server.site import site_of

_MCP = "/mcp"


def show_page(request: Request) -> Response:
    """GET /connect."""
    site = site_of(request)
    url = f"{request.url.scheme}://{request.headers['host']}{_MCP}"
    needs_token = site.access.needs_token
    header = {"headers": {"Authorization": "Bearer YOUR_TOKEN"}} if needs_token else {}
    option = ' --header "Authorization: Bearer YOUR_TOKEN"' if needs_token else ""
    files = sorted(
        {flow.entrypoint.rpartition(":")[0].rpartition("/")[2] for flow in site.worker.flows.values()} - {""}
    )
    context = {
        "url": url,
        "needs_token": needs_token,
        "has_mcp": _MCP in site.mounts,
        "claude": f"claude mcp add --transport http agentflow {url}{option}",
        "cursor": pretty_json({"mcpServers": {"agentflow": {"url": url, **header}}}),
        "vscode": pretty_json({"servers": {"agentflow": {"type": "http", "url": url, **header}}}),
        "stdio": f"agentflow mcp {' '.join(files) or 'FILE.py'}",
        "flows": sorted(site.worker.flows),
    }
    return render(request, "connect.html", context)
