"""What code can ask about the run that it is in, under Prefect's names: `flow_run`, `task_run`, `deployment`.

``from agentflow.runtime import flow_run``, then ``flow_run.id``: read when it is asked for. Outside of a flow, and in
hooks, there is nothing to tell: None, or empty. In a function for ``flow_run_name`` or ``task_run_name`` there are the
name and the parameters of what it names. `get_run_context` says the same as one value, and raises outside of a flow.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from agentflow.engine.away import ABROAD, refusal
from agentflow.engine.context import CURRENT, Frame
from agentflow.errors import MissingContextError
from agentflow.journal.opening import address_of
from agentflow.model.deployments import Deployment
from agentflow.model.runs import FlowRun, TaskRun
from agentflow.naming import NAMED
from agentflow.payloads.arguments import decode_arguments
from agentflow.run_context import flow_run_around, flows_around, get_run_context, task_run_around

__all__ = ["deployment", "flow_run", "task_run"]

FoundT = TypeVar("FoundT", FlowRun, TaskRun)


def _frame() -> Frame | None:
    """Where the caller stands; None outside of a flow. Raises `MissingContextError` in a body that was sent away."""
    if ABROAD.get() is not None:
        raise MissingContextError(refusal("agentflow.runtime"))
    return CURRENT.get()


class _Around(Generic[FoundT]):
    """What a run and a call tell alike of the code that asks."""

    def _here(self) -> FoundT | None:
        raise NotImplementedError

    @property
    def id(self) -> str | None:
        """Its id, the same in every life of the run; of a sub-flow the one that its hooks see."""
        here = self._here()
        return (here.id or None) if here is not None else None

    @property
    def name(self) -> str | None:
        """How people see it."""
        here = self._here()
        return (here.name or None) if here is not None else None

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The arguments by name."""
        here = self._here()
        return {} if here is None else here.parameters

    @property
    def run_count(self) -> int:
        """Which attempt it is, from 1; 0 outside."""
        here = self._here()
        return 0 if here is None else here.run_count


class _FlowRun(_Around[FlowRun]):
    """The run of the flow around the calling code; inside of a sub-flow, the call of that one."""

    def _here(self) -> FlowRun | None:
        named = NAMED.get()
        if named is not None and named.is_flow:
            return FlowRun(id="", name="", flow_name=named.owner, parameters=named.parameters, run_count=0)
        frame = _frame()
        return None if frame is None else flow_run_around(frame)

    @property
    def flow_name(self) -> str | None:
        """The name of the flow."""
        here = self._here()
        return None if here is None else here.flow_name

    @property
    def flow_version(self) -> str | None:
        """The ``version`` of the flow, where it has one."""
        frame = _frame()
        owner = None if frame is None else next(flows_around(frame)).policy.owner
        return getattr(owner, "version", "") or None

    @property
    def tags(self) -> list[str]:
        """Its labels."""
        frame, here = _frame(), self._here()
        if frame is None or here is None:
            return []
        return sorted({*frame.run.run.tags, *here.tags})

    @property
    def scheduled_start_time(self) -> dt.datetime:
        """When the run was asked for; outside of a flow: now."""
        frame = _frame()
        return dt.datetime.now(dt.UTC) if frame is None else _moment(frame.run.run.created)

    @property
    def parent_flow_run_id(self) -> str | None:
        """The flow run that called this one, or started it."""
        frame = _frame()
        if frame is None:
            return None
        flows = flows_around(frame)
        if next(flows).parent is None:
            return frame.run.run.parent or None
        return flow_run_around(next(flows)).id

    @property
    def root_flow_run_id(self) -> str | None:
        """The flow run with which it all began."""
        frame = _frame()
        run = None if frame is None else frame.run.run
        while frame is not None and run is not None and run.parent:
            above = frame.run.journal.get_run(run.parent)
            if above is None:  # removed meanwhile
                return run.parent
            run = above
        return None if run is None else run.id

    @property
    def ui_url(self) -> str | None:
        """Where the page of the run is; None where the journal is not a server's."""
        frame = _frame()
        server = "" if frame is None else address_of(frame.run.options.settings)
        if frame is None or not server.startswith(("http://", "https://")):
            return None
        return f"{server.rstrip('/')}/runs/{frame.run.run.id}"


class _TaskRun(_Around[TaskRun]):
    """The call of the task around the calling code; nothing in a flow's own code."""

    def _here(self) -> TaskRun | None:
        named = NAMED.get()
        if named is not None and not named.is_flow:
            return TaskRun(
                id="",
                name="",
                task_name=named.owner,
                flow_run_id="",
                parameters=named.parameters,
                run_count=0,
            )
        frame = _frame()
        return None if frame is None else task_run_around(frame)

    @property
    def task_name(self) -> str | None:
        """The name of the task."""
        here = self._here()
        return None if here is None else here.task_name

    @property
    def tags(self) -> list[str]:
        """Its labels, those of the run among them."""
        return [] if _frame() is None or self._here() is None else sorted(get_run_context().tags)


class _Deployment:
    """The deployment that the run is a run of, if any."""

    @property
    def id(self) -> str | None:
        """``FLOW/NAME``, by which a deployment is known."""
        frame = _frame()
        return None if frame is None else frame.run.run.deployment or None

    @property
    def name(self) -> str | None:
        """Its own name."""
        known = self.id
        return None if known is None else known.rpartition("/")[2]

    @property
    def version(self) -> str | None:
        """Its version when the run was made, where it had one."""
        frame = _frame()
        return None if frame is None else frame.run.run.deployment_version or None

    @property
    def flow_run_id(self) -> str | None:
        """The run."""
        frame = _frame()
        return None if frame is None else frame.run.run.id

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What its runs begin with, as the journal has it now."""
        frame, known = _frame(), self.id
        found: Deployment | None = None
        if frame is not None and known is not None:
            found = frame.run.journal.get_deployment(known)
        return {} if frame is None or found is None else decode_arguments(frame.run.codec, found.parameters)


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


flow_run = _FlowRun()
task_run = _TaskRun()
deployment = _Deployment()
