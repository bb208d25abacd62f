"""Who stands behind this process: a person at a shell, a coding agent, or a process that runs flows."""

from __future__ import annotations

import getpass
import os

from agentflow.model.runs import Origin

#: Set by processes that run flows, and inherited by what those start.
WORKER_VARIABLE = "AGENTFLOW_WORKER"

#: Variables by which coding agents mark the shells that they use.
AGENT_VARIABLES = (
    "AI_AGENT",
    "CLAUDECODE",
    "CODEX_SANDBOX",
    "CURSOR_AGENT",
    "GEMINI_CLI",
    "OPENCODE",
)


def mark_worker() -> None:
    """Mark this process as one that runs flows, for whatever it starts."""
    os.environ[WORKER_VARIABLE] = str(os.getpid())


def shell_origin() -> Origin:
    """Who asks for what code of this process starts outside of any flow.

    In a process that runs flows this is nobody known: a thread of a run's would otherwise pass for a person.
    """
    if os.environ.get(WORKER_VARIABLE):
        return Origin.UNKNOWN
    return Origin.MODEL if any(os.environ.get(name) for name in AGENT_VARIABLES) else Origin.PERSON


def person() -> str:
    """The name of the account, as the one who decides."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
