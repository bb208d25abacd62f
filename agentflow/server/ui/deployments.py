"""Pages of deployments: the list, and one of them with its runs and the form that asks for another one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from agentflow.deployments import Asked, find_deployment, remove_deployment, schema_of
from agentflow.errors import CodecError, DeploymentPausedError, ParameterError
from agentflow.journal.protocol import DeploymentFilter, RunFilter
from agentflow.limit_views import Queues
from agentflow.model.deployments import Deployment
from agentflow.model.limits import DEPLOYMENT_PREFIX
from agentflow.server import forms
from agentflow.server.api.deployments import deployment_in_path
from agentflow.server.api.runs import origin_of
from agentflow.server.bodies import form_of
from agentflow.server.rendering import render
from agentflow.server.site import caller_of, site_of
from agentflow.server.ui.runs import run_line
from agentflow.views import deployment_view

_PAGE = 200
_RUNS = 20


def list_page(request: Request) -> Response:
    """GET /deployments?after=."""
    after = request.query_params.get("after", "")
    found = site_of(request).journal.list_deployments(DeploymentFilter(limit=_PAGE + 1, after=after))
    page = found[:_PAGE]
    older = "/deployments?" + urlencode({"after": page[-1].name}) if len(found) > _PAGE else ""
    context = {"deployments": [_line(deployment) for deployment in page], "after": after, "older": older}
    return render(request, "deployments.html", context)


def _line(deployment: Deployment) -> dict[str, Any]:
    return deployment_view(deployment) | {"href": address(deployment.name)}


def address(name: str) -> str:
    """Where the page of a deployment is."""
    return f"/deployments/{quote(name)}"


def show_page(request: Request) -> Response:
    """GET /deployments/{flow}/{name}."""
    deployment = find_deployment(site_of(request).journal, deployment_in_path(request))
    return _page(request, deployment, forms.fields_of(schema_of(deployment), None))


def _page(
    request: Request, deployment: Deployment, fields: list[forms.Field], *, error: str = "", status: int = 200
) -> Response:
    site = site_of(request)
    queues, wanted = Queues(site.journal), RunFilter(_RUNS, deployment=deployment.name)
    context = {
        "deployment": _line(deployment),
        "limit_href": f"/limits/{quote(DEPLOYMENT_PREFIX + deployment.name)}",
        "runs": [run_line(run, queues) for run in site.journal.list_runs(wanted)],
        "query": "?" + urlencode({"deployment": deployment.name, "limit": _RUNS}),
        "is_served": site.worker.serves(deployment.flow),
        "fields": fields,
        "error": error,
    }
    return render(request, "deployment.html", context, status=status)


def start(request: Request) -> Response:
    """POST /deployments/{flow}/{name}: ask for a run."""
    site = site_of(request)
    deployment = find_deployment(site.journal, deployment_in_path(request))
    schema = schema_of(deployment)
    values, fields, fault = forms.read(forms.fill(forms.fields_of(schema, None), form_of(request)), schema)
    if fault or any(field.error for field in fields):
        return _page(request, deployment, fields, error=fault, status=422)
    try:
        run = site.worker.start_deployed(deployment.name, Asked(values, origin_of(caller_of(request))))
    except (ParameterError, CodecError) as error:
        return _page(request, deployment, fields, error=str(error), status=422)
    except DeploymentPausedError as error:
        return _page(request, deployment, fields, error=str(error), status=409)
    return RedirectResponse(f"/runs/{run.id}", 303)


def pause(request: Request) -> Response:
    """POST /deployments/{flow}/{name}/pause."""
    return _paused(request, paused=True)


def resume(request: Request) -> Response:
    """POST /deployments/{flow}/{name}/resume."""
    return _paused(request, paused=False)


def _paused(request: Request, *, paused: bool) -> Response:
    name = deployment_in_path(request)
    site_of(request).journal.pause_deployment(name, paused=paused)
    return RedirectResponse(address(name), 303)


def delete(request: Request) -> Response:
    """POST /deployments/{flow}/{name}/delete: its runs stay."""
    name = deployment_in_path(request)
    find_deployment(site_of(request).journal, name)
    remove_deployment(site_of(request).journal, name)
    return RedirectResponse("/deployments", 303)
