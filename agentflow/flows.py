"""Flows: functions whose calls are runs - durable, resumable, validated. Inside another flow, a flow is a step."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from agentflow.beginning import begin, check_complete, default_options, describe_run
from agentflow.callables import (
    default_name,
    entrypoint_of,
    is_async_generator,
    is_coroutine_function,
    is_generator,
)
from agentflow.claiming import claimed
from agentflow.declaring import usable
from agentflow.deploying import Deployable
from agentflow.engine.active import ActiveRun, Options
from agentflow.engine.away import ABROAD, refusal
from agentflow.engine.calling import Request, call_now, taken_out
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.flow_run import Body, Outcome
from agentflow.engine.generators import gathering
from agentflow.engine.limits import limit_config, limits_of_run
from agentflow.engine.logs import record_prints
from agentflow.engine.places import TaskRunner
from agentflow.engine.policy import StepPolicy
from agentflow.engine.runtime import LOOP
from agentflow.engine.step import Call, execute, execute_now
from agentflow.engine.tags import check_tags
from agentflow.engine.termination import live, live_on_loop
from agentflow.errors import (
    DefinitionTypeError,
    MissingContextError,
    ParameterError,
)
from agentflow.flow_calls import (
    Refused,
    ask,
    items_of,
    refusal_policy,
    refusing,
    runner_from,
    value_of,
    with_parameters,
)
from agentflow.hooks import FLOW_HOOKS, FlowHooks, Hook, hooks_from
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.limits import ConcurrencyLimitConfig, RunLimits
from agentflow.model.runs import NewRun, Origin
from agentflow.model.states import State
from agentflow.model.steps import StepKind
from agentflow.naming import RunName, name_maker
from agentflow.payloads.digests import canonical
from agentflow.payloads.opening import open_codec
from agentflow.rerunning import Reruns
from agentflow.signatures import Binder, adapter_schema
from agentflow.task_options import RetryDelay, check_options, check_parameters, retries_of

__all__ = ["Flow", "default_options", "flow"]

P = ParamSpec("P")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Flow(Reruns, Deployable, FlowHooks, Generic[P, R_co]):
    """A function as a flow; made by `flow`."""

    def __init__(
        self,
        fn: Callable[P, R_co],
        *,
        name: str | None = None,
        version: str = "",
        description: str | None = None,
        retries: int | None = None,
        retry_delay_seconds: RetryDelay = None,
        timeout_seconds: float | None = None,
        task_runner: TaskRunner | type[TaskRunner] | None = None,
        validate_parameters: bool = True,
        log_prints: bool | None = None,
        flow_run_name: RunName = None,
        tags: Iterable[str] = (),
        concurrency_limit: int | ConcurrencyLimitConfig | None = None,
        **hooks: Hook | Sequence[Hook],
    ) -> None:
        self._wrapper: type[Any] | None = None
        if isinstance(fn, (staticmethod, classmethod)):
            self._wrapper = staticmethod if isinstance(fn, staticmethod) else classmethod
            fn = cast("Callable[P, R_co]", cast("Any", fn).__func__)
        if not callable(fn):
            message = f"@flow wants a function, not {fn!r}"
            raise DefinitionTypeError(message)
        retries, delays = retries_of("flow", retries, retry_delay_seconds)
        check_options(name or default_name(fn), retries, delays, timeout_seconds)
        self.fn = fn
        #: The function as it was given; `fn` has the receiver of a bound method already.
        self._function: Callable[..., Any] = fn
        #: The object (or class) of a bound method, by the name of the parameter that takes it.
        self._receiver: dict[str, Any] = {}
        self.name = name or default_name(fn)
        self.version = version
        self.description = description if description is not None else (inspect.getdoc(fn) or "")
        self.validate_parameters = validate_parameters
        self.tags = check_tags(tags)
        self.concurrency_limit = limit_config(self.name, concurrency_limit)
        functools.update_wrapper(self, fn, updated=())
        self.is_generator = is_generator(fn)
        self.is_async = is_coroutine_function(fn) or is_async_generator(fn)
        self.binder = Binder(fn, name=self.name)
        check_parameters(self.name, self.binder)
        self.policy = StepPolicy(
            name=self.name,
            kind=StepKind.FLOW,
            retries=retries,
            retry_delays=delays,
            timeout_seconds=timeout_seconds,
            log_prints=log_prints,
            tags=self.tags,
            description=self.description,
            run_name=name_maker("flow_run_name", flow_run_name, self.name, self.binder.parameters),
            runner=runner_from(self.name, task_runner),
        )
        self._set_policy(replace(self.policy, owner=self, hooks=hooks_from(self.name, hooks)))
        #: ``path/to/file.py:name``, by which another process finds the flow; "" where it cannot.
        self.entrypoint = entrypoint_of(fn)

    def _set_policy(self, policy: StepPolicy) -> None:
        if policy.log_prints:
            record_prints()
        self.policy = policy
        self._step_policy = replace(policy, plain=policy.is_plain())

    # -- what it is
    @property
    def parameters_schema(self) -> dict[str, Any]:
        """JSON schema (2020-12) of the parameters."""
        return self.binder.schema

    @property
    def result_schema(self) -> dict[str, Any]:
        """JSON schema of the result; ``{}`` where the function says nothing usable of it."""
        adapter = self.binder.returns
        return {} if adapter is None else adapter_schema(adapter, "serialization")

    def __repr__(self) -> str:
        return f"<flow {self.name}>"

    # -- calling it
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload] - a coroutine is a T, too
        self: Flow[P, Coroutine[Any, Any, T]],
        /,
        *args: Any,
        return_state: Literal[True],
        wait_for: Any = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(
        self: Flow[P, T], /, *args: Any, return_state: Literal[True], wait_for: Any = None, **kwargs: Any
    ) -> State[T]: ...
    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self, /, *args: Any, wait_for: Any, return_state: Literal[False] = False, **kwargs: Any
    ) -> R_co: ...
    def __call__(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run the flow and return its value, or raise its exception (for an async flow: a coroutine of it).

        Raises `ParameterError` before any run exists where the arguments do not fit.

        Args:
            args: Its arguments. Futures, states and marks (`allow_failure`, `quote`, ...) stand for values.
            kwargs: The same; and ``wait_for``: futures and states that have to complete first (else `UpstreamFailed`);
                ``return_state=True``: give the `State` in which it ends, instead of value or exception. Then arguments
                of wrong types make a run that fails; too few or too many raise all the same.
        """
        frame = CURRENT.get()
        if frame is None and ABROAD.get() is not None:
            raise MissingContextError(refusal(f"{self.name}, a flow,"))
        request = self._request(args, kwargs)
        if self.is_generator:
            return items_of(self, request, frame)
        if frame is not None:
            return self._as_step(frame, request) if request.is_plain else call_now(request, frame)
        if not request.is_plain:
            return ask(self, request)
        arguments = self.arguments(request.args, request.kwargs)
        return self._call_async(arguments) if self.is_async else value_of(self.run(arguments))

    def _request(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
        own, wait_for, return_state = taken_out(kwargs)
        make = self._call_or_refusal if return_state else self._call_in
        return Request(
            self._step_policy, args, own, make, self.binder.arguments, self.is_async, wait_for, return_state
        )

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Bound arguments by name, validated. Raises `ParameterError`."""
        arguments = self.binder.arguments(args, kwargs)
        return self.binder.validate(arguments) if self.validate_parameters else arguments

    async def _call_async(self, arguments: Mapping[str, Any]) -> Any:
        return value_of(await self.run_async(arguments))

    def known(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, a method's receiver among them."""
        return {**self._receiver, **arguments}

    def _as_step(self, frame: Frame, request: Request) -> Any:
        call = self._call_in(frame, request.args, request.kwargs)
        if self.is_async:
            coroutine = execute(call, LOOP)
            frame.run.unstarted[call] = coroutine
            return coroutine
        return execute_now(call)

    def _call_in(self, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        arguments = self.arguments(args, kwargs)
        rebound, named = self.binder.rebind(arguments)
        fn = functools.partial(with_parameters, self.fn, arguments)
        return self._call(frame, arguments, self._step_policy, fn, rebound, named)

    def _call_or_refusal(self, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """The call; with arguments of wrong types, one that fails at once: whoever wants a state is given one."""
        try:
            return self._call_in(frame, args, kwargs)
        except ParameterError as error:
            arguments = self.binder.arguments(args, kwargs)
            refuse = refusing(error, is_async=self.is_async)
            call = self._call(frame, arguments, refusal_policy(self._step_policy), refuse, (), {})
            call.refused = True
            return call

    def _call(
        self,
        frame: Frame,
        arguments: dict[str, Any],
        policy: StepPolicy,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Call:
        data, _ = canonical([*self._receiver.values(), *arguments.values()])
        key = frame.run.hasher.digest(self.name.encode() + b"\0flow\0" + data)
        return Call(frame, policy, key, fn, args, kwargs, lambda: self.known(arguments), self.binder.rebind)

    def run(
        self,
        arguments: Mapping[str, Any],
        *,
        journal: Journal | None = None,
        options: Options | None = None,
        origin: Origin = Origin.PERSON,
    ) -> Outcome:
        """Run with bound, validated arguments in this thread (an async flow on a loop of its own).

        Does not raise for a failure of the flow: see `Outcome`.
        """
        active = self.begin(arguments, journal, options, origin)
        return live(active, self._body(arguments))

    async def run_async(
        self,
        arguments: Mapping[str, Any],
        *,
        journal: Journal | None = None,
        options: Options | None = None,
        origin: Origin = Origin.PERSON,
    ) -> Outcome:
        """Like `run`, for an async flow on the running loop."""
        active = self.begin(arguments, journal, options, origin)
        return await live_on_loop(active, self._body(arguments))

    def begin(
        self,
        arguments: Mapping[str, Any],
        journal: Journal | None = None,
        options: Options | None = None,
        origin: Origin = Origin.PERSON,
    ) -> ActiveRun:
        """A new run with these arguments, of this process."""
        return begin(self, arguments, journal, options, origin)

    def limits(self, journal: Journal, deployment: str = "") -> RunLimits:
        """What limits a run of this flow (as a deployment)."""
        return limits_of_run(journal, self.name, self.concurrency_limit, deployment)

    def _body(self, arguments: Mapping[str, Any]) -> Body:
        if isinstance(arguments, Refused):
            refuse = refusing(arguments.error, is_async=self.is_async)
            return Body(refusal_policy(self.policy), refuse, (), {}, self.is_async)
        args, kwargs = self.binder.rebind(arguments)
        fn = gathering(self.fn, is_async=self.is_async) if self.is_generator else self.fn
        return Body(self.policy, fn, args, kwargs, self.is_async)

    def new_run(
        self,
        arguments: Mapping[str, Any],
        journal: Journal,
        options: Options,
        origin: Origin,
        *,
        run_id: str = "",
        also: frozenset[Origin] = frozenset(),
    ) -> NewRun:
        """The run that a call with these arguments makes, for whatever process takes it up.

        `run_id`: instead of a new one; `also`: who else has asked for it. Raises `ParameterError` for arguments that
        cannot be stored.
        """
        codec = open_codec(journal, options.settings)
        new = describe_run(self, arguments, journal, options, origin, run_id=run_id, also=also, codec=codec)
        return check_complete(new, codec)

    # -- resuming it
    def resume(
        self,
        run_id: str,
        *,
        journal: Journal | None = None,
        options: Options | None = None,
        take_over: bool = False,
    ) -> Outcome:
        """Continue a run of this flow in this thread: what is recorded is reused, the rest runs.

        Raises `RunNotFoundError`, `RunFinishedError`, `RunOwnedError`, `NotResumableError`.
        """
        active, arguments = self.claim(run_id, journal=journal, options=options, take_over=take_over)
        return live(active, self._body(arguments))

    async def resume_async(
        self,
        run_id: str,
        *,
        journal: Journal | None = None,
        options: Options | None = None,
        take_over: bool = False,
    ) -> Outcome:
        """Like `resume`, for an async flow on the running loop."""
        active, arguments = self.claim(run_id, journal=journal, options=options, take_over=take_over)
        return await live_on_loop(active, self._body(arguments))

    def claim(
        self,
        run_id: str,
        *,
        journal: Journal | None = None,
        options: Options | None = None,
        take_over: bool = False,
        origin: Origin | None = None,
    ) -> tuple[ActiveRun, dict[str, Any]]:
        """Own a run of this flow, with its records loaded; returns it and its arguments.

        `origin`: who asks for this life of it.
        """
        options = options or default_options()
        journal = journal or open_journal(options.settings)
        limits = self.limits(journal, self.own_run(run_id, journal).deployment)
        return claimed(self, journal, run_id, options, take_over=take_over, origin=origin, limits=limits)

    def body(self, arguments: Mapping[str, Any]) -> Body:
        """What a life of a run with these arguments executes."""
        return self._body(arguments)

    def with_options(self, **options: Any) -> Flow[P, R_co]:
        """The same flow with other options (those of `flow`)."""
        given: dict[str, Any] = {"name": self.name}
        given |= usable("flow", self.name, _OPTIONS, {**self.options, **options})
        made: Flow[P, R_co] = type(self)(self._function, **given)
        made.options, made._wrapper = given, self._wrapper
        return made._bound(*self._receiver.values()) if self._receiver else made

    #: The options it was declared with.
    options: Mapping[str, Any] = {}

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Flow[P, R_co]: ...
    @overload
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Flow[..., R_co]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        receiver = owner if self._wrapper is classmethod else instance
        if receiver is None or self._wrapper is staticmethod:
            return self
        return self._bound(receiver)

    def _bound(self, receiver: Any) -> Any:
        """The flow with the object (or class) that its function takes first."""
        bound = copy.copy(self)
        bound.fn = functools.partial(self._function, receiver)
        bound.binder = Binder(bound.fn, name=self.name)
        bound._receiver = {self._first: receiver}  # noqa: SLF001 - a copy of this one
        bound.entrypoint = ""  # another process could not find the object
        return bound

    @property
    def _first(self) -> str:
        return next(iter(inspect.signature(self._function).parameters), "self")


_OPTIONS = frozenset(cast("Any", Flow).__init__.__kwdefaults__) | set(FLOW_HOOKS)


@overload
def flow(fn: Callable[P, R_co], /) -> Flow[P, R_co]: ...
@overload
def flow(
    *,
    name: str | None = None,
    version: str | None = None,
    description: str | None = None,
    retries: int | None = None,
    retry_delay_seconds: RetryDelay = None,
    timeout_seconds: float | None = None,
    task_runner: TaskRunner | type[TaskRunner] | None = None,
    validate_parameters: bool = True,
    persist_result: Literal[True] | None = None,
    log_prints: bool | None = None,
    flow_run_name: RunName = None,
    tags: Iterable[str] | None = None,
    concurrency_limit: int | ConcurrencyLimitConfig | None = None,
    on_completion: Hook | Sequence[Hook] | None = None,
    on_failure: Hook | Sequence[Hook] | None = None,
    on_cancellation: Hook | Sequence[Hook] | None = None,
    on_crashed: Hook | Sequence[Hook] | None = None,
    on_running: Hook | Sequence[Hook] | None = None,
) -> Callable[[Callable[P, R_co]], Flow[P, R_co]]: ...
def flow(fn: Any = None, /, **options: Any) -> Any:  # noqa: D417 - the options are those of the overload
    """Turn a function into a flow.

    Args:
        fn: The function, sync or async.
        name: How its runs are called; default: its qualified name.
        version: A label of yours.
        description: What it does, for people and models; default: its docstring.
        retries: How often a failed run's body is run again; what is recorded before the culprits is reused. Default:
            ``AGENTFLOW_FLOW_RETRIES``, else 0.
        retry_delay_seconds: Seconds before each retry: a number, a list, or a function of the number of retries.
        timeout_seconds: Limit of one attempt.
        task_runner: Where the bodies of the tasks run that it submits: a runner of agentflow.task_runners. Default:
            threads. A flow that it calls has its own.
        validate_parameters: Coerce and check arguments with pydantic, by their annotations.
        persist_result: Prefect's name for what is always so: the result is recorded.
        log_prints: Record what it (and what it calls) prints as log lines; default: as the code around it says.
        flow_run_name: How people see a run: a template over the parameters (``"report of {day}"``), or a function that
            returns the name; default: an adjective and an animal.
        tags: Labels of its runs, beside those of ``with tags(...)``.
        concurrency_limit: How many of its runs are executed at once, over all processes of the journal; the next ones
            wait, or (`ConcurrencyLimitConfig`) are cancelled. ``agentflow limits set flow:NAME N`` overrides it.

    An option that is None is not set.

    Raises:
        DefinitionError: for options that contradict each other, and those that there are not.
    """
    if fn is not None:
        return Flow(fn)

    def wrap(inner: Callable[..., Any]) -> Flow[..., Any]:
        name = options.get("name") or default_name(inner)
        made = Flow(inner, **usable("flow", name, _OPTIONS, options))
        made.options = options
        return made

    return wrap
