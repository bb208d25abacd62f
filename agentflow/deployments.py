"""Runs of deployments: asked for by name, by anybody, without the flow's code; whoever serves the flow executes them.

The arguments are stored as they were given, and read by the flow when the run begins: see `agentflow.claiming`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from agentflow.background import as_id
from agentflow.beginning import default_options
from agentflow.deploying import refuse_options
from agentflow.engine.account import name_of_end
from agentflow.engine.annotations import freeze as freeze  # noqa: PLC0414 - said with parameters of deployments
from agentflow.engine.arriving import Arrival
from agentflow.engine.away import ABROAD, refusal
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.limits import declare
from agentflow.engine.policy import StepPolicy
from agentflow.engine.resolving import is_late
from agentflow.engine.runtime import LOOP, running_loop
from agentflow.engine.step import Call, execute, execute_now
from agentflow.engine.tags import TAGS, check_tags
from agentflow.errors import (
    CodecError,
    CorruptRecord,
    DeploymentNotFoundError,
    MissingContextError,
    ParameterError,
    UnreadableResult,
    UsageError,
)
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.deployments import Deployment
from agentflow.model.ids import new_id
from agentflow.model.limits import DEPLOYMENT_PREFIX
from agentflow.model.names import readable_name
from agentflow.model.runs import FlowRun, NewRun, Origin, Run
from agentflow.model.states import State, StateType
from agentflow.model.steps import StepKind
from agentflow.payloads.arguments import Given, decode_arguments
from agentflow.payloads.codec import Codec
from agentflow.payloads.digests import canonical
from agentflow.payloads.failures import decode_failure
from agentflow.payloads.opening import open_codec
from agentflow.shells import shell_origin

_PLAIN = (str, int, float, bool, type(None))
_NAME_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants of a run, beside its deployment."""

    parameters: Mapping[str, Any]
    origin: Origin = Origin.PERSON
    #: Who else is behind it.
    also: frozenset[Origin] = frozenset()
    #: How people see it; "" = an adjective and an animal, or what the flow makes of its arguments.
    name: str = ""
    tags: frozenset[str] = frozenset()
    #: Two runs of a deployment never have the same one: the first is given instead. "" = none.
    idempotency_key: str = ""
    #: The run that starts it, and with which it is cancelled.
    parent: str = ""
    #: Instead of a new id.
    run_id: str = ""


def find_deployment(journal: Journal, name: str) -> Deployment:
    """The deployment ``FLOW/NAME``. Raises `DeploymentNotFoundError`."""
    found = journal.get_deployment(name)
    if found is None:
        raise DeploymentNotFoundError(name)
    return found


def remove_deployment(journal: Journal, name: str) -> bool:
    """Remove a deployment and the limit that it has declared; its runs stay. False if there is none."""
    found = journal.delete_deployment(name)
    declare(journal, DEPLOYMENT_PREFIX + name, None)
    return found


def defaults_of(deployment: Deployment) -> dict[str, Any]:
    """The arguments with which its runs begin, where nobody gives others."""
    return orjson.loads(deployment.parameters)


def schema_of(deployment: Deployment) -> dict[str, Any]:
    """JSON schema of the parameters of its flow, as one object, with the deployment's own defaults."""
    schema: dict[str, Any] = orjson.loads(deployment.schema)
    defaults = defaults_of(deployment)
    for name, value in defaults.items():
        if name in schema["properties"]:
            schema["properties"][name]["default"] = value
    schema["required"] = [name for name in schema.get("required", ()) if name not in defaults]
    return schema


def ask_for_run(journal: Journal, name: str, asked: Asked) -> Run:
    """Make a run of a deployment, PENDING, for whoever serves its flow.

    Raises `DeploymentNotFoundError`, `DeploymentPausedError`, `ParameterError`; then there is no run.
    """
    deployment = find_deployment(journal, name)
    run_id = asked.run_id
    if asked.idempotency_key:
        spot = orjson.dumps(["run of a deployment", name, asked.idempotency_key])
        run_id = as_id(hashlib.sha256(spot).digest()[:16])
    known = journal.get_run(run_id) if run_id else None
    if known is not None:
        return known
    new = _described(journal, deployment, asked, run_id or new_id())
    try:
        return journal.create_run(new, state=StateType.PENDING)
    except ValueError:  # somebody else has just made it
        found = journal.get_run(new.id)
        if found is None:
            raise
        return found


