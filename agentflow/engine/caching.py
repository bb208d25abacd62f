"""Cache policies: what makes two calls of a task the same.

A policy names the parts of a call that count; together with the task's identity (its file and qualified name), which
always counts, they are the key that finds an earlier result. What uses the keys is in `agentflow.engine.cached_calls`.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import CellType, FunctionType, MethodType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, cast

from agentflow.errors import ConfigurationError, DefinitionError, DefinitionTypeError
from agentflow.model.isolation import IsolationLevel
from agentflow.payloads.digests import canonical

CacheKeyFunction = Callable[[Any, Mapping[str, Any]], str | None]
Level = IsolationLevel | Literal["READ_COMMITTED", "SERIALIZABLE"] | None


class NoKey(Exception):
    """The call cannot be cached; the text says why."""


class NoPart(NoKey):
    """A policy has nothing to say of this call; another one added to it may have."""


class KeyPart(NamedTuple):
    """One thing that a key is made of: its kind, its name among those of its kind, its canonical bytes."""

    kind: Literal["argument", "closure", "source", "run", "parameter", "key"]
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class KeyedTask:
    """The task of a call whose key is wanted. `task_key` is its identity across runs, `source` a digest of its code."""

    name: str
    fn: Callable[..., Any]
    task_key: str
    source: bytes


@dataclass(frozen=True, slots=True)
class KeyedRun:
    """The call itself: the step's name and the run that it belongs to."""

    name: str
    flow_run_id: str
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class TaskRunContext:
    """What a key function, or a policy of one's own, is told of a call (Prefect's names)."""

    task: KeyedTask
    task_run: KeyedRun
    parameters: Mapping[str, Any]


class KeyedCall(Protocol):
    """A call as policies see it; what costs something is made when it is asked for."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The bound arguments by name, defaults included."""
        ...

    @property
    def closure(self) -> Mapping[str, Any]:
        """What the task's function takes from the functions around it, by name."""
        ...

    @property
    def flow_parameters(self) -> Mapping[str, Any]:
        """The arguments of the flow that makes the call."""
        ...

    @property
    def context(self) -> TaskRunContext | None:
        """The task and its run."""
        ...


