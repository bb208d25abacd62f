"""Pages of flows: the list, and the form that starts one."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from agentflow.errors import CodecError, ParameterError
from agentflow.server import forms
from agentflow.server.api.flows import flow_view
from agentflow.server.api.runs import origin_of
from agentflow.server.bodies import form_of
from agentflow.server.rendering import render
from agentflow.server.site import caller_of, site_of


def list_page(request: Request) -> Response:
    """GET /flows."""
    flows = site_of(request).worker.flows
    return render(request, "flows.html", {"flows": [flow_view(flows[name]) for name in sorted(flows)]})


def start_page(request: Request) -> Response:
    """GET /flows/{name}: the form with the flow's parameters."""
    flow = site_of(request).worker.flow(str(request.path_params["name"]))
    return _page(request, flow.name, forms.fields_of(flow.parameters_schema, None))


def _page(
    request: Request, name: str, fields: list[forms.Field], *, error: str = "", status: int = 200
) -> Response:
    flow = site_of(request).worker.flow(name)
    return render(
        request, "flow.html", {"flow": flow_view(flow), "fields": fields, "error": error}, status=status
    )


def start(request: Request) -> Response:
    """POST /flows/{name}: start a run."""
    site = site_of(request)
    flow = site.worker.flow(str(request.path_params["name"]))
    schema = flow.parameters_schema
    values, fields, fault = forms.read(forms.fill(forms.fields_of(schema, None), form_of(request)), schema)
    if fault or any(field.error for field in fields):
        return _page(request, flow.name, fields, error=fault, status=422)
    try:
        run = site.worker.start_run(flow.name, values, origin=origin_of(caller_of(request)))
    except (ParameterError, CodecError) as error:
        return _page(request, flow.name, fields, error=str(error), status=422)
    return RedirectResponse(f"/runs/{run.id}", 303)
