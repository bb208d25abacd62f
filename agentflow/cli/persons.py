"""Who decides at a terminal: a person who echoes a code, never a program that pretends to be one.

Without a terminal a decision counts least (`Assurance.NONE`). The shell of a worker or of a coding agent is refused:
whoever types there may be the model whose doings are to be signed. Nothing here can tell a person from a program that
owns the same account and its terminal; the documentation says so.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from agentflow.cli.output import has_terminal, people, say
from agentflow.errors import DecisionRefusedError
from agentflow.model.runs import Origin
from agentflow.model.waits import Assurance, Wait
from agentflow.settings import Settings
from agentflow.shells import AGENT_VARIABLES, WORKER_VARIABLE

_started_by_worker = bool(os.environ.get(WORKER_VARIABLE))
_LOOK_SECONDS = 0.2


def agent_variable() -> str:
    """The variable that says that no person types here; "" where a person may."""
    if _started_by_worker:
        return WORKER_VARIABLE
    return next((name for name in AGENT_VARIABLES if os.environ.get(name)), "")


def origin() -> Origin:
    """Who starts a run from this shell: in an agent's shell that is a model, below a worker nobody knows."""
    variable = agent_variable()
    if not variable:
        return Origin.PERSON
    return Origin.UNKNOWN if variable == WORKER_VARIABLE else Origin.MODEL


def decision_page(wait_id: str) -> str:
    """Where a server on this machine shows a question."""
    return f"http://127.0.0.1:{Settings.from_environment().port}/approvals/{wait_id}"


def sign(wait: Wait, code: str | None, verb: str) -> Assurance:
    """Make sure that a person means it, as far as this terminal allows; returns how sure that is.

    Raises `DecisionRefusedError` in a worker's or an agent's shell, and for a code that is not the question's.
    """
    variable = agent_variable()
    if variable:
        message = (
            f"refused: {variable} is set, so a program may be typing here; decide at {decision_page(wait.id)} "
            "(while `agentflow serve` runs) or in a terminal of your own"
        )
        raise DecisionRefusedError(message)
    terminal = has_terminal()
    wanted = wait.digest[:6]
    if wanted and code is None and terminal:
        code = ask_line(f"Type the code {wanted} to {verb}: ")
    if wanted and code is not None and code.strip().lower() != wanted:
        message = f"{wait.id}: that is not its code; nothing was decided (agentflow approvals show {wait.id})"
        raise DecisionRefusedError(message)
    return Assurance.LOW if terminal else Assurance.NONE


def ask_line(prompt: str, is_over: Callable[[], bool] = lambda: False) -> str | None:
    """A line from the terminal; None at its end (Ctrl-D), or as soon as `is_over` says that nobody wants it."""
    console = people()
    console.print(f"[bold]{prompt}[/bold]", end="")
    console.file.flush()
    while not is_over():
        ready, _, _ = select.select([sys.stdin], [], [], _LOOK_SECONDS)
        if ready:
            line = sys.stdin.readline()
            if not line:
                say("")
            return line.strip() if line else None
    say("")
    return None
