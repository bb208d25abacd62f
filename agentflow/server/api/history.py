"""What became of a run in each of its lives; ended runs that go on; runs that begin where another one stood."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentflow.explaining import history_view
from agentflow.server.answers import JSON
from agentflow.server.api.runs import find_run, origin_of
from agentflow.server.bodies import json_object, object_member, text_member
from agentflow.server.site import caller_of, path_id, query_int, site_of
from agentflow.views import run_view


def show_history(request: Request) -> JSON:
    """GET /api/runs/{id}/history?life=: its lives, its descent, and what became of each step in one life (the last)."""
    journal = site_of(request).journal
    run = find_run(journal, path_id(request))
    life = query_int(request, "life", 0) or None
    view = history_view(journal, run, life)
    if life is not None and view["explanation"] is None:
        raise HTTPException(404, f"the run has no life {life}; it has {len(view['lives'])}")
    return JSON(view)


def retry_run(request: Request) -> JSON:
    """POST /api/runs/{id}/retry: have an ended run go on, and return at once."""
    json_object(request)
    run = site_of(request).worker.retry_run(path_id(request), origin=origin_of(caller_of(request)))
    return JSON(run_view(run), 202)


def fork_run(request: Request) -> JSON:
    """POST /api/runs/{id}/fork {from_step, parameters}: begin a run where this one stood, and return at once."""
    body = json_object(request)
    step = text_member(body, "from_step")
    if not step:
        raise HTTPException(400, "'from_step' must name a step: its id, its name, or name#2")
    parameters = object_member(body, "parameters")
    worker = site_of(request).worker
    run, cut = worker.fork_run(path_id(request), step, parameters, origin=origin_of(caller_of(request)))
    view = run_view(run) | {"forked_from": path_id(request), "happened": cut.happened}
    return JSON(view, 201, {"location": f"/api/runs/{run.id}"})
