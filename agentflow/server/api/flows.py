"""The flows that this server runs."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from agentflow.flows import Flow
from agentflow.server.answers import JSON
from agentflow.server.site import site_of


def flow_view(flow: Flow[..., Any]) -> dict[str, Any]:
    """A flow."""
    return {
        "name": flow.name,
        "description": flow.description,
        "version": flow.version,
        "tags": sorted(flow.tags),
        "parameters_schema": flow.parameters_schema,
        "result_schema": flow.result_schema,
    }


def list_flows(request: Request) -> JSON:
    """GET /api/flows."""
    flows = site_of(request).worker.flows
    return JSON({"flows": [flow_view(flows[name]) for name in sorted(flows)]})
