"""Server-sent events: what changes in a run, or in the lists of runs and approvals.

``id:`` is ``<step row>.<log line>``, the last ones that were sent; a client that comes back with ``Last-Event-ID`` (or
``?after=``) goes on from there. A run's stream ends after the run's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from agentflow.limit_views import with_slots
from agentflow.model.waits import Wait
from agentflow.server.api.logs import log_view
from agentflow.server.feeds import Hub, RunFeed
from agentflow.server.site import Site, site_of
from agentflow.views import run_view, stamp

_HEARTBEAT = 15.0
_PAUSE = 0.1
"""Seconds between two messages at the least: changes in between travel together."""
_LOG_BATCH = 500
_LOOK = 0.5
"""Seconds between two looks at what executes: a step that has begun is not in the journal before it ends."""
_EXECUTING_SHOWN = 12
_RETRY = b"retry: 1000\n\n"


@dataclass(slots=True)
class Position:
    """How far a client has read."""

    row: int = 0
    log: int = 0

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position of a ``Last-Event-ID``. Raises `HTTPException` 400."""
        row, _, log = text.partition(".")
        parts = (row or "0", log or "0")
        if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):  # noqa: PLR2004
            raise HTTPException(400, f"{text[:40]!r} is not an event id of this stream")
        return cls(int(parts[0]), int(parts[1]))

    def __str__(self) -> str:
        return f"{self.row}.{self.log}"


def message(event: str, data: Any, position: object = None) -> bytes:
    """One server-sent event."""
    head = b"" if position is None else f"id: {position}\n".encode()
    return b"%bevent: %b\ndata: %b\n\n" % (head, event.encode(), orjson.dumps(data, default=str))


async def stream(request: Request) -> Response:
    """GET /api/events/stream?run=: the live events of a run; without `run`, of the lists."""
    site = site_of(request)
    position = Position.parse(request.headers.get("last-event-id") or request.query_params.get("after", ""))
    run_id = request.query_params.get("run")
    if run_id is None:
        events = _lists(site)
    else:
        feed = await asyncio.to_thread(
            site.hub.feed, run_id
        )  # an unknown id is refused before the stream begins
        events = _run(site, feed, position)
    return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _lists(site: Site) -> AsyncIterator[bytes]:
    hub = site.hub
    yield _RETRY
    async with hub.watcher():
        seen, known = hub.revision, None
        while not hub.closed:
            overview = await asyncio.to_thread(hub.overview, hub.revision)
            if overview != known:
                known = overview
                yield message("changed", {"open": overview.open_waits})
            seen = await _next(hub, seen, _HEARTBEAT)
            if seen < 0:
                seen = hub.revision
                yield b": \n\n"


async def _run(site: Site, feed: RunFeed, position: Position) -> AsyncIterator[bytes]:
    hub = site.hub
    yield _RETRY
    shown: Any = None
    opened = -1
    async with hub.watcher():
        while not hub.closed:
            seen = hub.revision
            await asyncio.to_thread(feed.refresh, seen)
            overview = await asyncio.to_thread(hub.overview, seen)
            for part in await asyncio.to_thread(_news, site, feed, position):
                yield part
            now = _summary(site, feed)
            if now != shown:
                shown = now
                yield message("run", now)
            if overview.open_waits != opened:
                opened = overview.open_waits
                yield message("changed", {"open": opened})
            if feed.run.state.is_final:
                yield message("end", {"state": feed.run.state.value})
                return
            quiet = 0.0
            while await _next(hub, seen, _LOOK) < 0:
                if _summary(site, feed) != shown:
                    break
                quiet += _LOOK
                if quiet >= _HEARTBEAT:
                    quiet = 0.0
                    yield b": \n\n"


async def _next(hub: Hub, seen: int, patience: float) -> int:
    """The next revision, not too soon; -1 after `patience` seconds without one."""
    await asyncio.sleep(_PAUSE)
    return hub.revision if await hub.wait(seen, patience) else -1


def _news(site: Site, feed: RunFeed, position: Position) -> Iterable[bytes]:
    """Steps and log lines that the client has not seen; moves `position`."""
    parts: list[bytes] = []
    timeline = feed.timeline
    last = timeline.last
    if last > position.row:
        steps = timeline.changed_since(position.row)
        position.row = last
        parts.append(message("steps", timeline.columns(steps), position))
    while feed.last_log > position.log:
        lines = site.journal.logs(feed.run.number, position.log, _LOG_BATCH)
        if not lines:
            break
        position.log = lines[-1][0]
        parts.append(message("logs", [log_view(line_id, line) for line_id, line in lines], position))
    return parts


def _summary(site: Site, feed: RunFeed) -> dict[str, Any]:
    executing = site.worker.executing(feed.run)
    return with_slots(run_view(feed.run, full=False), feed.awaited) | {
        "waits": wait_lines(feed),
        "executing": [
            {"kind": kind, "name": name, "since": stamp(since)}
            for kind, name, since in executing[:_EXECUTING_SHOWN]
        ],
        "executing_count": len(executing),
    }


def wait_lines(feed: RunFeed) -> list[dict[str, Any]]:
    """What the run waits for: questions, events, timers, and slots of limits."""
    slots = [
        {
            "id": slot["limit"],
            "kind": "slot",
            "name": slot["step"],
            "message": f"waits for {slot['text']}",
            "opened": slot["since"],
            "due": None,
            "step": 0,
        }
        for slot in feed.awaited
    ]
    return [wait_line(wait, feed) for wait in feed.waits] + slots


def wait_line(wait: Wait, feed: RunFeed) -> dict[str, Any]:
    """An open wait as a line of the timeline."""
    return {
        "id": wait.id,
        "kind": wait.kind.value,
        "name": wait.name,
        "message": wait.question.get("message", ""),
        "opened": stamp(wait.opened),
        "due": stamp(wait.due),
        "step": feed.timeline.seq_of(wait.step),
    }
