"""Tasks: functions whose calls are recorded, reused, retried, cached - and signed, where they have side effects."""

from __future__ import annotations

import copy
import datetime as dt
import functools
import types
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from agentflow.background import RunFuture, RunFutureList, delay, delay_each
from agentflow.callables import (
    default_name,
    is_async_generator,
    is_coroutine_function,
    is_generator,
    partial_arguments,
    receiver_count,
    split_receiver,
)
from agentflow.declaring import usable
from agentflow.engine import branches
from agentflow.engine.away import ABROAD, refusal
from agentflow.engine.caching import CachePolicy
from agentflow.engine.caching import task_input_hash as task_input_hash  # noqa: PLC0414 - Prefect has it here
from agentflow.engine.calling import RESERVED, Prepared, Request, call_now, call_outside, taken_out
from agentflow.engine.context import CURRENT, Frame, current_frame
from agentflow.engine.futures import TaskFuture, TaskFutureList
from agentflow.engine.generators import gathering, refuse_state, stream_of
from agentflow.engine.logs import record_prints
from agentflow.engine.policy import ApprovalRule, StepPolicy, TransactionHook
from agentflow.engine.policy import exponential_backoff as exponential_backoff  # noqa: PLC0414 - the same
from agentflow.engine.resolving import is_late
from agentflow.engine.runtime import LOOP
from agentflow.engine.step import Call, decoded, execute, execute_now, hit
from agentflow.engine.transaction_hooks import named_hooks
from agentflow.errors import DefinitionTypeError, MissingContextError
from agentflow.hooks import TASK_HOOKS, Hook, TaskHooks, hooks_from
from agentflow.model.states import State
from agentflow.naming import RunName
from agentflow.payloads.digests import canonical
from agentflow.signatures import Binder
from agentflow.submitting import check_may_block, map_in, states_of, submit_in
from agentflow.task_options import (
    TASK_OPTIONS,
    RetryDelay,
    build_policy,
    check_generator,
    check_parameters,
    check_policy,
    merged_options,
)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
H = TypeVar("H", bound=TransactionHook)

branches.own_coroutine(execute)


