"""Owning a run of an earlier life: its records are loaded, its arguments read, its code compared."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from agentflow.beginning import RunnableFlow, code_of, must_hear_of_its_cancellation
from agentflow.engine.active import ActiveRun, Options
from agentflow.errors import NotResumableError, OtherKeyError, ParameterError
from agentflow.fingerprints import sign_of, unmarked
from agentflow.flow_calls import Refused, read_given
from agentflow.journal.protocol import Journal
from agentflow.model.limits import RunLimits
from agentflow.model.lives import Life
from agentflow.model.names import readable_name
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.payloads.arguments import Given, encode_arguments, is_incomplete, unstored_in
from agentflow.payloads.codec import Codec
from agentflow.payloads.opening import open_codec


def claimed(
    flow: RunnableFlow,
    journal: Journal,
    run_id: str,
    options: Options,
    *,
    take_over: bool = False,
    origin: Origin | None = None,
    limits: RunLimits,
) -> tuple[ActiveRun, dict[str, Any]]:
    """A run, owned by this process, and its arguments.

    It runs; but where it needs slots of `limits`, not before it has them.

    Raises what `Journal.claim_run` raises, and `NotResumableError` for a run that had arguments which could not be
    stored: it ends as CRASHED, so that nobody tries again.
    """
    code = code_of(flow, journal)
    run = journal.claim_run(
        run_id, take_over=take_over, fingerprint=code, origin=origin, start=not limits.names
    )
    return loaded(flow, journal, run, options, code, limits)


def loaded(
    flow: RunnableFlow,
    journal: Journal,
    run: Run,
    options: Options,
    code: str,
    limits: RunLimits,
    *,
    fresh: bool = False,
) -> tuple[ActiveRun, dict[str, Any]]:
    """A run that this process has claimed, with what is recorded of it, and its arguments; like `claimed`.

    `fresh`: nothing can be recorded of it, because this is its first life and it is no copy of another run.
    """
    try:
        codec = open_codec(journal, options.settings)
        arguments: Any = codec.decode(run.parameters)
        if isinstance(arguments, Given):
            run, arguments = _read(flow, journal, run, arguments, codec)
        missing = unstored_in(arguments)
        if missing:
            lost = NotResumableError(run.id, missing)
            journal.set_state(run.number, run.epoch, StateType.CRASHED, message=str(lost), release=True)
            raise lost
        if fresh:
            changed = _is_changed(code, run.fingerprint)
            active = ActiveRun(journal, run, options, rows=[], changed=changed, codec=codec).limited(limits)
        else:
            active = _with_records(journal, run, options, code).limited(limits)
    except BaseException:
        journal.release_run(run)
        raise
    return active, arguments


def _with_records(journal: Journal, run: Run, options: Options, code: str) -> ActiveRun:
    lives = journal.lives(run.number)
    fork = journal.fork_of(run.number)
    changed = _is_changed(code, run.fingerprint, *(life.fingerprint for life in lives))
    changed = changed or (fork is not None and fork.changed)
    with _no_collection():
        rows = journal.steps(run.number)
        if rows and fork is None:
            _check_key(journal, run, lives)
        active = ActiveRun(journal, run, options, rows=rows, changed=changed)
    active.fork = fork
    return active


def _is_changed(code: str, *recorded: str) -> bool:
    known = unmarked(code)[0]
    return any(one != code and unmarked(one)[0] not in (known, "") for one in recorded)


def _check_key(journal: Journal, run: Run, lives: Sequence[Life]) -> None:
    """Refuse a run whose steps this process would not find, and would run again: they are found by keyed digests."""
    signs = (unmarked(life.fingerprint)[1] for life in lives)
    if next((sign for sign in signs if sign), sign_of(journal.key)) != sign_of(journal.key):
        raise OtherKeyError(run.id)


def _read(
    flow: RunnableFlow, journal: Journal, run: Run, given: Given, codec: Codec
) -> tuple[Run, dict[str, Any]]:
    """A run whose arguments were given without the flow's code: read now, once, and stored as they were read.

    Those that do not fit are `Refused`: the run fails, as any other one does.
    """
    arguments = read_given(flow, given.values)
    if isinstance(arguments, Refused):
        return run, arguments
    parameters, named = encode_arguments(codec, arguments), flow.policy.run_name
    if is_incomplete(codec, parameters):
        missing = ", ".join(unstored_in(codec.decode(parameters)))
        error = ParameterError(
            f"{flow.name}: {missing} cannot be stored, so no other process could go on with the run"
        )
        return run, Refused(error)
    own_name = run.name == readable_name(run.id)  # nobody has given it another one
    name = named(flow.known(arguments)) if named is not None and own_name else run.name
    hooks = must_hear_of_its_cancellation(flow)
    journal.bind_run(run.number, run.epoch, parameters, name=name, on_cancellation=hooks)
    return replace(run, parameters=parameters, name=name, on_cancellation=hooks), codec.decode(parameters)


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
