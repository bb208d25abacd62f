"""Tasks: functions whose calls are recorded, reused, retried, cached - and signed, where they have side effects."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import functools
import hashlib
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from agentflow.approvals.policies import policy_from
from agentflow.engine import branches
from agentflow.engine.caching import CachePolicy, choose_policy
from agentflow.engine.context import CURRENT, Frame, current_frame
from agentflow.engine.futures import Gate, TaskFuture, futures_in, resolved, submit_async, submit_sync
from agentflow.engine.logs import record_prints
from agentflow.engine.policy import ApprovalRule, StepPolicy, retry_delays
from agentflow.engine.runtime import LOOP
from agentflow.engine.step import Call, decoded, execute, execute_now, hit
from agentflow.errors import DefinitionError
from agentflow.payloads.digests import canonical
from agentflow.signatures import Binder

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
_MAX_DELAYS = 50
RetryDelay = float | Sequence[float] | Callable[[int], Sequence[float]] | None

branches.own_coroutine(execute)


class Task(Generic[P, R_co]):
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
            raise DefinitionError(message)
        self.fn = fn
        self.name = name or default_name(fn)
        #: The object (or class) of a bound method.
        self.receiver: tuple[Any, ...] = ()
        functools.update_wrapper(self, fn, updated=())
        self.is_async = is_coroutine_function(fn)
        self.binder = Binder(fn, name=self.name, skip=_receiver(fn, self._wrapper))
        if is_generator(fn):
            message = f"{self.name} is a generator; a task returns its value: collect the items in a list"
            raise DefinitionError(message)
        self.policy = policy or self._policy(**options)
        self._prefix = self.name.encode() + b"\0"

    def _policy(self, **options: Any) -> StepPolicy:
        policy = build_policy(self.name, self.fn, self.binder, **options)
        if policy.log_prints:
            record_prints()
        return policy

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the task as a step of the running flow and return its value (a coroutine of it, for an async task)."""
        frame = CURRENT.get()
        whole = (*self.receiver, *args) if self.receiver else args
        if frame is None:
            return cast("Any", self.fn)(*whole, **kwargs)
        run = frame.run
        binder = self.binder
        data, _ = canonical(
            whole if not kwargs and len(whole) == binder.arity else binder.values(whole, kwargs)
        )
        key = run.hasher.digest(self._prefix + data)
        if self.is_async:
            call = self._call(frame, key, data, whole, kwargs)
            made: Any = execute(call, LOOP)
            run.unstarted[call] = made
            return made
        if run.records is not None and self.policy.plain:
            recorded = hit(frame, key)
            if recorded is not None:
                found: Any = decoded(run, recorded)
                return found
        value: Any = execute_now(self._call(frame, key, data, whole, kwargs))
        return value

    def call_in(self, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """The call of this task in a frame, its place settled."""
        data, _ = canonical(self.binder.values(args, kwargs))
        return self._call(frame, frame.run.hasher.digest(self._prefix + data), data, args, kwargs)

    def _call(
        self, frame: Frame, key: bytes, data: bytes, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Call:
        binder, policy, options = self.binder, self.policy, dict(kwargs) if kwargs else {}
        # nobody asks a plain step for its arguments
        named = _unasked if policy.plain else functools.partial(binder.arguments, args, options)
        call = Call(frame, policy, key, self.fn, args, options, named, binder.rebind)
        if self.policy.side_effect:
            call.flat = binder.flat
        if self.policy.aliases:
            digest = frame.run.hasher.digest
            call.aliases = tuple(digest(name.encode() + b"\0" + data) for name in self.policy.aliases)
        return call

    @overload
    def submit(self: Task[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]: ...
    @overload
    def submit(self: Task[P, T], *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]: ...
    def submit(self: Any, *args: Any, **kwargs: Any) -> TaskFuture[Any]:
        """Start the task beside its caller: in a thread (sync) or on the loop (async). Raises outside of a flow.

        Futures among the arguments, also inside lists, tuples and dicts, are waited for and replaced by their values.
        """
        frame = current_frame(f"{self.name}.submit()")
        return submit_in(self, frame, args, kwargs)

    @overload
    def map(self: Task[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> list[TaskFuture[T]]: ...
    @overload
    def map(self: Task[..., T], *args: Any, **kwargs: Any) -> list[TaskFuture[T]]: ...
    def map(self: Any, *args: Any, **kwargs: Any) -> list[TaskFuture[Any]]:
        """Submit the task once per item of the iterable arguments (strings, and what `unmapped` wraps, are constants).

        Raises ValueError where the lengths differ or nothing is iterable.
        """
        frame = current_frame(f"{self.name}.map()")
        names = list(kwargs)
        columns = [_column(value) for value in (*args, *kwargs.values())]
        lengths = {len(column) for column in columns if column is not None}
        if len(lengths) != 1:
            what = (
                "no iterable argument" if not lengths else f"iterables of different lengths {sorted(lengths)}"
            )
            message = f"{self.name}.map() got {what}; wrap constants in unmapped(...)"
            raise ValueError(message)
        constants = [_whole(value) for value in (*args, *kwargs.values())]
        futures: list[TaskFuture[Any]] = []
        gate = Gate(frame.run.options.settings.map_concurrency)
        for index in range(lengths.pop()):
            row = [
                constant if column is None else column[index]
                for column, constant in zip(columns, constants, strict=True)
            ]
            split = len(row) - len(names)
            futures.append(
                submit_in(self, frame, row[:split], dict(zip(names, row[split:], strict=True)), gate)
            )
        return futures

    def with_options(self, **options: Any) -> Task[P, R_co]:
        """The same task with other options (those of `task`)."""
        given = {**self.options, **options}
        name = given.pop("name", self.name)
        clone: Task[P, R_co] = type(self)(self.fn, name=name, **given)
        clone.receiver, clone.options, clone._wrapper = self.receiver, given, self._wrapper
        clone.binder.skip = self.binder.skip
        return clone

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


class unmapped(Generic[T]):  # noqa: N801 - Prefect's name
    """Marks an argument of ``map`` that every call gets whole."""

    def __init__(self, value: T) -> None:
        self.value = value


def _whole(value: Any) -> Any:
    return cast("unmapped[Any]", value).value if isinstance(value, unmapped) else value


def _column(value: Any) -> list[Any] | None:
    """The items of a mapped argument; None for a constant."""
    if isinstance(value, TaskFuture):
        value = cast("TaskFuture[Any]", value).result()
    if isinstance(value, (unmapped, str, bytes)) or not isinstance(value, Iterable):
        return None
    return list(cast("Iterable[Any]", value))


def _unasked() -> dict[str, Any]:
    return {}


def submit_in(
    task: Any, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any], gate: Gate | None = None
) -> TaskFuture[Any]:
    """Submit a task in a frame. With futures among the arguments, the call is made once they have ended."""
    whole = (*task.receiver, *args)
    awaited = futures_in((whole, kwargs))
    if not awaited:
        call = task.call_in(frame, whole, kwargs)

        def prepare() -> Call:
            return call
    else:
        frame.run.check(frame)
        late = frame.branched(_late_branch(frame, task.name))

        def prepare() -> Call:
            values, named = resolved(whole), resolved(dict(kwargs))
            CURRENT.set(late)
            return task.call_in(late, values, named)

    if task.is_async:
        future = submit_async(task.name, frame.run, prepare, awaited, gate)
    else:
        future = submit_sync(task.name, frame.run, prepare, awaited)
    frame.bear(future)
    return future


def _late_branch(frame: Frame, name: str) -> bytes:
    """The branch of a call whose arguments are not known yet: named by where and in which order it was submitted."""
    base = frame.run.hasher.digest(b"late|" + name.encode())
    count = frame.kids.get(base, 0)
    frame.kids[base] = count + 1
    return frame.run.hasher.digest(b"%b|%b|%d" % (frame.branch, base, count))


def default_name(fn: Callable[..., Any]) -> str:
    """How a function's steps are called: its qualified name, without the functions it is defined in."""
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    return name.rpartition("<locals>.")[2].replace("<lambda>", "unknown-lambda")


def unpartialled(fn: Any) -> Any:
    """The function inside partials."""
    return unpartialled(fn.func) if hasattr(fn, "func") and hasattr(fn, "keywords") else fn


def is_coroutine_function(fn: Any) -> bool:
    """Whether calling it gives a coroutine; sees through partials and callable objects."""
    inner = unpartialled(fn)
    called: Any = getattr(inner.__class__, "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(called)


def is_generator(fn: Any) -> bool:
    """Whether calling it gives a generator."""
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)


def _receiver(fn: Callable[..., Any], wrapper: type[Any] | None) -> int:
    """How many leading parameters are the receiver of a method."""
    if wrapper is staticmethod or not inspect.isfunction(fn):
        return 0
    if wrapper is classmethod:
        return 1
    first = next(iter(inspect.signature(fn).parameters), "")
    owner = fn.__qualname__.rpartition(".")[0]
    return 1 if first in ("self", "cls") and owner and not owner.endswith("<locals>") else 0


def build_policy(
    name: str,
    fn: Callable[..., Any],
    binder: Binder,
    *,
    retries: int = 0,
    retry_delay_seconds: RetryDelay = None,
    retry_jitter_factor: float = 0.0,
    retry_condition_fn: Callable[[BaseException], bool | Awaitable[bool]] | None = None,
    timeout_seconds: float | None = None,
    cache_policy: CachePolicy | None = None,
    cache_key_fn: Callable[[Any, Mapping[str, Any]], str | None] | None = None,
    cache_expiration: dt.timedelta | None = None,
    refresh_cache: bool = False,
    side_effect: bool = False,
    idempotent: bool = False,
    not_done_on: type[BaseException] | Sequence[type[BaseException]] = (),
    approval: ApprovalRule = None,
    persist_result: bool = True,
    log_prints: bool = False,
    tags: Iterable[str] = (),
    aliases: Iterable[str] = (),
) -> StepPolicy:
    """The policy of a task. Raises `DefinitionError` for options that contradict each other."""
    result = StepPolicy(
        name=name,
        retries=retries,
        retry_delays=retry_delays(retry_delay_seconds, retries),
        retry_jitter_factor=retry_jitter_factor,
        retry_condition=retry_condition_fn,
        timeout_seconds=timeout_seconds,
        cache_policy=choose_policy(cache_policy, cache_key_fn, expires=cache_expiration is not None),
        cache_expiration=cache_expiration,
        refresh_cache=refresh_cache,
        side_effect=side_effect,
        idempotent=idempotent,
        not_done_on=(not_done_on,) if isinstance(not_done_on, type) else tuple(not_done_on),
        approval=approval,
        persist_result=persist_result,
        log_prints=log_prints,
        tags=frozenset(tags),
        aliases=tuple(aliases),
        validate=binder.validate_named,
        schema=lambda: binder.schema,
        description=inspect.getdoc(fn) or "",
        source=functools.cache(lambda: source_digest(fn)),
        identity=identity_of(fn),
        read_answer=binder.read_result,
    )
    check_policy(result)
    return replace(result, plain=result.is_plain())


def check_policy(policy: StepPolicy) -> None:
    """Raise `DefinitionError` for options that contradict each other."""
    name, effect, cached = policy.name, policy.side_effect, policy.cache_policy is not None
    check_options(
        name,
        policy.retries,
        policy.retry_delays,
        policy.timeout_seconds,
        side_effect=effect,
        persist=policy.persist_result,
    )
    policy_from(policy.approval)
    problem = ""
    if effect and policy.retries and not policy.idempotent and not policy.not_done_on:
        problem = (
            "a side effect with retries needs idempotent=True, or not_done_on=(...) with the exceptions that prove it "
            "did not happen; anything else could run it twice"
        )
    elif effect and (cached or policy.refresh_cache):
        problem = "a side effect cannot be cached; take the cache options away"
    elif not effect and (policy.idempotent or policy.not_done_on or policy.approval is not None):
        problem = "idempotent, not_done_on and approval are options of side effects; say side_effect=True"
    elif not policy.persist_result and cached:
        problem = "persist_result=False records nothing, so nothing can be cached"
    if problem:
        message = f"{name}: {problem}"
        raise DefinitionError(message)


def check_options(
    name: str,
    retries: int,
    delays: tuple[float, ...],
    timeout: float | None,
    *,
    side_effect: bool = False,
    persist: bool = True,
) -> None:
    """Raise `DefinitionError` for numbers that make no sense."""
    if retries < 0 or any(delay < 0 for delay in delays) or (timeout is not None and timeout <= 0):
        message = f"{name}: retries and delays must not be negative, timeout_seconds must be positive"
        raise DefinitionError(message)
    if len(delays) > _MAX_DELAYS:
        message = f"{name}: at most {_MAX_DELAYS} retry delays; the last one repeats"
        raise DefinitionError(message)
    if side_effect and not persist:
        message = f"{name}: a side effect is always recorded; take persist_result=False away"
        raise DefinitionError(message)


def identity_of(fn: Callable[..., Any]) -> str:
    """A function's identity across runs: its module, resolved to a file's stem for scripts, and qualified name."""
    module = getattr(fn, "__module__", "") or ""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    if code is not None:
        module = (
            module.rpartition(".")[0] + Path(code.co_filename).stem
            if module != "__main__"
            else Path(code.co_filename).stem
        )
    return f"{module}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def source_digest(fn: Callable[..., Any]) -> bytes:
    """A digest of the function's source; of its bytecode where there is no source."""
    with contextlib.suppress(OSError, TypeError):
        return hashlib.blake2b(inspect.getsource(fn).encode(), digest_size=16).digest()
    code = getattr(fn, "__code__", None)
    return hashlib.blake2b(code.co_code if code is not None else b"", digest_size=16).digest()


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    retries: int = 0,
    retry_delay_seconds: RetryDelay = None,
    retry_jitter_factor: float = 0.0,
    retry_condition_fn: Callable[[BaseException], bool | Awaitable[bool]] | None = None,
    timeout_seconds: float | None = None,
    cache_policy: CachePolicy | None = None,
    cache_key_fn: Callable[[Any, Mapping[str, Any]], str | None] | None = None,
    cache_expiration: dt.timedelta | None = None,
    refresh_cache: bool = False,
    side_effect: bool = False,
    idempotent: bool = False,
    not_done_on: type[BaseException] | Sequence[type[BaseException]] = (),
    approval: ApprovalRule = None,
    persist_result: bool = True,
    log_prints: bool = False,
    tags: Iterable[str] = (),
    aliases: Iterable[str] = (),
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(fn: Any = None, /, **options: Any) -> Any:  # noqa: D417 - the options are those of the overload
    """Turn a function into a task.

    Args:
        fn: The function, sync or async, a method included.
        name: How its steps are called; default: its qualified name.
        retries: How often a failed call is made again.
        retry_delay_seconds: Seconds before each retry: a number, a list (its last item repeats), or a function of the
            number of retries such as ``exponential_backoff(2)``.
        retry_jitter_factor: A delay grows by up to this share of itself, at random.
        retry_condition_fn: Called with the exception; no retry where it returns False or raises.
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
        log_prints: Record what it prints as log lines.
        tags: Labels.
        aliases: Names it had before; records under those are reused.

    Raises:
        DefinitionError: for options that contradict each other.
    """
    if fn is not None:
        return Task(fn)

    def wrap(inner: Callable[..., Any]) -> Task[..., Any]:
        made = Task(inner, **options)
        made.options = options
        return made

    return wrap
