"""Whether the server can do its work."""

from __future__ import annotations

from starlette.requests import Request

from agentflow.server.answers import JSON
from agentflow.server.site import site_of


def show_health(request: Request) -> JSON:
    """GET /health: 200 while the journal answers."""
    try:
        site_of(request).journal.version()
    except Exception:  # noqa: BLE001 - whatever is wrong with the journal
        return JSON({"status": "journal unavailable"}, 503)
    return JSON({"status": "ok"})
