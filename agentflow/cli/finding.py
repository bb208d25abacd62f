"""Runs and questions by what people type: a whole id, or an end of it that fits only one."""

from __future__ import annotations

import re

from agentflow.errors import RunNotFoundError, UsageError, WaitNotFoundError
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.runs import Run
from agentflow.model.waits import Wait

_FRAGMENT = re.compile(r"[0-9a-f-]{4,35}", re.IGNORECASE)
_MANY = 100_000


def find_run(journal: Journal, text: str) -> Run:
    """The run whose id is `text` or, alone among all, ends with it (four characters or more).

    Raises `RunNotFoundError`, and `UsageError` listing the runs where several fit.
    """
    run = journal.get_run(text)
    if run is not None:
        return run
    fitting = journal.list_runs(RunFilter(limit=10, id_end=text.lower())) if _FRAGMENT.fullmatch(text) else []
    if not fitting:
        raise RunNotFoundError(text)
    if len(fitting) > 1:
        message = (
            f"several runs end with {text!r}: {', '.join(run.id for run in fitting)}; give more of the id"
        )
        raise UsageError(message)
    return fitting[0]


def find_wait(journal: Journal, text: str) -> Wait:
    """The question whose id is `text` or, alone among all, ends with it. Raises like `find_run`."""
    wait = journal.get_wait(text)
    if wait is not None:
        return wait
    for open_only in (True, False):
        if not _FRAGMENT.fullmatch(text):
            break
        waits = journal.list_waits(open_only=open_only, limit=_MANY)
        fitting = [wait for wait in waits if wait.id.endswith(text.lower())]
        if len(fitting) > 1:
            message = f"several questions end with {text!r}: {', '.join(wait.id for wait in fitting[:10])}; give more"
            raise UsageError(message)
        if fitting:
            return fitting[0]
    raise WaitNotFoundError(text)
