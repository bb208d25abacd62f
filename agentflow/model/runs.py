"""A run: one call of a flow, with an identity, an owner and an end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agentflow.model.states import State, StateType


class Origin(StrEnum):
    """Who asked for a run; *model* and *unknown* put a person's signature before its side effects."""

    PERSON = "person"
    SCHEDULE = "schedule"
    EVENT = "event"
    PARENT = "parent"
    MODEL = "model"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NewRun:
    """What is known of a run before it exists."""

    id: str
    flow: str
    #: ``path/to/file.py:flow`` or ``module:flow``; empty when the flow can only be resumed by its own process.
    entrypoint: str
    #: The bound arguments, encoded.
    parameters: bytes
    #: Digest of the project's modules, the Python minor version and agentflow's version.
    fingerprint: str
    origin: Origin
    created: float
    name: str = ""
    cwd: str = ""
    interpreter: str = ""
    tags: tuple[str, ...] = ()
    #: Id of the run that started this one, and with which it is cancelled; "" = none.
    parent: str = ""
    #: Who else is behind it, beside `origin`: whoever asked for the run that it was started by.
    also: frozenset[Origin] = frozenset()
    #: Its flow has hooks of that name.
    on_cancellation: bool = False
    #: The deployment that it is a run of (``FLOW/NAME``), and its version at that moment; "" = none.
    deployment: str = ""
    deployment_version: str = ""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Everybody who asks for it."""
        return (self.origin, *sorted(self.also - {self.origin}))


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the journal knows it. Times are seconds since the epoch."""

    number: int
    id: str
    flow: str
    name: str
    entrypoint: str
    parameters: bytes
    fingerprint: str
    #: Everybody who has asked for it: its starter, and whoever resumed it.
    origins: tuple[Origin, ...]
    state: StateType
    message: str
    created: float
    started: float | None
    ended: float | None
    result: bytes | None
    error: bytes | None
    #: Grows with every claim; a write that carries an older one is refused.
    epoch: int
    #: ``host:pid`` of the last owner.
    owner: str
    cwd: str
    interpreter: str
    tags: tuple[str, ...]
    #: How often a life of this run ended without saying so.
    crashes: int
    #: Id of the run that started this one; "" = none.
    parent: str
    #: Its flow has hooks of that name, which only a process with its code can run.
    on_cancellation: bool = False
    #: The deployment that it is a run of (``FLOW/NAME``), and its version when it was made; "" = none.
    deployment: str = ""
    deployment_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One call of a task, as hooks and conditions see it."""

    #: The same in every life of the run.
    id: str
    #: What people see: the task's name, or what ``task_run_name`` makes of the call.
    name: str
    task_name: str
    flow_run_id: str
    #: The arguments by name.
    parameters: Mapping[str, Any]
    #: Which attempt it is, from 1.
    run_count: int
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRun:
    """A run of a flow, or a call of one inside of a run, as hooks see it, and `run_deployment` gives it."""

    #: Of a sub-flow, its step's; the same in every life of the run.
    id: str
    name: str
    flow_name: str
    #: The arguments by name.
    parameters: Mapping[str, Any]
    #: Which attempt it is, from 1.
    run_count: int
    tags: tuple[str, ...] = ()
    #: The run that it is a part of, or that started it; empty where there is none.
    parent_run_id: str = ""
    #: ``FLOW/NAME``; empty where it is not a run of a deployment.
    deployment: str = ""
    #: How far it has come; None for hooks, which are given the state beside it.
    state: State[Any] | None = None
