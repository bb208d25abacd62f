"""The Tasks extension over the journal: a run is a task, so that it survives clients, servers and restarts.

Source: ``io.modelcontextprotocol/tasks`` (SEP-2663), specification 2026-07-28. The server decides what becomes a task:
a flow that has not ended shortly after it was started, called by a client that knows tasks. A task's questions are the
run's open waits; its state is the run's. There is nothing else to store.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio.to_thread
from fastmcp import Context
from fastmcp.server.dependencies import get_context, get_http_request
from fastmcp.server.extensions import MethodBinding, ServerExtension, ToolCallContinuation, ToolCallOutcome
from fastmcp.tools import ToolResult
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    ElicitResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from agentflow.errors import AgentflowError, CorruptRecord, ParameterError, RunFinishedError
from agentflow.mcp import asking
from agentflow.mcp.callers import Caller
from agentflow.mcp.calls import Desk
from agentflow.mcp.flow_tools import FlowTool, FlowTools
from agentflow.mcp.following import Follower, Sight, listening
from agentflow.mcp.results import error_result, status_result
from agentflow.mcp.task_shapes import EXTENSION, Acknowledgement, TaskParams, TaskShape, TaskUpdateParams
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.payloads.failures import decode_failure
from agentflow.payloads.opening import open_codec
from agentflow.run_context import cancel_run
from agentflow.views import stamp

_MODERN = frozenset(MODERN_PROTOCOL_VERSIONS)
RequestContext = ServerRequestContext[Any, Any]


class DurableTasks(ServerExtension):
    """Runs as tasks."""

    identifier = EXTENSION

    def __init__(self, desk: Desk, flows: FlowTools) -> None:
        self._desk, self._flows = desk, flows
        self._worker, self._journal = desk.worker, desk.worker.journal

    def methods(self) -> Sequence[MethodBinding]:
        """``tasks/get``, ``tasks/update`` and ``tasks/cancel``."""
        handlers = (
            ("tasks/get", TaskParams, self._get),
            ("tasks/update", TaskUpdateParams, self._update),
            ("tasks/cancel", TaskParams, self._cancel),
        )
        return [
            MethodBinding(method=method, params_type=params, handler=handler, protocol_versions=_MODERN)
            for method, params, handler in handlers
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, context: Context, call_next: ToolCallContinuation
    ) -> ToolCallOutcome:
        """Answer a flow's call with a task, where the client knows tasks and the run takes its time."""
        tool = self._flows.tools().get(params.name)
        caller = Caller.of(context)
        if tool is None or not caller.modern or caller.state is not None or not self._knows_tasks(context):
            return await call_next()
        try:
            run = await tool.start(params.arguments or {})
        except ParameterError as error:
            return error_result(str(error))
        async with listening(self._journal, self._worker.options.settings.poll_interval) as bell:
            follower = Follower(self._journal, run.id, bell)
            sight = await follower.until(self._desk.patience.task, stop=lambda seen: seen.asks(time.time()))
        if sight.run.state.is_final:
            return self._outcome(sight.run, tool)
        return self._shape(sight, caller.principal, "task")

    # -- methods
    async def _get(self, request: RequestContext, params: TaskParams) -> TaskShape:
        caller, run = await self._task(request, params)
        sight = await anyio.to_thread.run_sync(self._see, run)
        return await anyio.to_thread.run_sync(
            lambda: self._shape(sight, caller.principal, "complete", full=True)
        )

    async def _update(self, request: RequestContext, params: TaskUpdateParams) -> Acknowledgement:
        """Take the answers to what is asked; everything else is ignored (specification, "Task update requests")."""
        caller, run = await self._task(request, params)
        sight = await anyio.to_thread.run_sync(self._see, run)
        asked = {self._desk.keys.question(wait.id): wait for wait in sight.questions}
        for key, given in params.input_responses.items():
            if key not in asked:
                continue
            try:
                answer = ElicitResult.model_validate(given)
            except ValidationError:
                continue  # not an answer to a form: it stays asked
            await asking.take(self._journal, asked[key].id, answer, caller.name)
        self._worker.interrupt()
        return Acknowledgement()

    async def _cancel(self, request: RequestContext, params: TaskParams) -> Acknowledgement:
        caller, run = await self._task(request, params)
        try:
            cancel = partial(cancel_run, run.id, actor=caller.name, journal=self._journal)
            await anyio.to_thread.run_sync(cancel)
        except RunFinishedError:
            pass  # a task that has ended is acknowledged all the same
        self._worker.interrupt()
        return Acknowledgement()

    # -- inner
    def _knows_tasks(self, context: Context) -> bool:
        return context.client_extension_settings(EXTENSION) is not None

    async def _task(self, request: RequestContext, params: TaskParams) -> tuple[Caller, Run]:
        """The caller and the run of its task. Raises `MCPError` as the specification wants it."""
        if self.client_settings(request) is None:
            raise MCPError(
                code=MISSING_REQUIRED_CLIENT_CAPABILITY,
                message=f"the client has not declared the extension {EXTENSION}",
                data={"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
            )
        if _named_in_header() not in (None, params.task_id):
            raise MCPError(code=HEADER_MISMATCH, message="the header Mcp-Name differs from params.taskId")
        async with get_context() as context:
            caller = Caller.of(context, retries=False)
        run_id = self._desk.keys.run_of_task(params.task_id, caller.principal)
        run = await anyio.to_thread.run_sync(self._journal.get_run, run_id) if run_id is not None else None
        if run is None:
            raise MCPError(code=INVALID_PARAMS, message="there is no such task")
        return caller, run

    def _see(self, run: Run) -> Sight:
        return Sight(run, [] if run.state.is_final else self._journal.list_waits(number=run.number))

    def _shape(self, sight: Sight, principal: str, kind: str, *, full: bool = False) -> TaskShape:
        run = sight.run
        asks = sight.asks(time.time())
        shape = TaskShape(
            result_type=kind,
            task_id=self._desk.keys.task(run.id, principal),
            status="input_required" if asks else "working",
            status_message=run.message or None,
            created_at=stamp(run.created) or "",
            last_updated_at=stamp(_last_change(sight)) or "",
        )
        if run.state.is_final:
            self._fill(shape, run)
        elif asks and full:
            shape.input_requests = {
                self._desk.keys.question(wait.id): asking.request_for(wait).model_dump(
                    mode="json", by_alias=True, exclude_none=True
                )
                for wait in sight.questions
            }
        return shape

    def _fill(self, shape: TaskShape, run: Run) -> None:
        """The end of a task: a failed flow is a completed task with a tool error, ``failed`` is for protocol errors."""
        error = self._protocol_error(run)
        if run.state is StateType.CANCELLED:
            shape.status = "cancelled"
        elif error is not None:
            shape.status, shape.error = "failed", error
        else:
            shape.status = "completed"
            tool = next((tool for tool in self._flows.tools().values() if tool.flow_name == run.flow), None)
            shape.result = _wire(self._outcome(run, tool))

    def _outcome(self, run: Run, tool: FlowTool | None) -> ToolResult:
        if run.state is not StateType.COMPLETED:
            return status_result(run, [], self._desk.base_url)
        if tool is None:
            return error_result(f"the flow {run.flow} is not served here any more; get_run shows the result")
        return tool.result_of(run)

    def _protocol_error(self, run: Run) -> dict[str, Any] | None:
        if run.state is StateType.CRASHED:
            return {"code": INTERNAL_ERROR, "message": run.message or "the run crashed"}
        if run.error is None or run.state is not StateType.FAILED:
            return None
        try:
            error = decode_failure(open_codec(self._journal), run.error)
        except (AgentflowError, CorruptRecord):
            return None
        if not isinstance(error, MCPError):
            return None
        return {"code": error.error.code, "message": error.error.message}


def _named_in_header() -> str | None:
    """The header ``Mcp-Name``; None on stdio and where it is missing."""
    try:
        return get_http_request().headers.get("mcp-name")
    except RuntimeError:
        return None


def _last_change(sight: Sight) -> float:
    run = sight.run
    moments = [run.created, run.started, run.ended, *(wait.opened for wait in sight.waits)]
    return max(moment for moment in moments if moment is not None)


def _wire(result: ToolResult) -> dict[str, Any]:
    """A tool's result as it would have been answered."""
    whole = CallToolResult(
        content=result.content,
        structured_content=result.structured_content,
        is_error=result.is_error,
        _meta=result.meta,
    )
    return whole.model_dump(mode="json", by_alias=True, exclude_none=True)