class Task(TaskHooks, Generic[P, R_co]):
    """A function as a task; made by `task`. Called inside a flow it is a step, elsewhere the plain function."""

    def __init__(
        self,
        fn: Callable[P, R_co],
        policy: StepPolicy | None = None,
        *,
        name: str | None = None,
        **options: Any,
    ) -> None:
        self._wrapper: type[Any] | None = None
        if isinstance(fn, (staticmethod, classmethod)):
            self._wrapper = staticmethod if isinstance(fn, staticmethod) else classmethod
            fn = cast("Callable[P, R_co]", cast("Any", fn).__func__)
        if not callable(fn):
            message = f"@task wants a function, not {fn!r}"
            raise DefinitionTypeError(message)
        self.fn = fn
        self.name = name or default_name(fn)
        #: The object (or class) of a bound method or callable object; the function takes it first.
        self.receiver, function = split_receiver(fn)
        #: What runs: it takes the receiver first.
        self.function: Callable[..., Any] = function
        functools.update_wrapper(self, fn, updated=())
        self.is_generator = is_generator(fn)
        self.is_async = is_coroutine_function(fn) or is_async_generator(fn)
        self._lazy = self.is_async or self.is_generator
        skip = len(self.receiver) or receiver_count(fn, self._wrapper)
        self.binder = Binder(function, name=self.name, skip=skip)
        check_parameters(self.name, self.binder)
        self.policy = policy or self._policy(**options)
        #: What `submit` and `map` run.
        self._whole_function = self.function
        if self.is_generator:
            check_generator(self.policy)
            self._whole_function = gathering(self.function, is_async=self.is_async)
        self._prefix = self.name.encode() + b"\0" + partial_arguments(fn)

    def _policy(self, **options: Any) -> StepPolicy:
        options = usable("task", self.name, (*TASK_HOOKS, *TASK_OPTIONS), options)
        hooks = hooks_from(self.name, {kind: options.pop(kind, ()) for kind in TASK_HOOKS})
        policy = build_policy(self.name, self.function, self.binder, **options)
        policy = replace(policy, owner=self, hooks=hooks, plain=policy.plain and hooks is None)
        if policy.log_prints:
            record_prints()
        return policy

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload] - a coroutine is a T, too
        self: Task[P, Coroutine[Any, Any, T]],
        /,
        *args: Any,
        return_state: Literal[True],
        wait_for: Any = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(
        self: Task[P, T], /, *args: Any, return_state: Literal[True], wait_for: Any = None, **kwargs: Any
    ) -> State[T]: ...
    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self, /, *args: Any, wait_for: Any, return_state: Literal[False] = False, **kwargs: Any
    ) -> R_co: ...
    def __call__(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run the task as a step of the running flow and return its value (a coroutine of it, for an async task).

        Args:
            args: Its arguments. Futures, states and marks (`allow_failure`, `quote`, ...) stand for values.
            kwargs: The same; and ``wait_for``: futures and states that have to complete first (else `UpstreamFailed`);
                ``return_state=True``: give the `State` in which it ends, instead of value or exception.
        """
        frame = CURRENT.get()
        whole = (*self.receiver, *args) if self.receiver else args
        if frame is None:
            if self.policy.side_effect and ABROAD.get() is not None:
                raise MissingContextError(refusal(f"{self.name}, a side effect,"))
            return self._call_outside(whole, kwargs)
        if kwargs and not RESERVED.isdisjoint(kwargs):
            return self._ask(frame, whole, kwargs)
        run = frame.run
        binder = self.binder
        data, opaque = canonical(
            whole if not kwargs and len(whole) == binder.arity else binder.values(whole, kwargs)
        )
        if opaque and is_late((whole, kwargs)):
            return self._ask(frame, whole, kwargs)
        key = run.hasher.digest(self._prefix + data)
        if self._lazy:
            return self._later(frame, self._call(frame, key, data, whole, kwargs))
        if run.records is not None and self.policy.plain:
            recorded = hit(frame, key)
            if recorded is not None:
                return decoded(run, recorded)
        return execute_now(self._call(frame, key, data, whole, kwargs))

    def _later(self, frame: Frame, call: Call) -> Any:
        """What a call gives whose body does not run yet: a coroutine, or the iterator of a generator."""
        if self.is_generator:
            return stream_of(frame, self.policy, lambda _: call, is_async=self.is_async)
        coroutine = execute(call, LOOP)
        frame.run.unstarted[call] = coroutine
        return coroutine

    def _call_outside(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if RESERVED.isdisjoint(kwargs) and not is_late((args, kwargs)):
            return self.function(*args, **kwargs)
        request = self.request(args, kwargs)
        if self.is_generator:
            refuse_state(request)
            args, kwargs = request.late.resolve()
            return self.function(*args, **kwargs)
        return call_outside(request, self.function)

    def _ask(self, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A call in a flow that asks for more than the value, or has futures, states or marks among its arguments."""
        request = self.request(args, kwargs)
        if not self.is_generator:
            return call_now(request, frame)
        refuse_state(request)
        request.make = self._stream_call
        prepared = Prepared(request, frame)
        return stream_of(
            frame,
            self.policy,
            lambda inline: prepared.ready(inline=inline),
            request.futures,
            is_async=self.is_async,
        )

    def _stream_call(self, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        call = self.call_in(frame, args, kwargs)
        call.fn = self.function
        return call

    def request(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
        """A call of this task with these arguments, the receiver among them."""
        own, wait_for, return_state = taken_out(kwargs)
        return Request(
            self.policy, args, own, self.call_in, self._bind, self.is_async, wait_for, return_state
        )

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return self.binder.arguments(args, kwargs)  # looked up late: a task that was sent elsewhere has none

    def call_in(self, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """The call of this task in a frame, its place settled."""
        data, _ = canonical(self.binder.values(args, kwargs))
        call = self._call(frame, frame.run.hasher.digest(self._prefix + data), data, args, kwargs)
        call.fn = self._whole_function
        return call

    def _call(
        self, frame: Frame, key: bytes, data: bytes, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Call:
        binder, policy, options = self.binder, self.policy, dict(kwargs) if kwargs else {}
        # nobody asks a plain step for its arguments
        named = _unasked if policy.plain else functools.partial(binder.arguments, args, options)
        call = Call(frame, policy, key, self.function, args, options, named, binder.rebind)
        if not policy.plain:
            call.flat = binder.flat
        if self.policy.aliases:
            digest = frame.run.hasher.digest
            call.aliases = tuple(digest(name.encode() + b"\0" + data) for name in self.policy.aliases)
        return call

    @overload
    def submit(
        self: Task[P, Coroutine[Any, Any, T]],
        /,
        *args: Any,
        return_state: Literal[True],
        wait_for: Any = None,
        **kwargs: Any,
    ) -> State[T]: ...
    @overload
    def submit(
        self: Task[P, T], /, *args: Any, return_state: Literal[True], wait_for: Any = None, **kwargs: Any
    ) -> State[T]: ...
    @overload
    def submit(
        self: Task[P, Iterator[T] | AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[list[T]]: ...
    @overload
    def submit(
        self: Task[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[T]: ...
    @overload
    def submit(self: Task[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]: ...
    @overload
    def submit(
        self: Task[P, Coroutine[Any, Any, T]], /, *args: Any, wait_for: Any, **kwargs: Any
    ) -> TaskFuture[T]: ...
    @overload
    def submit(self: Task[P, T], /, *args: Any, wait_for: Any, **kwargs: Any) -> TaskFuture[T]: ...
    def submit(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Start the task beside its caller: in a thread (sync) or on the loop (async). Raises outside of a flow.

        Futures and states among the arguments, also inside of other values, are waited for and replaced;
        ``wait_for`` and ``return_state=True`` mean what they mean in a call: the latter blocks until it has ended.
        """
        frame = current_frame(f"{self.name}.submit()")
        if not kwargs.pop("return_state", False):
            return submit_in(self, frame, args, kwargs)
        check_may_block(f"{self.name}.submit()")
        return states_of([submit_in(self, frame, args, kwargs)])[0]

    @overload
    def map(  # pyright: ignore[reportOverlappingOverload] - deferred=True is a keyword argument, too
        self: Task[..., Coroutine[Any, Any, T]], /, *args: Any, deferred: Literal[True], **kwargs: Any
    ) -> RunFutureList[T]: ...
    @overload
    def map(
        self: Task[..., T], /, *args: Any, deferred: Literal[True], **kwargs: Any
    ) -> RunFutureList[T]: ...
    @overload
    def map(
        self: Task[..., Coroutine[Any, Any, T]], /, *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> list[State[T]]: ...
    @overload
    def map(
        self: Task[..., T], /, *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> list[State[T]]: ...
    @overload
    def map(
        self: Task[..., Iterator[T] | AsyncIterator[T]], /, *args: Any, **kwargs: Any
    ) -> TaskFutureList[list[T]]: ...
    @overload
    def map(self: Task[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> TaskFutureList[T]: ...
    @overload
    def map(self: Task[..., T], /, *args: Any, **kwargs: Any) -> TaskFutureList[T]: ...
    def map(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit the task once per item of the iterable arguments (strings, and what `unmapped` wraps, are constants).

        ``wait_for`` and ``return_state=True`` are for every call. Raises `MappingLengthMismatch` where the lengths
        differ, `MappingMissingIterable` where nothing is iterable. ``deferred=True``: `delay` it for each item instead;
        that works outside of flows, too.
        """
        if kwargs.pop("deferred", False):
            return delay_each(self, args, kwargs)
        frame = current_frame(f"{self.name}.map()")
        if not kwargs.pop("return_state", False):
            return map_in(self, frame, args, kwargs)
        check_may_block(f"{self.name}.map()")
        return states_of(map_in(self, frame, args, kwargs))

    @overload
    def delay(
        self: Task[P, Iterator[T] | AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RunFuture[list[T]]: ...
    @overload
    def delay(
        self: Task[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RunFuture[T]: ...
    @overload
    def delay(self: Task[P, T], /, *args: P.args, **kwargs: P.kwargs) -> RunFuture[T]: ...
    def delay(self: Any, /, *args: Any, **kwargs: Any) -> RunFuture[Any]:
        """Have the task run in the background, by a process that serves it (`agentflow.serve`, ``agentflow serve``).

        Gives at once a handle to its run, which is stored durably; anywhere, also outside of flows. Raises
        `ParameterError` where the arguments do not fit or cannot be stored.
        """
        return delay(self, args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> RunFuture[Any]:
        """`delay`, with the arguments as a sequence and a mapping."""
        return delay(self, tuple(args), dict(kwargs or {}))

    def serve(self, *, limit: int | None = 10) -> Any:
        """Run here what is asked for with `delay`, at most `limit` at once: `agentflow.serve` of this task alone."""
        from agentflow.workers.background import serve  # noqa: PLC0415 - the room above, which serves any task

        return serve(self, limit=limit)

    def with_options(self, **options: Any) -> Task[P, R_co]:
        """The same task with other options (those of `task`)."""
        given = merged_options(self.options, options)
        name = given.pop("name", self.name)
        clone: Task[P, R_co] = type(self)(self.fn, name=name, **given)
        clone.receiver, clone.options, clone._wrapper = self.receiver, given, self._wrapper
        clone.binder.skip = self.binder.skip
        return clone

    def on_commit(self, hook: H) -> H:
        """Decorator: call `hook` with the transaction once the one around a step of this task has committed."""
        self._hook("on_commit", hook)
        return hook

    def on_rollback(self, hook: H) -> H:
        """Decorator: call `hook` with the transaction when the one around a step of this task is rolled back.

        It undoes what the step did: it runs at least once, so it must be idempotent.
        """
        self._hook("on_rollback", hook)
        return hook

    def _hook(self, which: str, hook: Any) -> None:
        hooks = [*getattr(self.policy, which).values(), hook]
        self.options = {**self.options, which: hooks}
        named = named_hooks(self.name, hooks, which)
        policy = replace(self.policy, **{which: named}, hooked=True, plain=False)
        check_policy(policy)
        self.policy = policy

    #: The options it was declared with.
    options: Mapping[str, Any] = types.MappingProxyType({})

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Task[P, R_co]: ...
    @overload
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Task[..., R_co]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if self._wrapper is staticmethod:
            return self
        receiver = owner if self._wrapper is classmethod else instance
        if receiver is None:
            return self
        bound = copy.copy(self)
        bound.receiver = (receiver,)
        return bound

    def __repr__(self) -> str:
        return f"<task {self.name}>"


def _unasked() -> dict[str, Any]:
    return {}


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    description: str | None = None,
    retries: int | None = None,
    retry_delay_seconds: RetryDelay = None,
    retry_jitter_factor: float | None = None,
    retry_condition_fn: Callable[..., bool | Awaitable[bool]] | None = None,
    timeout_seconds: float | None = None,
    cache_policy: CachePolicy | None = None,
    cache_key_fn: Callable[[Any, Mapping[str, Any]], str | None] | None = None,
    cache_expiration: dt.timedelta | None = None,
    refresh_cache: bool | None = None,
    side_effect: bool = False,
    idempotent: bool = False,
    not_done_on: type[BaseException] | Sequence[type[BaseException]] = (),
    approval: ApprovalRule = None,
    persist_result: bool | None = None,
    log_prints: bool | None = None,
    task_run_name: RunName = None,
    tags: Iterable[str] | None = None,
    aliases: Iterable[str] = (),
    on_completion: Hook | Sequence[Hook] | None = None,
    on_failure: Hook | Sequence[Hook] | None = None,
    on_running: Hook | Sequence[Hook] | None = None,
    on_commit: Sequence[TransactionHook] | None = None,
    on_rollback: Sequence[TransactionHook] | None = None,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(fn: Any = None, /, **options: Any) -> Any:  # noqa: D417 - the options are those of the overload
    """Turn a function into a task.

    Args:
        fn: The function, sync or async, a method included.
        name: How its steps are called; default: its qualified name.
        description: What it does, for people who sign it; default: its docstring.
        retries: How often a failed call is made again; default: ``AGENTFLOW_TASK_RETRIES``, else 0.
        retry_delay_seconds: Seconds before each retry: a number, a list (its last item repeats), or a function of the
            number of retries such as ``exponential_backoff(2)``.
        retry_jitter_factor: A delay grows by up to this share of itself, at random.
        retry_condition_fn: Called with (task, task run, state), or with the exception; no retry where it is false or
            raises.
        timeout_seconds: Limit of one attempt. A sync task's thread is abandoned, and what it still does is refused.
        cache_policy: What makes a call equal to one of an earlier run (``INPUTS + TASK_SOURCE``, ...).
        cache_key_fn: Instead: (context, arguments) -> key, None = not cached.
        cache_expiration: For how long a cached result is good; alone it means ``INPUTS + TASK_SOURCE``.
        refresh_cache: Run always, and replace the cached result.
        side_effect: It changes the world: recorded before it starts, never repeated silently, signed if a model asks.
        idempotent: (side effects) Running it twice is the same as once; use `idempotency_key`.
        not_done_on: (side effects) Exceptions that prove that it did not happen.
        approval: (side effects) None = by origin, "always", "never", or a policy of agentflow.approvals.
        persist_result: False = not recorded; it runs again on resume.
        log_prints: Record what it (and what it calls) prints as log lines; default: as the code around it says.
        task_run_name: How people see a single call: a template over the parameters (``"order {order_id}"``), or a
            function that returns the name; evaluated once, whatever the retries.
        tags: Labels, beside those of the run and of ``with tags(...)``.
        aliases: Names it had before; records under those are reused.
        on_completion: Called with (task, task run, state) after it has completed; see docs/states-and-hooks.md.
        on_failure: The same, after it has failed for good.
        on_running: The same, before each attempt.
        on_commit: Called with the transaction once the one around the step has committed.
        on_rollback: Called with the transaction, in reverse order, when the one around the step is rolled back.

    An option that is None is not set.

    Raises:
        DefinitionError: for options that contradict each other, and those that there are not.
    """
    if fn is not None:
        return Task(fn)

    def wrap(inner: Callable[..., Any]) -> Task[..., Any]:
        made = Task(inner, **options)
        made.options = options
        return made

    return wrap
