"""Tools about runs: list, start, inspect, await, cancel, retry, fork; and about deployments: list, ask for a run.

They show what waits for a person; none of them can answer. None changes what a deployment is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, cast

import pydantic
from fastmcp import Context
from fastmcp.exceptions import ValidationError
from fastmcp.tools import FunctionTool, ToolResult
from mcp_types import ToolAnnotations
from pydantic import Field

from agentflow.deployments import Asked, schema_of
from agentflow.engine.forks import in_words
from agentflow.errors import (
    AgentflowError,
    DeploymentNotFoundError,
    DeploymentPausedError,
    RunNotFoundError,
)
from agentflow.explaining import explain
from agentflow.journal.protocol import DeploymentFilter, RunFilter
from agentflow.mcp import results
from agentflow.mcp.callers import Caller, client_name
from agentflow.mcp.calls import Desk, RunCall
from agentflow.mcp.flow_tools import tool_name
from agentflow.mcp.following import Sight
from agentflow.mcp.results import as_text
from agentflow.mcp.sealing import Continuation
from agentflow.mcp.shapes import (
    ApprovalList,
    ApprovalShape,
    DeploymentList,
    DeploymentShape,
    FateShape,
    FlowList,
    FlowShape,
    ForkedRun,
    LogLine,
    LogLines,
    RunDetails,
    RunList,
    RunShape,
    StartedRun,
    StepShape,
    WaitingShape,
)
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS, Wait
from agentflow.payloads.opening import open_for_people
from agentflow.run_context import cancel_run
from agentflow.views import deployment_view, in_doubt, stamp, steps_of, waiting_view

#: No client should wait longer: many give up after 60 seconds.
LONGEST_WAIT = 50.0
_MOST_STEPS = 200
_GOES_ON = "The run goes on by itself. Call await_run with this run_id."

RunId = Annotated[str, Field(description="The run_id that a flow's tool or start_run returned.")]
Limit = Annotated[int, Field(ge=1, le=200, description="How many at most.")]

_READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_CANCELS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
_STARTS = ToolAnnotations(read_only_hint=False)


class ControlTool(FunctionTool):
    """A tool whose agentflow errors are tool errors that a model can act on."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """Call the function."""
        try:
            return await super().run(arguments)
        except RunNotFoundError as error:
            return results.error_result(f"no run {error.run_id!r}; list_runs lists the runs")
        except DeploymentNotFoundError as error:
            return results.error_result(f"no deployment {error.name!r}; list_deployments lists them")
        except DeploymentPausedError as error:
            return results.error_result(
                f"{error.name} is paused: it takes no new runs before a person resumes it"
            )
        except AgentflowError as error:
            return results.error_result(str(error))
        except ValidationError as error:
            return results.error_result(f"{self.name}: {_faults(error)}")


def _faults(error: ValidationError) -> str:
    """What is wrong with the arguments, each fault by its parameter."""
    cause = error.__cause__
    if not isinstance(cause, pydantic.ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
        for fault in cause.errors(include_url=False)
    )


class ControlTools:
    """The tools about runs, over a desk."""

    def __init__(self, desk: Desk, origin: Origin) -> None:
        self._desk, self._origin = desk, origin
        self._worker, self._journal = desk.worker, desk.worker.journal

    def tools(self) -> list[ControlTool]:
        """The tools."""
        reading = (self.list_flows, self.list_deployments, self.get_run, self.list_runs, self.get_logs)
        made = [_tool(fn, _READS) for fn in reading]
        return [
            *made,
            _tool(self.list_approvals, _READS),
            _tool(self.start_run, _STARTS),
            _tool(self.run_deployment, _STARTS),
            _tool(self.cancel_run, _CANCELS),
            _tool(self.retry_run, _STARTS),
            _tool(self.fork_run, _STARTS),
            _tool(self.await_run, _READS, output_schema=results.RUN_SCHEMA),
        ]

    # -- flows
    def list_flows(self) -> FlowList:
        """List the flows that can be run here, with the schema of their parameters."""
        flows = [
            FlowShape(
                flow=flow.name,
                tool=tool_name(flow.name),
                description=flow.description,
                parameters=flow.parameters_schema,
                tags=sorted(flow.tags),
            )
            for _, flow in sorted(self._worker.flows.items())
        ]
        return FlowList(flows=flows)

    def start_run(
        self,
        flow: Annotated[str, Field(description="A name from list_flows.")],
        arguments: Annotated[
            dict[str, Any] | None, Field(description="The flow's parameters by name.")
        ] = None,
    ) -> StartedRun:
        """Start a run of a flow and return at once; await_run waits for it."""
        name = next((known for known in self._worker.flows if flow in (known, tool_name(known))), flow)
        run = self._worker.start_run(name, arguments or {}, origin=self._origin)
        return StartedRun(run_id=run.id, flow=run.flow, state=run.state, next=_GOES_ON)

    # -- deployments
    def list_deployments(
        self,
        flow: Annotated[str, Field(description="Only deployments of this flow.")] = "",
        limit: Limit = 50,
    ) -> DeploymentList:
        """List deployments: flows under names, with the schema of the parameters that a run of them takes."""
        found = self._journal.list_deployments(DeploymentFilter(limit=limit, flow=flow))
        return DeploymentList(
            deployments=[
                DeploymentShape.model_validate(
                    deployment_view(deployment, full=False) | {"parameters": schema_of(deployment)}
                )
                for deployment in found
            ]
        )

    def run_deployment(
        self,
        name: Annotated[str, Field(description="A name from list_deployments, FLOW/NAME.")],
        arguments: Annotated[
            dict[str, Any] | None, Field(description="Parameters by name, beside those of the deployment.")
        ] = None,
        idempotency_key: Annotated[
            str, Field(description="If a run was asked for with the same key, that one is meant.")
        ] = "",
    ) -> StartedRun:
        """Ask for a run of a deployment and return at once; await_run waits for it.

        It begins as soon as a process serves the flow. Its side effects need a person's signature.
        """
        asked = Asked(arguments or {}, self._origin, idempotency_key=idempotency_key)
        run = self._worker.start_deployed(name, asked)
        return StartedRun(run_id=run.id, flow=run.flow, state=run.state, next=_GOES_ON)

    # -- runs
    def get_run(self, run_id: RunId) -> RunDetails:
        """Show a run: state, parameters, result or error, its steps, and what it waits for."""
        run = self._run(run_id)
        steps = steps_of(self._journal, run)
        waits = self._journal.list_waits(number=run.number) if not run.state.is_final else []
        view = results.safe_run_view(run, full=True, opened=open_for_people(self._journal))
        if run.state is StateType.COMPLETED:
            view["result"] = results.value_of(self._worker.flows.get(run.flow), self._journal, run)
        shown = [_step_shape(step) for step in steps[-_MOST_STEPS:]]
        waiting = [WaitingShape.model_validate(wait) for wait in waiting_view(waits)]
        doubts = [doubt["name"] for doubt in in_doubt(self._journal, run, steps)]
        fork = self._journal.fork_of(run.number)
        told = explain(self._journal, run) if run.epoch > 1 or fork is not None else None
        groups = [] if told is None else told.groups()[:_MOST_STEPS]
        return RunDetails(
            **view,
            steps=shown,
            steps_total=len(steps),
            waiting_for=waiting,
            in_doubt=doubts,
            forked_from=None if fork is None else fork.source,
            explanation=[FateShape.model_validate(group) for group in groups],
        )

    async def await_run(
        self,
        run_id: RunId,
        context: Context,
        timeout_seconds: Annotated[
            float, Field(ge=0, le=LONGEST_WAIT, description="How long to wait.")
        ] = 45.0,
    ) -> ToolResult:
        """Wait until a run has ended or waits for a person, at most 50 seconds; then call it again.

        Where the run waits for a person and this client can show forms, the person is asked here.
        """
        caller = Caller.of(context)
        arguments: dict[str, Any] = {"run_id": run_id, "timeout_seconds": timeout_seconds}
        patience = max(timeout_seconds, 0.001)
        call = RunCall(self._desk, caller, "await_run", arguments, self._completed, self._status, patience)
        continuation = Continuation.read(caller.state, "await_run", arguments)
        return await call.follow(run_id, continuation)

    def list_runs(
        self,
        flow: Annotated[str, Field(description="Only runs of this flow.")] = "",
        deployment: Annotated[str, Field(description="Only runs of this deployment, FLOW/NAME.")] = "",
        state: Annotated[StateType | None, Field(description="Only runs in this state.")] = None,
        tag: Annotated[str, Field(description="Only runs with this tag.")] = "",
        limit: Limit = 20,
    ) -> RunList:
        """List runs, newest first."""
        states = () if state is None else (state,)
        runs = self._journal.list_runs(
            RunFilter(
                limit=limit,
                states=states,
                flow=flow,
                tags=(tag,) if tag else (),
                deployment=deployment,
            )
        )
        return RunList(runs=[RunShape.model_validate(results.safe_run_view(run, full=False)) for run in runs])

    def cancel_run(
        self,
        run_id: RunId,
        context: Context,
        reason: Annotated[str, Field(description="Why; recorded with the run.")] = "",
    ) -> RunDetails:
        """Ask a run to stop, and the runs it has started. It stops at its next step; what it has done stays done."""
        cancel_run(run_id, actor=client_name(context.session), reason=reason, journal=self._journal)
        self._worker.interrupt()
        return self.get_run(run_id)

    def retry_run(self, run_id: RunId) -> StartedRun:
        """Have a run that failed, crashed or was cancelled go on: what failed runs again, the rest is reused.

        Side effects that happened stay; from here on each one needs a person's signature.
        """
        run = self._worker.retry_run(run_id, origin=self._origin)
        return StartedRun(run_id=run.id, flow=run.flow, state=run.state, next=_GOES_ON)

    def fork_run(
        self,
        run_id: RunId,
        from_step: Annotated[
            str, Field(description="A step's name; name#2 is the second one of that name.", min_length=1)
        ],
        arguments: Annotated[
            dict[str, Any] | None, Field(description="Parameters of the flow that are to differ, by name.")
        ] = None,
    ) -> ForkedRun:
        """Begin a new run where another one stood before a step; what was recorded before it is reused.

        Each side effect of the new run needs a person's signature.
        """
        run, cut = self._worker.fork_run(run_id, from_step, arguments or {}, origin=self._origin)
        happened = [in_words(effect) for effect in cut.happened]
        return ForkedRun(run_id=run.id, flow=run.flow, state=run.state, next=_GOES_ON, happened=happened)

    def get_logs(
        self,
        run_id: RunId,
        after: Annotated[int, Field(ge=0, description="The `last` of the page before.")] = 0,
        limit: Limit = 100,
    ) -> LogLines:
        """Read the log of a run, oldest line first."""
        rows = self._journal.logs(self._run(run_id).number, after=after, limit=limit)
        lines = [
            LogLine(
                at=stamp(row.at) or "",
                level=logging.getLevelName(row.level),
                step=row.step,
                text=row.text,
                source=row.source,
            )
            for _, row in rows
        ]
        return LogLines(lines=lines, last=rows[-1][0] if rows else after)

    def list_approvals(self, limit: Limit = 50) -> ApprovalList:
        """List what waits for a person. You cannot answer for them: say what is asked, and where they can answer."""
        waits = self._journal.list_waits(kinds=PERSON_KINDS, limit=limit)
        return ApprovalList(approvals=[self._approval_shape(wait) for wait in waits])

    # -- inner
    def _run(self, run_id: str) -> Run:
        run = self._journal.get_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return run

    def _approval_shape(self, wait: Wait) -> ApprovalShape:
        view = results.question_view(wait, self._desk.base_url)
        return ApprovalShape(**view, run_id=wait.run_id, flow=wait.flow, opened=stamp(wait.opened))

    def _completed(self, run: Run) -> ToolResult:
        value = results.value_of(self._worker.flows.get(run.flow), self._journal, run)
        view = {"status": "completed", "run_id": run.id, "flow": run.flow, "message": "", "result": value}
        return ToolResult(content=as_text(view), structured_content=view)

    def _status(self, sight: Sight) -> ToolResult:
        view = results.status_view(sight.run, sight.waits, self._desk.base_url)
        return ToolResult(content=as_text(view), structured_content=view)


def _tool(fn: Callable[..., Any], annotations: ToolAnnotations, **options: Any) -> ControlTool:
    made = ControlTool.from_function(fn, annotations=annotations, **options)
    return cast("ControlTool", made)


def _step_shape(step: dict[str, Any]) -> StepShape:
    error: dict[str, str] | None = step["error"]
    text = None if error is None else f"{error['type']}: {error['text']}"
    times = {"started": stamp(step["started"]), "ended": stamp(step["ended"])}
    named = {key: step[key] for key in ("name", "kind", "event", "effect")}
    return StepShape.model_validate({**named, **times, "error": text})
