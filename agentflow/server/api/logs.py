"""Log lines of a run."""

from __future__ import annotations

import logging
from typing import Any

from starlette.requests import Request

from agentflow.errors import RunNotFoundError
from agentflow.model.steps import LogRow
from agentflow.server.answers import JSON
from agentflow.server.site import path_id, query_int, site_of
from agentflow.views import stamp

_MOST = 1000


def log_view(line_id: int, line: LogRow) -> dict[str, Any]:
    """A log line."""
    return {
        "id": line_id,
        "at": stamp(line.at),
        "level": logging.getLevelName(line.level),
        "step": line.step,
        "text": line.text,
        "source": line.source,
    }


def list_logs(request: Request) -> JSON:
    """GET /api/runs/{id}/logs?after=&limit=."""
    journal = site_of(request).journal
    run_id = path_id(request)
    run = journal.get_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    limit = query_int(request, "limit", _MOST, most=_MOST)
    lines = journal.logs(run.number, query_int(request, "after", 0), limit)
    return JSON({"logs": [log_view(line_id, line) for line_id, line in lines]})
