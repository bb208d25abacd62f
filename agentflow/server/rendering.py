"""Templates to pages: the environment, the filters, and what every page is given."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any, cast

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from agentflow.version import VERSION

HERE = Path(__file__).parent
_SHORT = 80
_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))

STATE_WORDS = {
    "SCHEDULED": "scheduled",
    "PENDING": "pending",
    "RUNNING": "running",
    "PAUSED": "waiting",
    "CANCELLING": "cancelling",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "CRASHED": "crashed",
    "AwaitingConcurrencySlot": "awaiting slot",
}
KIND_WORDS = {
    "approval": "Approval",
    "in_doubt": "In doubt",
    "divergence": "Divergence",
    "input": "Question",
    "event": "Event",
    "timer": "Timer",
    "slot": "Slot",
}


def duration(seconds: float | None) -> str:
    """A length of time for people: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "< 1 ms"  # noqa: PLR2004
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, smaller in _UNITS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def clock(moment: str | None) -> str:
    """An RFC 3339 time for people, in UTC; scripts show it in the reader's zone."""
    if not moment:
        return ""
    return dt.datetime.fromisoformat(moment).astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def pretty(value: Any) -> str:
    """A JSON value to read: text as it is, the rest indented."""
    return value if isinstance(value, str) else pretty_json(value)


def pretty_json(value: Any) -> str:
    """A JSON value as JSON to read and to edit: on one line where it fits."""
    short = json.dumps(value, ensure_ascii=False, default=str)
    if len(short) <= _SHORT:
        return short
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = cast("dict[str, Any]", environment.filters)  # pyright: ignore[reportUnknownMemberType]
    filters |= {
        "duration": duration,
        "clock": clock,
        "pretty": pretty,
        "pretty_json": pretty_json,
    }
    shared = cast("dict[str, Any]", environment.globals)  # pyright: ignore[reportUnknownMemberType]
    shared |= {"version": VERSION, "state_words": STATE_WORDS, "kind_words": KIND_WORDS}
    return environment


_ENVIRONMENT = _environment()


def render(request: Request, template: str, context: dict[str, Any], *, status: int = 200) -> Response:
    """A page."""
    caller = getattr(request.state, "caller", None)
    site = getattr(request.app.state, "site", None) if "app" in request.scope else None
    session = None if caller is None else caller.session
    given = {
        "csrf": site.access.csrf(session) if site is not None and session is not None else "",
        "open_count": site.open_count() if site is not None and session is not None else 0,
        "signed_in": bool(site is not None and site.access.needs_token and session is not None),
        "path": request.url.path,
    }
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(given | context), status)
