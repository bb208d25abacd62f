"""Deployments: list, show, define, pause, resume, remove, and ask for their runs."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentflow.deployments import Asked, find_deployment, remove_deployment
from agentflow.engine.tags import check_tags
from agentflow.errors import DefinitionError, DeploymentNotFoundError
from agentflow.journal.protocol import DeploymentFilter
from agentflow.model.deployments import short_name
from agentflow.model.limits import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from agentflow.server.answers import JSON
from agentflow.server.api.runs import origin_of
from agentflow.server.bodies import json_object, object_member, text_member
from agentflow.server.site import caller_of, query_int, site_of
from agentflow.views import deployment_view, run_view

_PAGE, _MOST = 200, 1000
_MEMBERS = (
    "parameters", "tags", "description", "version", "concurrency_limit", "collision_strategy", "paused",
)  # fmt: skip
_OF_RUN = ("parameters", "tags", "name", "idempotency_key")


def deployment_in_path(request: Request) -> str:
    """``FLOW/NAME``."""
    return str(request.path_params["name"])


def list_deployments(request: Request) -> JSON:
    """GET /api/deployments?flow=&tag=&after=&limit=: by name; `next` is `after` of the next page."""
    query = request.query_params
    wanted = DeploymentFilter(
        limit=max(1, query_int(request, "limit", _PAGE, most=_MOST)),
        flow=query.get("flow", ""),
        after=query.get("after", ""),
        tags=tuple(tag for tag in query.get("tag", "").split(",") if tag),
    )
    found = site_of(request).journal.list_deployments(wanted._replace(limit=wanted.limit + 1))
    page = found[: wanted.limit]
    following = page[-1].name if len(found) > wanted.limit else None
    views = [deployment_view(deployment, full=False) for deployment in page]
    return JSON({"deployments": views, "next": following})


def show_deployment(request: Request) -> JSON:
    """GET /api/deployments/{flow}/{name}."""
    return JSON(deployment_view(find_deployment(site_of(request).journal, deployment_in_path(request))))


def define_deployment(request: Request) -> JSON:
    """PUT /api/deployments/{flow}/{name}: define a deployment of a flow that is served here, or replace it."""
    body = json_object(request)
    _check_members(body, _MEMBERS)
    site, name = site_of(request), deployment_in_path(request)
    flow = site.worker.flow(name.rpartition("/")[0])
    strategy = text_member(body, "collision_strategy", ConcurrencyLimitStrategy.ENQUEUE)
    limit = _member(body, "concurrency_limit", int, "a whole number")
    if limit is None and "collision_strategy" in body:
        raise DefinitionError(
            "'collision_strategy' says what becomes of runs beyond a 'concurrency_limit'; give both"
        )
    definition = flow.to_deployment(
        short_name(name),
        parameters=object_member(body, "parameters"),
        tags=_tags(body),
        description=_member(body, "description", str, "text"),
        version=_member(body, "version", str, "text"),
        concurrency_limit=None if limit is None else ConcurrencyLimitConfig(limit, _strategy(strategy)),
        paused=_member(body, "paused", bool, "true or false"),
    )
    is_new = site.journal.get_deployment(name) is None
    saved = definition.apply(site.journal, origins=(origin_of(caller_of(request)),))
    return JSON(deployment_view(saved), 201 if is_new else 200)


def _strategy(text: str) -> ConcurrencyLimitStrategy:
    try:
        return ConcurrencyLimitStrategy(text)
    except ValueError:
        message = f"'collision_strategy' must be {' or '.join(ConcurrencyLimitStrategy)}"
        raise DefinitionError(message) from None


def start_run(request: Request) -> JSON:
    """POST /api/deployments/{flow}/{name}/runs {parameters, tags, name, idempotency_key}: ask for a run."""
    body = json_object(request)
    _check_members(body, _OF_RUN)
    asked = Asked(
        object_member(body, "parameters"),
        origin_of(caller_of(request)),
        name=text_member(body, "name").strip()[:200],
        tags=check_tags(_tags(body)),
        idempotency_key=text_member(body, "idempotency_key"),
    )
    run = site_of(request).worker.start_deployed(deployment_in_path(request), asked)
    return JSON(run_view(run), 201, {"location": f"/api/runs/{run.id}"})


def pause_deployment(request: Request) -> JSON:
    """POST /api/deployments/{flow}/{name}/pause: it takes no new runs."""
    return _paused(request, paused=True)


def resume_deployment(request: Request) -> JSON:
    """POST /api/deployments/{flow}/{name}/resume: it takes new runs again."""
    return _paused(request, paused=False)


def _paused(request: Request, *, paused: bool) -> JSON:
    changed = site_of(request).journal.pause_deployment(deployment_in_path(request), paused=paused)
    return JSON(deployment_view(changed))


def delete_deployment(request: Request) -> JSON:
    """DELETE /api/deployments/{flow}/{name}: its runs stay."""
    name = deployment_in_path(request)
    if not remove_deployment(site_of(request).journal, name):
        raise DeploymentNotFoundError(name)
    return JSON({"name": name, "deleted": True})


def _check_members(body: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = [name for name in body if name not in known]
    if unknown:
        raise HTTPException(400, f"no member {unknown[0][:40]!r}; there are {', '.join(known)}")


def _member(body: dict[str, Any], name: str, kind: type[Any], wanted: str) -> Any:
    """A member of the body; None where it is left out. Raises `HTTPException` 400."""
    value = body.get(name)
    if value is not None and value.__class__ is not kind:
        raise HTTPException(400, f"{name!r} must be {wanted}")
    return value


def _tags(body: dict[str, Any]) -> list[str]:
    tags: Any = body.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):  # pyright: ignore[reportUnknownVariableType]
        raise HTTPException(400, "'tags' must be a list of texts")
    return tags  # pyright: ignore[reportUnknownVariableType]