def _described(journal: Journal, deployment: Deployment, asked: Asked, run_id: str) -> NewRun:
    options = default_options()
    parameters = defaults_of(deployment) | dict(asked.parameters)
    check_given(deployment, parameters)
    codec = open_codec(journal, options.settings)
    try:
        given = codec.encode(Given(parameters))
    except CodecError as error:
        message = f"{deployment.name}: {error}"
        raise ParameterError(message) from None
    return NewRun(
        id=run_id,
        flow=deployment.flow,
        name=asked.name or readable_name(run_id),
        entrypoint=deployment.entrypoint,
        parameters=given,
        fingerprint="",
        origin=asked.origin,
        also=asked.also | frozenset(deployment.origins) - {Origin.PERSON},
        created=options.clock(),
        cwd=deployment.cwd,
        interpreter=deployment.interpreter,
        parent=asked.parent,
        tags=tuple(sorted(asked.tags.union(deployment.tags))),
        deployment=deployment.name,
        deployment_version=deployment.version,
    )


def check_given(deployment: Deployment, given: Mapping[str, Any]) -> None:
    """Refuse arguments that do not fit the schema, so far as JSON can tell. Raises `ParameterError`."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - whoever makes no such run does not load it

    schema: dict[str, Any] = orjson.loads(deployment.schema)
    known: Mapping[str, Any] = schema["properties"]
    faults: list[str] = []
    for name, value in given.items():
        if name not in known and schema["additionalProperties"] is False:
            wanted = ", ".join(sorted(known)) or "none"
            faults.append(f"no parameter {name!r}; there are: {wanted}")
        elif known.get(name, {}).get("readOnly") and value != known[name].get("const", value):
            faults.append(f"{name} is frozen by the deployment: {known[name]['const']!r:.200}")
        elif _is_json(value):
            own = known.get(name, schema["additionalProperties"])
            judge: Any = Draft202012Validator(
                own if isinstance(own, bool) else {**own, "$defs": schema.get("$defs", {})}
            )
            faults += [
                f"{'.'.join(map(str, (name, *fault.absolute_path)))}: {fault.message[:200]}"
                for fault in judge.iter_errors(value)
            ]
    faults += [f"it needs the parameter {name!r}" for name in schema.get("required", ()) if name not in given]
    if faults:
        message = f"{deployment.name}: " + "; ".join(faults[:5])
        raise ParameterError(message)


def _is_json(value: Any) -> bool:
    """Whether it is what JSON itself has; of anything else only the flow can say whether it fits."""
    kind = value.__class__
    if kind is list:
        return all(map(_is_json, cast("list[Any]", value)))
    if kind is dict:
        items = cast("dict[Any, Any]", value)
        return all(name.__class__ is str and _is_json(item) for name, item in items.items())
    return kind in _PLAIN


# -- from code
def run_deployment(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    flow_run_name: str | None = None,
    timeout: float | None = None,
    tags: Iterable[str] | None = None,
    idempotency_key: str | None = None,
    as_subflow: bool = True,
    **others: Any,
) -> Any:
    """Have a run of a deployment made and wait for its end; returns it, as a `FlowRun`, however it ended.

    On a thread whose event loop runs it gives a coroutine of that instead: ``await run_deployment(...)``. Inside of a
    flow it is a step: a replay finds the run that it has asked for, and what it was told of it. While it waits, the
    flow stays in memory.

    Args:
        name: ``FLOW/NAME``.
        parameters: Arguments by name, beside those of the deployment.
        flow_run_name: How people see the run.
        timeout: Seconds to wait at the most; 0 = do not wait. The run goes on, and is returned as it is then.
        tags: Labels of the run, beside those of the deployment.
        idempotency_key: If a run of the deployment was asked for with the same key, that one is returned.
        as_subflow: Inside of a flow: the run is cancelled with the flow's.
        others: Nothing; an option of Prefect's that there is not is refused with the reason.

    Raises:
        DeploymentNotFoundError: There is no such deployment.
        DeploymentPausedError: It takes no new runs.
        ParameterError: The arguments do not fit, are futures, or cannot be stored.
        MissingContextError: in a body that a task runner has sent to another process.
    """
    refuse_options("run_deployment()", others, _OPTIONS)
    if ABROAD.get() is not None:
        raise MissingContextError(refusal("run_deployment()"))
    problem = ""
    if timeout is not None and timeout < 0:
        problem = "run_deployment(): timeout must not be negative"
    elif flow_run_name is not None and (not flow_run_name.strip() or len(flow_run_name) > _NAME_LIMIT):
        problem = f"run_deployment(): flow_run_name wants 1 to {_NAME_LIMIT} characters"
    if problem:
        raise UsageError(problem)
    if is_late(parameters or {}):
        message = "run_deployment() got a future; wait for it, and pass its result"
        raise ParameterError(message)
    frame = CURRENT.get()
    asked = Asked(
        dict(parameters or {}),
        Origin.PARENT if frame is not None else shell_origin(),
        name=flow_run_name or "",
        tags=check_tags(tags or ()) | TAGS.get(),
        idempotency_key=idempotency_key or "",
        parent=frame.run.run.id if frame is not None and as_subflow else "",
    )
    journal = open_journal() if frame is None else frame.run.journal
    making = _Making(journal, name, asked, timeout)
    return making.outside() if frame is None else making.as_step(frame)


_OPTIONS = frozenset({"name", "parameters"}) | frozenset(run_deployment.__kwdefaults__ or ())


class _Making:
    """A run that is asked for and waited for, in either colour."""

    def __init__(self, journal: Journal, name: str, asked: Asked, timeout: float | None) -> None:
        self._journal, self._name, self._asked, self._timeout = journal, name, asked, timeout

    def outside(self) -> Any:
        """Outside of any flow."""
        return self._await(_nothing) if running_loop() is not None else self._block(_nothing)

    def as_step(self, frame: Frame) -> Any:
        """As a step of the flow in which `frame` stands."""
        asked = self._asked
        data, _ = canonical(
            [self._name, asked.parameters, asked.name, sorted(asked.tags), asked.idempotency_key]
        )
        key = frame.run.hasher.digest(b"run_deployment\0" + data)
        policy = StepPolicy(name=self._name, kind=StepKind.WAIT, plain=True)
        awaits = running_loop() is not None

        def body() -> Any:
            inner = cast("Frame", CURRENT.get())
            self._belong(inner)
            check = functools.partial(inner.run.check, inner)
            return self._await(check) if awaits else self._block(check)

        call = Call(frame, policy, key, body, (), {}, lambda: dict(asked.parameters), lambda _: ((), {}))
        if not awaits:
            return execute_now(call)
        coroutine = execute(call, LOOP)
        frame.run.unstarted[call] = coroutine
        return coroutine

    def _belong(self, frame: Frame) -> None:
        """The run's id is that of the step: done once more after a crash, it finds the run that it has made."""
        run, around = frame.run, cast("Frame", frame.parent)
        place = run.identify(around.stable, frame.place)
        run_id = as_id(run.hasher.digest(b"run_deployment|%b|%b" % (run.run.id.encode(), place)))
        asked = self._asked
        self._asked = Asked(
            asked.parameters,
            asked.origin,
            run.origins(),
            asked.name,
            asked.tags | frozenset(run.run.tags),
            asked.idempotency_key,
            asked.parent,
            run_id,
        )

    def _make(self) -> Arrival:
        run = ask_for_run(self._journal, self._name, self._asked)
        look = default_options().settings.poll_interval
        return Arrival(self._journal, run.id, self._timeout, look_seconds=look)

    def _block(self, check: Callable[[], None]) -> FlowRun:
        arrival = self._make()
        return flow_run_of(self._journal, arrival.block(check) or arrival.run())

    def _await(self, check: Callable[[], None]) -> Coroutine[Any, Any, FlowRun]:
        async def wait() -> FlowRun:
            arrival = await asyncio.to_thread(self._make)
            return flow_run_of(self._journal, await arrival.arrive(check) or arrival.run())

        return wait()


def _nothing() -> None:
    return


def flow_run_of(journal: Journal, run: Run) -> FlowRun:
    """A run as code that has asked for it sees it, with its state."""
    codec = open_codec(journal)
    try:
        parameters = decode_arguments(codec, run.parameters)
    except CorruptRecord:  # of a class that is not loaded here
        parameters = {}
    return FlowRun(
        id=run.id,
        name=run.name,
        flow_name=run.flow,
        parameters=parameters,
        run_count=1,
        tags=run.tags,
        parent_run_id=run.parent,
        deployment=run.deployment,
        state=_state_of(codec, run, name_of_end(journal, run)),
    )


def _state_of(codec: Codec, run: Run, name: str | None) -> State[Any]:
    data: Any = None
    try:
        if run.state is StateType.COMPLETED and run.result is not None:
            data = codec.decode(run.result)
        elif run.error is not None:
            data = decode_failure(codec, run.error)
    except CorruptRecord as error:
        data = UnreadableResult(run.id, str(error))
    return State(run.state, name or "", run.message, data)
