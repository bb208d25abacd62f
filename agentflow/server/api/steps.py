"""Steps of a run: the list without values, and one step with all that is recorded of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentflow.journal.protocol import Journal
from agentflow.model.steps import FAILURES, StepEvent
from agentflow.payloads.envelopes import TEXT, Draft, referred
from agentflow.payloads.failures import describe_failure
from agentflow.payloads.opening import open_for_people
from agentflow.server.answers import JSON
from agentflow.server.feeds import RunFeed
from agentflow.server.site import path_id, query_int, site_of
from agentflow.server.timeline import Step, Timeline, attempts_of, usage_of
from agentflow.views import plain, stamp

_PAGE, _MOST = 200, 1000
_MOST_IN_COLUMNS = 200_000
_SHOWN_BYTES = 200_000


def list_steps(request: Request) -> JSON:
    """GET /api/runs/{id}/steps?after=&limit=[&shape=columns]: `after` is the `seq` of the last one seen."""
    timeline = _feed(request).timeline
    after = query_int(request, "after", 0)
    if request.query_params.get("shape") == "columns":
        limit = query_int(request, "limit", _MOST_IN_COLUMNS, most=_MOST_IN_COLUMNS)
        steps = timeline.after(after, limit)
        return JSON({"columns": timeline.columns(steps), "last": timeline.last, "total": len(timeline.steps)})
    limit = query_int(request, "limit", _PAGE, most=_MOST)
    steps = timeline.after(after, limit)
    more = len(steps) == limit and bool(timeline.after(steps[-1]["seq"], 1)) if steps else False
    return JSON(
        {
            "steps": [step_view(timeline, step) for step in steps],
            "next": steps[-1]["seq"] if more else None,
            "total": len(timeline.steps),
        }
    )


def show_step(request: Request) -> JSON:
    """GET /api/runs/{id}/steps/{seq}."""
    feed = _feed(request)
    text = str(request.path_params["seq"])
    step = feed.timeline.step(int(text)) if text.isascii() and text.isdigit() and len(text) < 12 else None  # noqa: PLR2004
    if step is None:
        raise HTTPException(404, "the run has no such step")
    return JSON(step_view(feed.timeline, step) | _recorded(site_of(request).journal, step))


def _feed(request: Request) -> RunFeed:
    return site_of(request).hub.feed(path_id(request)).refresh()


def step_view(timeline: Timeline, step: Step) -> dict[str, Any]:
    """A step without its values."""
    return {
        "seq": step["seq"],
        "id": step["id"],
        "parent": timeline.seq_of(step["parent"]) or None,
        "kind": step["kind"],
        "name": step["name"],
        "run_name": step["run_name"],
        "event": step["event"],
        "effect": step["effect"],
        "attempts": attempts_of(step),
        "started": stamp(step["started"]),
        "ended": stamp(step["ended"]),
        "usage": usage_of(step),
    }


def _recorded(journal: Journal, step: Step) -> dict[str, Any]:
    """What the step's rows hold: its value or failure, its earlier failures, an effect's arguments."""
    found: dict[str, Any] = {"value": None, "error": None, "failures": [], "detail": {}}
    opened = open_for_people(journal, most=_SHOWN_BYTES)
    for row_id in step["rows"]:
        rows = journal.steps(row_id >> 32, row_id - 1, 1)
        if not rows or rows[0].id != row_id:
            continue
        row = rows[0]
        if row.detail:
            found["detail"] = orjson.loads(row.detail)
        if row.event in FAILURES and row.value is not None:
            failure = describe_failure(row.value, opened)
            if row.event == StepEvent.ATTEMPT:
                found["failures"].append(failure | {"at": stamp(row.ended)})
            else:
                found["error"] = failure
        elif row.value is not None:
            stored = referred(row.value)
            found["size"] = len(row.value) if stored is None else stored[1]
            found["value"] = _shown(row.value, opened)
    return found


def _shown(value: bytes, opened: Callable[[bytes], Draft]) -> Any:
    """A recorded value; of a huge one the beginning of its text."""
    if len(value) <= _SHOWN_BYTES or value[0] < TEXT:
        return plain(value, opened)
    return value[:_SHOWN_BYTES].decode("utf-8", "replace") + " ..."
