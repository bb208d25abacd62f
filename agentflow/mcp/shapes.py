"""What the control tools return: the shapes from which their output schemas are made. No behaviour."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from agentflow.model.states import StateType
from agentflow.model.waits import WaitKind


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore")


class FlowShape(_Shape):
    """A flow."""

    flow: str
    #: The tool that runs it and waits for the result.
    tool: str
    description: str
    parameters: dict[str, Any]
    tags: list[str]


class FlowList(_Shape):
    """Flows."""

    flows: list[FlowShape]


class DeploymentShape(_Shape):
    """A deployment: a flow under a name, with arguments that its runs begin with."""

    name: str
    flow: str
    description: str
    version: str
    #: JSON schema; what the deployment gives stands there as defaults.
    parameters: dict[str, Any]
    tags: list[str]
    #: It takes no new runs.
    paused: bool
    concurrency_limit: int | None


class DeploymentList(_Shape):
    """Deployments by name."""

    deployments: list[DeploymentShape]


class StartedRun(_Shape):
    """A run that has just been started."""

    run_id: str
    flow: str
    state: StateType
    next: str


class ForkedRun(StartedRun):
    """A run that begins where another one stood."""

    #: The side effects that the other run began from that step on.
    happened: list[str]


class RunShape(_Shape):
    """A run. Times are RFC 3339 in UTC."""

    run_id: str
    flow: str
    #: The run that started it.
    parent: str | None = None
    #: The deployment that it is a run of.
    deployment: str | None = None
    #: What people call it.
    name: str = ""
    state: StateType
    message: str
    origins: list[str]
    created: str | None
    started: str | None
    ended: str | None
    elapsed_s: float | None
    tags: list[str]
    crashes: int
    #: How often a process has taken it up.
    life: int


class RunList(_Shape):
    """Runs, newest first."""

    runs: list[RunShape]


class ErrorShape(_Shape):
    """What a run failed with."""

    type: str
    text: str


class StepShape(_Shape):
    """A step of a run."""

    name: str
    kind: str
    #: How it stands: started, completed, failed, cached, ...
    event: str
    #: Whether it is a side effect.
    effect: bool
    started: str | None
    ended: str | None
    error: str | None


class FateShape(_Shape):
    """What became of steps of one name in the last life of a run: reused, new, re-executed, ... and why."""

    how: str
    name: str
    count: int
    reason: str


class WaitingShape(_Shape):
    """Something that a run waits for."""

    kind: WaitKind
    id: str
    due: str | None = None


class RunDetails(RunShape):
    """A run with its values and steps."""

    parameters: Any
    result: Any
    error: ErrorShape | None
    steps: list[StepShape]
    #: How many steps there are; `steps` holds the last of them.
    steps_total: int
    waiting_for: list[WaitingShape]
    #: Side effects that were started and of which nobody knows whether they happened.
    in_doubt: list[str] = []
    #: The run that it began as a copy of.
    forked_from: str | None = None
    #: What became of its steps in its last life, where it was not its first or began as a copy.
    explanation: list[FateShape]


class LogLine(_Shape):
    """A line of a run's log."""

    at: str
    level: str
    step: str
    text: str
    #: Where in the code it was logged or printed; empty = by agentflow itself.
    source: str


class LogLines(_Shape):
    """Lines of a run's log, oldest first."""

    lines: list[LogLine]
    #: Give it as `after` to read on.
    last: int


class ApprovalShape(_Shape):
    """A question to a person."""

    approval_id: str
    run_id: str
    flow: str
    kind: WaitKind
    name: str
    message: str
    arguments: dict[str, Any] | None = None
    opened: str | None
    expires: str | None = None
    cli: str
    url: str | None = None


class ApprovalList(_Shape):
    """Questions to people, oldest first."""

    approvals: list[ApprovalShape]
