"""A run: one call of a flow, with an identity, an owner and an end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agentflow.model.states import StateType


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


#: A run that has taken its process down this often is no longer recovered unasked.
CRASHES_LIMIT = 3