class CachePolicy:
    """What makes two calls of a task the same.

    Policies add up with ``+``, ``- "name"`` leaves an argument out, `configure` sets the isolation; each of these
    returns a new policy. For a policy of your own define `compute_key` in a subclass.
    """

    #: Whether equal calls may run at the same time; None = READ_COMMITTED.
    isolation_level: Level = None

    @classmethod
    def from_cache_key_fn(cls, cache_key_fn: CacheKeyFunction) -> CacheKeyFnPolicy:
        """The policy of a key function: (context, arguments) -> key, None = not cached."""
        return CacheKeyFnPolicy(cache_key_fn)

    def compute_key(
        self,
        task_ctx: Any,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """The key of a call; None = this policy has nothing to say of it.

        `task_ctx` is a `TaskRunContext`, `inputs` the bound arguments by name.
        """
        raise NotImplementedError

    def configure(
        self, *, isolation_level: Level = None, key_storage: Any = None, lock_manager: Any = None
    ) -> Self:
        """The same policy with another isolation: under SERIALIZABLE, of equal calls at the same time one runs.

        `key_storage` and `lock_manager` exist for the error's sake: the journal keeps keys and locks. Raises
        `ConfigurationError` where they are given.
        """
        if key_storage is not None or lock_manager is not None:
            message = "the journal keeps cache keys and their locks; leave key_storage and lock_manager out"
            raise ConfigurationError(message)
        made = copy.copy(self)
        if isolation_level is not None:
            object.__setattr__(made, "isolation_level", _level(isolation_level))
        return made

    def parts(self, call: KeyedCall) -> Sequence[KeyPart]:
        """What counts of a call, for the engine. Raises `NoPart` for nothing, `NoKey` where it cannot be cached."""
        context = call.context
        try:
            key = self.compute_key(context, dict(call.arguments), dict(call.flow_parameters))
        except Exception as error:
            message = f"{self._author} raised {error!r}"
            raise NoKey(message) from error
        if key is None:
            message = f"{self._author} returned None"
            raise NoPart(message)
        return [KeyPart("key", type(self).__qualname__, _data(self._author, key))]

    @property
    def _author(self) -> str:
        return f"{type(self).__qualname__}.compute_key"

    def __add__(self, other: CachePolicy) -> CachePolicy:
        if isinstance(other, NoCache):
            return self
        one, two = self.isolation_level, other.isolation_level
        if one is not None and two is not None and one != two:
            message = f"policies of different isolation do not add up: {one} and {two}"
            raise DefinitionError(message)
        return CompoundCachePolicy((self, other), isolation_level=two if one is None else one)

    def __sub__(self, argument: str) -> CachePolicy:
        """Leave an argument out; nothing changes for a policy that looks at none."""
        _check_name(argument)
        return self


@dataclass(frozen=True)
class _BuiltIn(CachePolicy):
    """A policy that names its parts by itself."""

    isolation_level: Level = field(default=None, kw_only=True)
    #: The order in which policies stand in a sum, so that equal sums are equal.
    rank: ClassVar[int] = 0

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """Like in `CachePolicy`; raises `NoKey` for what has no canonical form."""
        del kwargs
        try:
            parts = self.parts(_Given(inputs or {}, {}, flow_parameters or {}, task_ctx))
        except NoPart:
            return None
        return hashlib.blake2b(joined(parts), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Given:
    """A call of which somebody asks for the key by himself."""

    arguments: Mapping[str, Any]
    closure: Mapping[str, Any]
    flow_parameters: Mapping[str, Any]
    context: TaskRunContext | None


@dataclass(frozen=True)
class Inputs(_BuiltIn):
    """The arguments, and what the function takes from the functions around it; `exclude` leaves some out."""

    exclude: frozenset[str] = frozenset()
    rank: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", frozenset(self.exclude))

    def parts(self, call: KeyedCall) -> Sequence[KeyPart]:
        """One part for each."""
        closure, arguments = call.closure, call.arguments
        if not closure and not arguments:
            message = (
                "the task has no arguments, so INPUTS has nothing to tell its calls apart; add TASK_SOURCE"
            )
            raise NoPart(message)
        exclude = self.exclude
        parts = [
            KeyPart("argument", name, _argument(name, value))
            for name, value in arguments.items()
            if name not in exclude
        ]
        if closure:
            parts += [
                KeyPart("closure", name, _argument(name, value))
                for name, value in closure.items()
                if name not in exclude
            ]
        return parts

    def __sub__(self, argument: str) -> CachePolicy:
        _check_name(argument)
        return replace(self, exclude=self.exclude | {argument})


@dataclass(frozen=True)
class TaskSource(_BuiltIn):
    """The source of the task's own function (not of what it calls)."""

    rank: ClassVar[int] = 2

    def parts(self, call: KeyedCall) -> Sequence[KeyPart]:
        """A digest of it."""
        context = call.context
        if context is None:
            message = "there is no task"
            raise NoPart(message)
        return [KeyPart("source", "", context.task.source)]


@dataclass(frozen=True)
class RunId(_BuiltIn):
    """The run: results are good within it only, and forgotten when it has ended."""

    rank: ClassVar[int] = 3

    def parts(self, call: KeyedCall) -> Sequence[KeyPart]:
        """Its id."""
        context = call.context
        if context is None:
            message = "there is no run"
            raise NoPart(message)
        return [KeyPart("run", "", context.task_run.flow_run_id.encode())]


@dataclass(frozen=True)
class FlowParameters(_BuiltIn):
    """The arguments of the flow that makes the call."""

    rank: ClassVar[int] = 4

    def parts(self, call: KeyedCall) -> Sequence[KeyPart]:
        """One part for each."""
        parameters = call.flow_parameters
        if not parameters:
            message = "the flow has no parameters, so FLOW_PARAMETERS has nothing to tell calls apart"
            raise NoPart(message)
        return [
            KeyPart("parameter", name, _data(f"flow parameter {name!r}", value))
            for name, value in parameters.items()
        ]


@dataclass(frozen=True)
class CacheKeyFnPolicy(_BuiltIn):
    """What a function says: (context, arguments) -> key, None = not cached."""

    cache_key_fn: CacheKeyFunction | None = None
    rank: ClassVar[int] = 5

    @property
    def _author(self) -> str:
        return "cache_key_fn"

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """What the function returns."""
        del flow_parameters, kwargs
        return None if self.cache_key_fn is None else self.cache_key_fn(task_ctx, inputs)


@dataclass(frozen=True)
class NoCache(_BuiltIn):
    """Nothing is cached."""

    def parts(self, call: KeyedCall) -> Sequence[KeyPart]:
        """None."""
        del call
        message = "NO_CACHE"
        raise NoPart(message)

    def __add__(self, other: CachePolicy) -> CachePolicy:
        return other


@dataclass(frozen=True)
class CompoundCachePolicy(_BuiltIn):
    """A sum: calls are the same if all its policies say so. Those that have nothing to say do not count."""

    policies: tuple[CachePolicy, ...] = ()

    def __post_init__(self) -> None:
        flat = [
            part
            for policy in self.policies
            for part in (policy.policies if isinstance(policy, CompoundCachePolicy) else (policy,))
        ]
        inputs = [policy.exclude for policy in flat if isinstance(policy, Inputs)]
        others = [policy for policy in flat if not isinstance(policy, Inputs)]
        merged = [Inputs(frozenset[str]().union(*inputs))] if inputs else []
        distinct: list[CachePolicy] = []
        for policy in map(_unconfigured, (*merged, *others)):
            if policy not in distinct:
                distinct.append(policy)
        object.__setattr__(self, "policies", tuple(sorted(distinct, key=_rank)))

    def parts(self, call: KeyedCall) -> Sequence[KeyPart]:
        """Those of all."""
        parts: list[KeyPart] = []
        silent: list[str] = []
        for policy in self.policies:
            try:
                parts += policy.parts(call)
            except NoPart as reason:
                silent.append(str(reason))
        if len(silent) == len(self.policies):
            raise NoPart("; ".join(silent))
        return parts

    def __sub__(self, argument: str) -> CachePolicy:
        _check_name(argument)
        return replace(self, policies=tuple(policy - argument for policy in self.policies))


def task_input_hash(context: TaskRunContext, arguments: Mapping[str, Any]) -> str | None:
    """A key function (Prefect's name): the task, its source and its arguments; None where one has no canonical form."""
    try:
        return (INPUTS + TASK_SOURCE).compute_key(context, dict(arguments), {})
    except NoKey:
        return None


def choose_policy(
    policy: CachePolicy | None, key_fn: CacheKeyFunction | None, *, expires: bool
) -> CachePolicy | None:
    """The policy of a task: what it says; its key function; INPUTS + TASK_SOURCE where only an expiration is given.

    Raises `DefinitionError` for two at once, and for what is no policy.
    """
    if policy is not None and key_fn is not None:
        message = "give cache_policy or cache_key_fn, not both"
        raise DefinitionError(message)
    if key_fn is not None:
        return CacheKeyFnPolicy(key_fn)
    if policy is None:
        return INPUTS + TASK_SOURCE if expires else None
    if not isinstance(cast("object", policy), CachePolicy):
        message = f"cache_policy wants a policy such as INPUTS, not {policy!r}"
        raise DefinitionTypeError(message)
    if type(policy).parts is CachePolicy.parts and type(policy).compute_key is CachePolicy.compute_key:
        message = f"{type(policy).__qualname__} is no cache policy before it defines compute_key"
        raise DefinitionError(message)
    return None if isinstance(policy, NoCache) else policy


def is_serialised(policy: CachePolicy | None) -> bool:
    """Whether equal calls wait for each other."""
    return policy is not None and policy.isolation_level == IsolationLevel.SERIALIZABLE


def is_private(policy: CachePolicy | None) -> bool:
    """Whether results are good within their run only."""
    return isinstance(policy, RunId) or (
        isinstance(policy, CompoundCachePolicy) and any(map(is_private, policy.policies))
    )


def joined(parts: Sequence[KeyPart]) -> bytes:
    """All parts as one string of bytes that no other parts have."""
    return b"".join([b"%b\0%b\0%b" % (kind.encode(), name.encode(), data) for kind, name, data in parts])


def closure_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """What a function brings along, by name: values of functions around it, bound arguments, an object's state."""
    inner: Any = inspect.unwrap(fn) if hasattr(fn, "__wrapped__") else fn
    if isinstance(inner, FunctionType):
        if not inner.__closure__:
            return {}
        cells = zip(inner.__code__.co_freevars, inner.__closure__, strict=True)
        return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    if isinstance(inner, functools.partial):
        bound: Any = inner  # pyright: ignore[reportUnknownVariableType]
        given = {f"partial {number}": value for number, value in enumerate(bound.args)}
        return closure_of(bound.func) | given | bound.keywords
    if isinstance(inner, MethodType):
        return {"self": inner.__self__}
    return {} if inspect.isroutine(inner) or inspect.isclass(inner) else {"self": inner}


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _argument(name: str, value: Any) -> bytes:
    data, opaque = canonical((value,))
    if opaque:
        raise _opaque(f"argument {name!r}", opaque, "subtract it from the policy")
    return data


def _data(what: str, value: Any) -> bytes:
    data, opaque = canonical((value,))
    if opaque:
        raise _opaque(what, opaque, "choose a policy that does not look at it")
    return data


def _opaque(what: str, kinds: list[str], advice: str) -> NoKey:
    return NoKey(f"{what} ({', '.join(dict.fromkeys(kinds))}) has no canonical form; {advice}")


def _level(level: str) -> IsolationLevel:
    try:
        return IsolationLevel(level)
    except ValueError:
        message = f"no isolation level {level!r}; there are: {', '.join(IsolationLevel)}"
        raise DefinitionError(message) from None


def _check_name(argument: object) -> None:
    if not isinstance(argument, str):
        message = f"only the name of an argument can be subtracted from a policy, not {argument!r}"
        raise TypeError(message)


def _unconfigured(policy: CachePolicy) -> CachePolicy:
    return replace(policy, isolation_level=None) if isinstance(policy, _BuiltIn) else policy


def _rank(policy: CachePolicy) -> int:
    return policy.rank if isinstance(policy, _BuiltIn) else _BuiltIn.rank


INPUTS = Inputs()
TASK_SOURCE = TaskSource()
RUN_ID = RunId()
FLOW_PARAMETERS = FlowParameters()
NO_CACHE = NoCache()
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID
