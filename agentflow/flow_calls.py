"""Calls of flows from outside of any flow that ask for more than the value, or whose arguments do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agentflow.engine.calling import Prepared, Request
from agentflow.engine.context import Frame, current_frame
from agentflow.engine.endings import not_ready
from agentflow.engine.flow_run import Body, Outcome
from agentflow.engine.flow_streams import flow_stream
from agentflow.engine.generators import refuse_state, stream_of
from agentflow.engine.places import TaskRunner
from agentflow.engine.policy import StepPolicy
from agentflow.engine.runtime import INLINE, LOOP, Runtime, drive
from agentflow.engine.termination import live, live_on_loop
from agentflow.errors import DefinitionTypeError, ParameterError


def ask(flow: Any, request: Request) -> Any:
    """The value or the state of a run of `flow`; for an async one a coroutine of it."""
    flow.binder.arguments(request.args, request.kwargs)
    coroutine = _asked(flow, request, LOOP if request.is_async else INLINE)
    return coroutine if request.is_async else drive(coroutine)


async def _asked(flow: Any, request: Request, rt: Runtime) -> Any:
    try:
        request.upstream.check(flow.name)
        args, kwargs = request.late.resolve()
    except Exception as error:
        if not request.return_state:
            raise
        return not_ready(error)
    try:
        arguments = flow.arguments(args, kwargs)
    except ParameterError as error:
        if not request.return_state:
            raise
        arguments = Refused(error, flow.binder.flat(flow.binder.arguments(args, kwargs)))
    active, body = flow.begin(arguments), flow.body(arguments)
    outcome = await live_on_loop(active, body) if rt.awaits else live(active, body)
    return outcome.as_state() if request.return_state else value_of(outcome)


def items_of(flow: Any, request: Request, frame: Frame | None) -> Any:
    """What a generator flow yields: lazily, as a step of the running flow or as a run of its own."""
    refuse_state(request)
    if frame is not None:
        if request.is_plain:
            flow.arguments(request.args, request.kwargs)  # what does not fit is refused now
        prepared = Prepared(request, frame)
        return stream_of(
            frame,
            request.policy,
            lambda inline: prepared.ready(inline=inline),
            request.futures,
            is_async=request.is_async,
        )
    request.upstream.check(flow.name)
    arguments = flow.arguments(*request.late.resolve())
    args, kwargs = flow.binder.rebind(arguments)
    body = Body(flow.policy, flow.fn, args, kwargs, request.is_async)
    return flow_stream(lambda: flow.begin(arguments), body)


def refusal_policy(policy: StepPolicy) -> StepPolicy:
    """The options of a call that fails before its body begins: it is never running, and no template fits it."""
    hooks = None if policy.hooks is None else replace(policy.hooks, on_running=())
    return replace(policy, retries=0, timeout_seconds=None, hooks=hooks, run_name=None)


class Refused(dict[str, Any]):
    """Stands for arguments that do not fit (`given`, by name): the body of the run fails with `error`."""

    def __init__(self, error: ParameterError, given: Mapping[str, Any] | None = None) -> None:
        super().__init__(given or {})
        self.error = error


def read_given(flow: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that somebody gave by name, without the flow's code, as the flow reads them; `Refused` ones."""
    try:
        return flow.binder.validate_named(given) if flow.validate_parameters else flow.binder.spread(given)
    except ParameterError as error:
        return Refused(error)


def refusing(error: ParameterError, *, is_async: bool) -> Callable[..., Any]:
    """The body of a flow that was called with arguments of wrong types."""

    def refuse() -> None:
        raise error

    async def refuse_async() -> None:
        raise error

    return refuse_async if is_async else refuse


def value_of(outcome: Outcome) -> Any:
    """The value of a run that has ended, or its exception raised."""
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def with_parameters(fn: Callable[..., Any], parameters: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call a flow that is a step; its frame knows its parameters, which cache policies may ask for."""
    current_frame("a flow").root.parameters = parameters
    return fn(*args, **kwargs)


def runner_from(name: str, given: TaskRunner | type[TaskRunner] | None) -> TaskRunner | None:
    """The task runner that an option names. Raises `DefinitionTypeError` for what is none."""
    runner = given() if isinstance(given, type) else given
    if runner is not None and not callable(getattr(runner, "open", None)):
        message = f"{name}: task_runner wants a task runner of agentflow.task_runners, not {given!r}"
        raise DefinitionTypeError(message)
    return runner
