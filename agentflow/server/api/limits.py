"""Limits: list, show, set, remove, and free their slots."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentflow.engine.limits import define
from agentflow.errors import LimitNotFoundError
from agentflow.limit_views import find_limit, limit_view, limit_views
from agentflow.model.limits import ConcurrencyLimitStrategy
from agentflow.server.answers import JSON
from agentflow.server.bodies import json_object
from agentflow.server.site import site_of

_MEMBERS = ("limit", "active", "slot_decay_per_second", "collision_strategy")


def name_in_path(request: Request) -> str:
    """The name of a limit, which may be any text."""
    return str(request.path_params["name"])


def list_limits(request: Request) -> JSON:
    """GET /api/limits."""
    return JSON({"limits": limit_views(site_of(request).journal)})


def show_limit(request: Request) -> JSON:
    """GET /api/limits/{name}."""
    journal = site_of(request).journal
    return JSON(limit_view(journal, find_limit(journal, name_in_path(request))))


def set_limit(request: Request) -> JSON:
    """PUT /api/limits/{name} {limit, active, slot_decay_per_second, collision_strategy}: what is left out stays."""
    body = json_object(request)
    unknown = [name for name in body if name not in _MEMBERS]
    if unknown:
        raise HTTPException(400, f"no member {unknown[0][:40]!r}; there are {', '.join(_MEMBERS)}")
    journal = site_of(request).journal
    made = define(
        journal,
        name_in_path(request),
        limit=_member(body, "limit", int, "a whole number"),
        active=_member(body, "active", bool, "true or false"),
        slot_decay_per_second=_member(body, "slot_decay_per_second", (int, float), "a number"),
        collision_strategy=strategy_of(_member(body, "collision_strategy", str, "text")),
    )
    return JSON(limit_view(journal, made))


def _member(body: dict[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...], wanted: str) -> Any:
    """A member of the body; None where it is left out. Raises `HTTPException` 400."""
    value = body.get(name)
    is_truth = isinstance(value, bool)
    if value is not None and (not isinstance(value, kind) or is_truth is not (kind is bool)):
        raise HTTPException(400, f"{name!r} must be {wanted}")
    return value


def strategy_of(text: str | None) -> ConcurrencyLimitStrategy | None:
    """The strategy of that name. Raises `HTTPException` 400."""
    if text is None:
        return None
    try:
        return ConcurrencyLimitStrategy(text)
    except ValueError:
        names = " or ".join(ConcurrencyLimitStrategy)
        raise HTTPException(400, f"'collision_strategy' must be {names}") from None


def remove_limit(request: Request) -> JSON:
    """DELETE /api/limits/{name}: whoever waits for it goes on."""
    name = name_in_path(request)
    if not site_of(request).journal.delete_limit(name):
        raise LimitNotFoundError(name)
    return JSON({"name": name, "removed": True})


def reset_limit(request: Request) -> JSON:
    """POST /api/limits/{name}/reset: free all its slots, though their holders go on."""
    name = name_in_path(request)
    return JSON({"name": name, "freed": site_of(request).journal.reset_limit(name)})
