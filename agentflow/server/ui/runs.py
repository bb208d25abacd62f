"""Pages of runs: the list, and one run with its timeline."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from agentflow.errors import RunFinishedError
from agentflow.limit_views import Queues, in_the_way
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepEvent, StepKind
from agentflow.model.waits import PERSON_KINDS
from agentflow.server.api.runs import find_run, page_of, request_cancel, run_filter
from agentflow.server.bodies import form_of
from agentflow.server.feeds import RunFeed
from agentflow.server.rendering import duration, render
from agentflow.server.site import path_id, site_of
from agentflow.server.stream import wait_lines
from agentflow.server.timeline import attempts_of, shown_name, tokens_of
from agentflow.views import stamp

FIRST_ROWS = 30
STATE_FILTERS = {
    "": "All",
    "RUNNING,PENDING,SCHEDULED,CANCELLING": "Running",
    "PAUSED": "Waiting",
    "COMPLETED": "Completed",
    "FAILED,CRASHED": "Failed",
    "CANCELLED": "Cancelled",
}
STEP_WORDS = {
    StepEvent.STARTED: "running",
    StepEvent.INTENT: "running",
    StepEvent.ATTEMPT: "retrying",
    StepEvent.NOT_DONE: "not done",
    StepEvent.UNKNOWN: "in doubt",
    StepEvent.COMPLETED: "completed",
    StepEvent.CACHED: "cached",
    StepEvent.FAILED: "failed",
    StepEvent.ROLLING_BACK: "rolling back",
    StepEvent.ROLLED_BACK: "rolled back",
}

#: What those words become once the run has ended without the step's end.
_STOPPED = {StepEvent.STARTED: "stopped", StepEvent.INTENT: "in doubt", StepEvent.ATTEMPT: "stopped"}


_GOING_ON = frozenset({StateType.FAILED, StateType.CRASHED, StateType.CANCELLED})


def run_line(run: Run, queues: Queues) -> dict[str, Any]:
    """A run as a row of the list."""
    end = time.time() if run.ended is None else run.ended
    view = queues.view(run, full=False)
    return view | {
        "message": in_the_way(view["awaiting_slots"]) or run.message,
        "duration": duration(None if run.started is None else max(0, end - run.started)),
    }


def list_page(request: Request) -> Response:
    """GET /?state=&flow=&deployment=&before=."""
    site = site_of(request)
    wanted = run_filter(request)
    runs, following = page_of(site.journal, wanted)
    flows = sorted({*site.worker.flows, *(run.flow for run in runs), *([wanted.flow] if wanted.flow else [])})
    state, queues = request.query_params.get("state", "").upper(), Queues(site.journal)
    kept = {"flow": wanted.flow, "deployment": wanted.deployment}
    context = {
        "runs": [run_line(run, queues) for run in runs],
        "flows": flows,
        "filters": [
            {"label": label, "href": _address("/", state=value, **kept), "active": value == state}
            for value, label in STATE_FILTERS.items()
        ],
        "state": state,
        "flow": wanted.flow,
        "deployment": wanted.deployment,
        "newest": _address("/", state=state, **kept) if wanted.before else "",
        "older": _address("/", state=state, before=following, **kept) if following else "",
        "filtered": bool(state or wanted.flow or wanted.deployment or wanted.before),
    }
    return render(request, "runs.html", context)


def _address(path: str, **query: object) -> str:
    kept = {name: str(value) for name, value in query.items() if value}
    return path + ("?" + urlencode(kept) if kept else "")


def show_page(request: Request) -> Response:
    """GET /runs/{id}."""
    feed = site_of(request).hub.feed(path_id(request)).refresh()
    return run_page(request, feed)


def run_page(request: Request, feed: RunFeed, *, error: str = "", status: int = 200) -> Response:
    """The page of a run. `error`: what was asked for on it and could not be done."""
    run, queues = feed.run, Queues(site_of(request).journal)
    context = {
        "run": queues.view(run),
        "duration": run_line(run, queues)["duration"],
        "waits": [line | {"is_person": line["kind"] in PERSON_KINDS} for line in wait_lines(feed)],
        "steps": [_step_line(feed, step) for step in feed.timeline.steps[:FIRST_ROWS]],
        "total": len(feed.timeline.steps),
        "is_final": run.state.is_final,
        "can_go_on": run.state in _GOING_ON and site_of(request).worker.serves(run.flow),
        "is_served": site_of(request).worker.serves(run.flow),
        "pruned": stamp(site_of(request).journal.pruned_at(run.number)) if run.state.is_final else None,
        "forked": site_of(request).journal.fork_of(run.number) is not None,
        "error": error,
    }
    return render(request, "run.html", context, status=status)


def _step_line(feed: RunFeed, step: dict[str, Any]) -> dict[str, Any]:
    depth, parent = 0, feed.timeline.seq_of(step["parent"])
    while parent:
        above = feed.timeline.step(parent)
        parent = feed.timeline.seq_of(above["parent"]) if above else 0
        depth += 1
    ended, word = step["ended"], STEP_WORDS[step["event"]]
    if step["kind"] == StepKind.TRANSACTION and step["event"] == StepEvent.COMPLETED:
        word = "committed"
    return {
        "seq": step["seq"],
        "name": shown_name(step),
        "kind": step["kind"],
        "state": _STOPPED.get(step["event"], word) if feed.run.state.is_final else word,
        "effect": step["effect"],
        "attempts": attempts_of(step),
        "tokens": tokens_of(step),
        "depth": min(depth, 8),
        "duration": duration(None if ended is None else max(0.0, ended - step["started"])),
    }


def cancel(request: Request) -> Response:
    """POST /runs/{id}/cancel."""
    run_id = path_id(request)
    site = site_of(request)
    run = find_run(site.journal, run_id)
    try:
        request_cancel(request, run_id, form_of(request).get("reason", ""))
    except RunFinishedError as error:
        return run_page(request, site.hub.feed(run.id).refresh(), error=str(error), status=409)
    return RedirectResponse(f"/runs/{run_id}", 303)
