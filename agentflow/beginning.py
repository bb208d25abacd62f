"""How runs begin: what is stored of a call of a flow, and the first life that this process gives it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from agentflow.approvals.gate import DEFAULT_GATE
from agentflow.engine.active import ActiveRun, Options
from agentflow.engine.context import CURRENT
from agentflow.engine.logs import run_log
from agentflow.engine.policy import StepPolicy
from agentflow.engine.tags import TAGS
from agentflow.errors import ParameterError
from agentflow.fingerprints import fingerprint, marked
from agentflow.flow_calls import Refused
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.ids import new_id
from agentflow.model.limits import RunLimits
from agentflow.model.names import readable_name
from agentflow.model.runs import NewRun, Origin
from agentflow.model.states import StateType
from agentflow.payloads.arguments import encode_arguments, encode_given, is_incomplete, unstored_in
from agentflow.payloads.codec import Codec
from agentflow.payloads.opening import open_codec
from agentflow.settings import Settings


class RunnableFlow(Protocol):
    """What is asked of a flow here."""

    name: str
    entrypoint: str
    tags: frozenset[str]
    policy: StepPolicy
    fn: Any

    def limits(self, journal: Journal, deployment: str = "") -> RunLimits:
        """What limits a run (of a deployment)."""
        ...

    def known(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, a method's receiver among them."""
        ...


def default_options(suspend_after: float | None = None) -> Options:
    """Options of a run in this process; by default it never leaves memory while somebody waits for its result."""
    return Options(settings=Settings.from_environment(), gate=DEFAULT_GATE, suspend_after=suspend_after)


def leaving(options: Options) -> Options:
    """The same for runs whose results nobody in this process waits for: while they wait, they leave memory."""
    if options.suspend_after is not None:
        return options
    return replace(options, suspend_after=options.settings.suspend_after)


def code_of(flow: RunnableFlow, journal: Journal) -> str:
    """The fingerprint of a flow's code as it is now, as it is recorded of a life in this process."""
    return marked(fingerprint(flow.fn), journal.key)


def describe_run(
    flow: RunnableFlow,
    arguments: Mapping[str, Any],
    journal: Journal,
    options: Options,
    origin: Origin,
    *,
    run_id: str = "",
    also: frozenset[Origin] = frozenset(),
    codec: Codec | None = None,
) -> NewRun:
    """The run that a call with these arguments makes; inside of a run, one that is cancelled with it.

    `run_id`: instead of a new one; `also`: who else has asked for it; `codec`: of the journal, if it is open already.
    """
    around = CURRENT.get()
    codec = codec or open_codec(journal, options.settings)
    run_id, refused = run_id or new_id(), isinstance(arguments, Refused)
    named, encode = (None, encode_given) if refused else (flow.policy.run_name, encode_arguments)
    return NewRun(
        id=run_id,
        name=readable_name(run_id) if named is None else named(flow.known(arguments)),
        flow=flow.name,
        entrypoint=flow.entrypoint,
        parameters=encode(codec, arguments),
        fingerprint=code_of(flow, journal),
        origin=origin,
        also=also,
        created=options.clock(),
        cwd=os.getcwd(),  # noqa: PTH109 - a string is what is stored
        interpreter=sys.executable,
        parent="" if around is None else around.run.run.id,
        tags=tuple(sorted(flow.tags | TAGS.get())),
        on_cancellation=must_hear_of_its_cancellation(flow),
    )


def must_hear_of_its_cancellation(flow: RunnableFlow) -> bool:
    """Whether it has hooks for that. Those of a flow that nobody else could find run in this process, or not at all."""
    return bool(flow.entrypoint and flow.policy.hooks and flow.policy.hooks.on_cancellation)


def check_complete(new: NewRun, codec: Codec) -> NewRun:
    """The run. Raises `ParameterError` where an argument cannot be stored, so that only this process could run it."""
    if is_incomplete(codec, new.parameters):
        missing = ", ".join(unstored_in(codec.decode(new.parameters)))
        message = f"{new.flow}: {missing} cannot be stored, so no other process could run it"
        raise ParameterError(message)
    return new


def begin(
    flow: RunnableFlow,
    arguments: Mapping[str, Any],
    journal: Journal | None,
    options: Options | None,
    origin: Origin,
) -> ActiveRun:
    """The first life of a new run, owned by this process. It never runs where its arguments are `Refused`."""
    options = options or default_options()
    journal = journal or open_journal(options.settings)
    limits = RunLimits() if isinstance(arguments, Refused) else flow.limits(journal)
    codec = open_codec(journal, options.settings)
    new = describe_run(flow, arguments, journal, options, origin, codec=codec)
    waits = limits.names or isinstance(arguments, Refused)
    run = journal.create_run(new, state=StateType.PENDING if waits else StateType.RUNNING, owned=True)
    incomplete = is_incomplete(codec, run.parameters)
    if incomplete:  # it must not leave memory: it could not come back
        options = replace(options, suspend_after=None)
    active = ActiveRun(journal, run, options, rows=[], codec=codec).limited(limits)
    if incomplete:
        run_log(active, "not all arguments can be stored: if this process dies, the run cannot be resumed")
    return active
