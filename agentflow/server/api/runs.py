"""Runs: start, list, show, cancel, send an event."""

from __future__ import annotations

import time

from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentflow.engine.account import name_of_end
from agentflow.errors import RunNotFoundError
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.limit_views import Queues
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.payloads.opening import open_codec
from agentflow.run_context import cancel_run as cancel_run_of
from agentflow.server.access import Caller
from agentflow.server.answers import JSON
from agentflow.server.bodies import json_object, object_member, text_member
from agentflow.server.site import caller_of, path_id, query_int, site_of
from agentflow.views import in_doubt, run_view, stamp, waiting_view

_PAGE, _MOST = 50, 200
_NAME_LIMIT = 200


def origin_of(caller: Caller) -> Origin:
    """Who asks for a run: a person where a browser has proven to be one, else nobody known."""
    return Origin.PERSON if caller.is_person else Origin.UNKNOWN


def find_run(journal: Journal, run_id: str) -> Run:
    """The run. Raises `RunNotFoundError`."""
    run = journal.get_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    return run


def run_filter(request: Request) -> RunFilter:
    """The filter in a query: `state` and `tag` (several with commas), `flow`, `deployment`, `before`, `limit`.

    Raises `HTTPException` 400.
    """
    names = [name for name in request.query_params.get("state", "").upper().split(",") if name]
    unknown = [name for name in names if name not in StateType.__members__]
    if unknown:
        raise HTTPException(
            400, f"no state {unknown[0][:40]!r}; there are {', '.join(StateType.__members__)}"
        )
    return RunFilter(
        limit=max(1, query_int(request, "limit", _PAGE, most=_MOST)),
        states=tuple(StateType[name] for name in names),
        flow=request.query_params.get("flow", ""),
        deployment=request.query_params.get("deployment", ""),
        tags=tuple(tag for tag in request.query_params.get("tag", "").split(",") if tag),
        before=query_int(request, "before", 0) or None,
    )


def page_of(journal: Journal, wanted: RunFilter) -> tuple[list[Run], int | None]:
    """One page of runs, and `before` of the next one (None: there is none)."""
    runs = journal.list_runs(wanted._replace(limit=wanted.limit + 1))
    more = len(runs) > wanted.limit
    runs = runs[: wanted.limit]
    return runs, runs[-1].number if more else None


def list_runs(request: Request) -> JSON:
    """GET /api/runs?state=&flow=&deployment=&before=&limit=: newest first."""
    runs, following = page_of(site_of(request).journal, run_filter(request))
    queues = Queues(site_of(request).journal)
    return JSON({"runs": [queues.view(run, full=False) for run in runs], "next": following})


def start_run(request: Request) -> JSON:
    """POST /api/runs {flow, parameters}: start a run and return at once."""
    body = json_object(request)
    parameters = object_member(body, "parameters")
    flow = text_member(body, "flow")
    if not flow:
        raise HTTPException(400, "'flow' must name a flow; GET /api/flows lists them")
    run = site_of(request).worker.start_run(flow, parameters, origin=origin_of(caller_of(request)))
    return JSON(run_view(run), 201, {"location": f"/api/runs/{run.id}"})


def show_run(request: Request) -> JSON:
    """GET /api/runs/{id}."""
    journal = site_of(request).journal
    run = find_run(journal, path_id(request))
    waiting = waiting_view(journal.list_waits(number=run.number))
    pruned = stamp(journal.pruned_at(run.number)) if run.state.is_final else None
    view = Queues(journal).view(run)
    view["state_name"] = view["state_name"] or name_of_end(journal, run)
    return JSON(view | {"waiting_for": waiting, "in_doubt": in_doubt(journal, run), "pruned": pruned})


def cancel_run(request: Request) -> JSON:
    """POST /api/runs/{id}/cancel {reason}."""
    reason = text_member(json_object(request), "reason")
    run = request_cancel(request, path_id(request), reason)
    return JSON(run_view(run), 202)


def request_cancel(request: Request, run_id: str, reason: str) -> Run:
    """Ask a run to stop, and say who asked. Raises `RunNotFoundError`, `RunFinishedError`."""
    site = site_of(request)
    caller = caller_of(request)
    who = (
        (caller.session.actor if caller.session else "") or "a person in the browser"
        if caller.is_person
        else "the API"
    )
    run = cancel_run_of(run_id, actor=who, reason=reason, journal=site.journal)
    site.worker.interrupt()
    return run


def send_event(request: Request) -> JSON:
    """POST /api/runs/{id}/events {name, payload}: deliver an event to a run."""
    body = json_object(request)
    name = text_member(body, "name")
    if not 0 < len(name) <= _NAME_LIMIT:
        raise HTTPException(400, f"'name' must be 1 to {_NAME_LIMIT} characters")
    site = site_of(request)
    run = find_run(site.journal, path_id(request))
    payload = open_codec(site.journal, allow_pickle=False).encode_part(body.get("payload"))
    if not caller_of(request).is_person and not run.state.is_final:
        site.journal.add_origin(
            run.id, Origin.UNKNOWN
        )  # what the run does from here, somebody unknown has asked for
    taken_by = site.journal.send_event(run.id, name, payload, time.time())
    return JSON({"run_id": run.id, "name": name, "taken_by": taken_by}, 202)
