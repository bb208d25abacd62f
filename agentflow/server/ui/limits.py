"""Pages of limits: the list, and one limit with its holders, its queue, and what can be changed of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from agentflow.engine.limits import define
from agentflow.errors import LimitNotFoundError, UsageError
from agentflow.limit_views import find_limit, limit_view, limit_views
from agentflow.model.limits import DEPLOYMENT_PREFIX, FLOW_PREFIX, TAG_PREFIX, ConcurrencyLimitStrategy
from agentflow.server.api.limits import name_in_path, strategy_of
from agentflow.server.bodies import form_of
from agentflow.server.rendering import render
from agentflow.server.site import site_of


@dataclass(frozen=True, slots=True)
class Entry:
    """What a person has entered into the form of a limit."""

    name: str = ""
    limit: str = ""
    decay: str = ""
    strategy: str = ConcurrencyLimitStrategy.ENQUEUE
    active: bool = True

    @classmethod
    def of_form(cls, form: dict[str, str], name: str = "") -> Entry:
        """The fields as they were sent."""
        return cls(
            name or form.get("name", "").strip(),
            form.get("limit", "").strip(),
            form.get("decay", "").strip(),
            form.get("strategy", ConcurrencyLimitStrategy.ENQUEUE),
            "active" in form,
        )

    @classmethod
    def of_view(cls, view: dict[str, Any]) -> Entry:
        """A limit as it is."""
        decay = view["slot_decay_per_second"]
        return cls(
            view["name"],
            str(view["limit"]),
            f"{decay:g}" if decay else "",
            view["collision_strategy"],
            view["active"],
        )


def list_page(request: Request) -> Response:
    """GET /limits."""
    return _list(request, Entry())


def _list(request: Request, entry: Entry, *, error: str = "", status: int = 200) -> Response:
    views = [limit_line(view) for view in limit_views(site_of(request).journal)]
    return render(
        request, "limits.html", {"limits": views, "entry": entry, "error": error, **_WORDS}, status=status
    )


def show_page(request: Request) -> Response:
    """GET /limits/{name}."""
    return _show(request, name_in_path(request))


def _show(
    request: Request, name: str, entry: Entry | None = None, *, error: str = "", status: int = 200
) -> Response:
    journal = site_of(request).journal
    view = limit_line(limit_view(journal, find_limit(journal, name)))
    context = {"limit": view, "entry": entry or Entry.of_view(view), "error": error, **_WORDS}
    return render(request, "limit.html", context, status=status)


def limit_line(view: dict[str, Any]) -> dict[str, Any]:
    """A limit with what its rows and its page say of it."""
    return view | {
        "href": _address(view["name"]),
        "taken": f"{view['limit'] - view['free']:g}",
        "share": 0.0 if not view["limit"] else min(1.0, (view["limit"] - view["free"]) / view["limit"]),
        "about": _about(view["name"]),
    }


def _about(name: str) -> str:
    if name.startswith(TAG_PREFIX):
        return f"each task tagged {name.removeprefix(TAG_PREFIX)}"
    if name.startswith(FLOW_PREFIX):
        return f"each run of {name.removeprefix(FLOW_PREFIX)}"
    if name.startswith(DEPLOYMENT_PREFIX):
        return f"each run of the deployment {name.removeprefix(DEPLOYMENT_PREFIX)}"
    return "whatever asks for it in code"


def _address(name: str) -> str:
    return f"/limits/{quote(name)}"


def set_new(request: Request) -> Response:
    """POST /limits: define a limit."""
    entry = Entry.of_form(form_of(request))
    try:
        _define(request, entry)
    except UsageError as error:
        return _list(request, entry, error=str(error), status=422)
    return RedirectResponse(_address(entry.name), 303)


def change(request: Request) -> Response:
    """POST /limits/{name}: change a limit."""
    name = name_in_path(request)
    find_limit(site_of(request).journal, name)
    entry = Entry.of_form(form_of(request), name)
    try:
        _define(request, entry)
    except UsageError as error:
        return _show(request, name, entry, error=str(error), status=422)
    return RedirectResponse(_address(name), 303)


def _define(request: Request, entry: Entry) -> None:
    """Raises `UsageError` for what makes no sense."""
    if not (entry.limit.isascii() and entry.limit.isdigit() and len(entry.limit) < 12):  # noqa: PLR2004
        message = "Slots is a whole number, 0 or more."
        raise UsageError(message)
    try:
        decay = float(entry.decay or 0)
    except ValueError:
        message = "Slots that come back each second is a number, such as 0.5."
        raise UsageError(message) from None
    try:
        strategy = strategy_of(entry.strategy)
    except HTTPException as refusal:
        raise UsageError(refusal.detail) from None
    define(
        site_of(request).journal,
        entry.name,
        limit=int(entry.limit),
        active=entry.active,
        slot_decay_per_second=decay,
        collision_strategy=strategy,
    )


def reset(request: Request) -> Response:
    """POST /limits/{name}/reset."""
    name = name_in_path(request)
    site_of(request).journal.reset_limit(name)
    return RedirectResponse(_address(name), 303)


def remove(request: Request) -> Response:
    """POST /limits/{name}/remove."""
    name = name_in_path(request)
    if not site_of(request).journal.delete_limit(name):
        raise LimitNotFoundError(name)
    return RedirectResponse("/limits", 303)


_WORDS = {
    "strategies": {
        ConcurrencyLimitStrategy.ENQUEUE.value: "waits for its turn",
        ConcurrencyLimitStrategy.CANCEL_NEW.value: "is cancelled at once",
    }
}
