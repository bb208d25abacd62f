"""Deployments: a flow under a name, with what its runs begin with, so that anybody can ask for a run of it."""

from __future__ import annotations

from dataclasses import dataclass

from agentflow.errors import DefinitionError
from agentflow.model.limits import ConcurrencyLimitConfig
from agentflow.model.runs import Origin

#: Names stand in paths, and in the names of limits.
_LONGEST = 180


@dataclass(frozen=True, slots=True)
class NewDeployment:
    """What somebody defines."""

    #: ``FLOW/NAME``; what has this name already is replaced.
    name: str
    flow: str
    #: Where the flow was found: ``path/to/file.py:flow``; "" where no other process could find it.
    entrypoint: str
    #: Arguments of its runs, by name, encoded: those that differ from the flow's own defaults.
    parameters: bytes
    #: JSON schema of all parameters, as JSON.
    schema: bytes
    #: Who defines it. They are behind each of its runs, too.
    origins: tuple[Origin, ...]
    tags: tuple[str, ...] = ()
    description: str = ""
    version: str = ""
    #: How many of its runs are executed at once; None = as many as there are.
    concurrency_limit: ConcurrencyLimitConfig | None = None
    #: None = as it was, and at first not.
    paused: bool | None = None
    cwd: str = ""
    interpreter: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as the journal knows it. Times are seconds since the epoch."""

    #: ``FLOW/NAME``.
    name: str
    flow: str
    entrypoint: str
    parameters: bytes
    schema: bytes
    origins: tuple[Origin, ...]
    tags: tuple[str, ...]
    description: str
    version: str
    concurrency_limit: ConcurrencyLimitConfig | None
    #: It takes no new runs.
    paused: bool
    cwd: str
    interpreter: str
    created: float
    #: When anything of it was changed last.
    updated: float


def full_name(flow: str, name: str) -> str:
    """``FLOW/NAME``. Raises `DefinitionError` for what is no name of a deployment."""
    problem = ""
    if not name or not name.isprintable() or name != name.strip() or "/" in name:
        problem = (
            f"{name!r} is no name for a deployment: one line without a slash, and without blanks around it"
        )
    elif len(flow) + len(name) >= _LONGEST:
        problem = f"{flow}/{name:.40}: the names of a flow and its deployment have at most {_LONGEST - 1} characters"
    if problem:
        raise DefinitionError(problem)
    return f"{flow}/{name}"


def short_name(name: str) -> str:
    """``NAME`` of ``FLOW/NAME``."""
    return name.rpartition("/")[2]
