"""Every flow a tool: its name, docstring, parameters and result as MCP declares them; a call is a run.

The list is read from the worker at every request, so that a flow that is added later is a tool at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import anyio.to_thread
from fastmcp.server.dependencies import get_context
from fastmcp.server.providers import Provider
from fastmcp.tools import Tool, ToolResult
from mcp_types import ToolAnnotations
from pydantic import PrivateAttr

from agentflow.errors import AgentflowError, DefinitionError
from agentflow.flows import Flow
from agentflow.mcp import results
from agentflow.mcp.callers import Caller
from agentflow.mcp.calls import Desk, RunCall
from agentflow.mcp.sealing import Continuation
from agentflow.model.runs import Origin, Run

#: What model providers accept as a tool's name.
_LONGEST_NAME = 64
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
#: Tags by which a flow declares what it does, beyond what agentflow knows.
READ_ONLY, IDEMPOTENT, NON_DESTRUCTIVE, CLOSED_WORLD = (
    "mcp:read-only", "mcp:idempotent", "mcp:non-destructive", "mcp:closed-world",
)  # fmt: skip


def tool_name(flow: str) -> str:
    """The name of a flow's tool: the flow's, with what model providers do not accept replaced by ``_``."""
    return _UNFIT.sub("_", flow)[:_LONGEST_NAME]


def flows_by_tool(flows: Mapping[str, Flow[..., Any]], taken: Iterable[str]) -> dict[str, Flow[..., Any]]:
    """The flows by their tools' names. Raises `DefinitionError` where two tools would have the same one."""
    reserved = set(taken)
    found: dict[str, Flow[..., Any]] = {}
    for name, flow in sorted(flows.items()):
        tool = tool_name(name)
        if tool in reserved:
            raise DefinitionError(
                f"the flow {name!r} would have the same name as agentflow's own tool {tool!r}; "
                f"rename it: @flow(name=...)"
            )
        if tool in found:
            raise DefinitionError(
                f"the flows {found[tool].name!r} and {name!r} would both be the tool {tool!r}; "
                "rename one: @flow(name=...)"
            )
        found[tool] = flow
    return found


def annotations_of(flow: Flow[..., Any]) -> ToolAnnotations:
    """What is known of a flow; what is not known is left to MCP's cautious defaults.

    A flow counts as writing unless it is tagged ``mcp:read-only``.
    """
    read_only = READ_ONLY in flow.tags
    return ToolAnnotations(
        read_only_hint=read_only,
        destructive_hint=False if read_only or NON_DESTRUCTIVE in flow.tags else None,
        idempotent_hint=True if IDEMPOTENT in flow.tags else None,
        open_world_hint=False if CLOSED_WORLD in flow.tags else None,
    )


class FlowTool(Tool):
    """A flow as a tool."""

    _flow: Flow[..., Any] = PrivateAttr()
    _desk: Desk = PrivateAttr()
    _origin: Origin = PrivateAttr()

    @classmethod
    def make(cls, name: str, flow: Flow[..., Any], desk: Desk, origin: Origin) -> FlowTool:
        """The tool of a flow."""
        tool = cls(
            name=name,
            description=flow.description or f"The flow {flow.name}.",
            parameters=flow.parameters_schema,
            output_schema=results.output_schema(flow),
            annotations=annotations_of(flow),
        )
        tool._flow, tool._desk, tool._origin = flow, desk, origin
        return tool

    @property
    def flow_name(self) -> str:
        """The name of the flow."""
        return self._flow.name

    def is_of(self, flow: Flow[..., Any] | None) -> bool:
        """Whether it is the tool of `flow`."""
        return self._flow is flow

    async def start(self, arguments: dict[str, Any]) -> Run:
        """Start a run. Raises `ParameterError` before there is one."""
        start = partial(self._desk.worker.start_run, self._flow.name, arguments, origin=self._origin)
        return await anyio.to_thread.run_sync(start)

    def result_of(self, run: Run) -> ToolResult:
        """The result of a completed run."""
        return results.completed(self._flow, self._desk.worker.journal, run)

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """Start a run and follow it; a retried call follows the run that it started."""
        caller = Caller.of(get_context())
        call = RunCall(self._desk, caller, self.name, arguments, self.result_of)
        try:
            continuation = Continuation.read(caller.state, self.name, arguments)
            run_id = (await self.start(arguments)).id if continuation is None else continuation.run_id
            return await call.follow(run_id, continuation)
        except AgentflowError as error:
            return results.error_result(str(error))


class FlowTools(Provider):
    """The flows of a worker as tools."""

    def __init__(self, desk: Desk, origin: Origin, reserved: frozenset[str]) -> None:
        super().__init__()
        self._desk, self._origin, self._reserved = desk, origin, reserved
        self._made: dict[str, FlowTool] = {}
        self.tools()

    def tools(self) -> dict[str, FlowTool]:
        """The tools by name. Raises `DefinitionError` where two would have the same name."""
        flows = flows_by_tool(self._desk.worker.flows, self._reserved)
        kept = {name: tool for name, tool in self._made.items() if tool.is_of(flows.get(name))}
        self._made = {
            name: kept.get(name) or FlowTool.make(name, flow, self._desk, self._origin)
            for name, flow in flows.items()
        }
        return self._made

    async def _list_tools(self) -> list[Tool]:
        return list(self.tools().values())
