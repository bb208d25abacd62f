"""Owning a run of an earlier life: its records are loaded, its arguments read, its code compared."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from agentflow.engine.active import ActiveRun, Options
from agentflow.errors import NotResumableError
from agentflow.journal.protocol import Journal
from agentflow.model.limits import RunLimits
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.payloads.arguments import unstored_in
from agentflow.payloads.codec import Codec


def claimed(
    journal: Journal,
    run_id: str,
    options: Options,
    code: str,
    *,
    take_over: bool = False,
    origin: Origin | None = None,
    limits: RunLimits,
) -> tuple[ActiveRun, dict[str, Any]]:
    """A run, owned by this process, and its arguments; `code` is the fingerprint of the flow as it is now.

    It runs; but where it needs slots of `limits`, not before it has them.

    Raises what `Journal.claim_run` raises, and `NotResumableError` for a run that had arguments which could not be
    stored: it ends as CRASHED, so that nobody tries again.
    """
    run = journal.claim_run(
        run_id, take_over=take_over, fingerprint=code, origin=origin, start=not limits.names
    )
    return loaded(journal, run, options, code, limits)


def loaded(
    journal: Journal, run: Run, options: Options, code: str, limits: RunLimits
) -> tuple[ActiveRun, dict[str, Any]]:
    """A run that this process has claimed, with what is recorded of it, and its arguments; like `claimed`."""
    try:
        codec = Codec(journal.key, allow_pickle=options.settings.allow_pickle)
        arguments: dict[str, Any] = codec.decode(run.parameters)
        missing = unstored_in(arguments)
        if missing:
            lost = NotResumableError(run.id, missing)
            journal.set_state(run.number, run.epoch, StateType.CRASHED, message=str(lost), release=True)
            raise lost
        lives = journal.lives(run.number)
        fork = journal.fork_of(run.number)
        changed = not {code, ""}.issuperset({run.fingerprint, *(life.fingerprint for life in lives)})
        changed = changed or (fork is not None and fork.changed)
        with _no_collection():
            active = ActiveRun(journal, run, options, rows=journal.steps(run.number), changed=changed)
        active.limited(limits).fork = fork
    except BaseException:
        journal.release_run(run)
        raise
    return active, arguments


@contextmanager
def _no_collection() -> Generator[None, None, None]:
    """Loading makes many objects, all of which stay: to look for garbage among them would only cost time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
