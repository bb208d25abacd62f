"""The journal's verbs as JSON: one table, made from the protocol's signatures, for both ends of the wire.

What travels is read by those annotations and nothing else: no class is named by a sender, nothing is imported. Bytes
travel as base64. Errors travel by name, from a closed table.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from functools import cache, cached_property
from types import NoneType
from typing import Any, NamedTuple, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from agentflow import errors
from agentflow.journal.protocol import CacheLock, Pruned
from agentflow.journal.protocol.cache import CacheVerbs
from agentflow.journal.protocol.deployments import DeploymentVerbs
from agentflow.journal.protocol.history import HistoryVerbs
from agentflow.journal.protocol.limits import LimitVerbs
from agentflow.journal.protocol.retention import RetentionVerbs
from agentflow.journal.protocol.runs import RunVerbs
from agentflow.journal.protocol.steps import StepVerbs
from agentflow.journal.protocol.waits import WaitVerbs
from agentflow.model.deployments import Deployment
from agentflow.model.limits import Grant
from agentflow.model.runs import Run
from agentflow.model.waits import Wait

DOOR = "/api/journal"
"""The path at which a server answers workers."""
SESSION_HEADER = "agentflow-session"
JSON_TYPE = "application/json"
BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a request."""

_NOUNS = (
    RunVerbs, HistoryVerbs, StepVerbs, WaitVerbs, LimitVerbs, DeploymentVerbs, CacheVerbs, RetentionVerbs,
)  # fmt: skip
#: Not asked for through a server: waiting is for the worker to do, and what is removed is the server's business.
_NOT_SENT = frozenset({"try_append", "prune_runs"})
#: Verbs that change nothing: they need no session, and can be asked again.
READS = frozenset(
    {
        "lives", "forked", "fork_of", "get_run", "list_runs", "due_runs", "is_owned", "steps", "get_wait", "list_waits",
        "unread_answers", "list_limits", "list_slots", "free_slots", "cached", "cache_entries", "key_holder", "logs",
        "pruned_at", "get_deployment", "list_deployments",
    }
)  # fmt: skip
#: Verbs whose rows are known by their ids, which tell by themselves whether they were stored.
BY_ROWS = frozenset({"append", "start_effect"})

_WIRE = ConfigDict(
    extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants"
)

_ERRORS: Mapping[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (
        errors.Cancelling,
        errors.DecisionRefusedError,
        errors.DeploymentNotFoundError,
        errors.DeploymentPausedError,
        errors.Fenced,
        errors.JournalUnavailable,
        errors.LimitNotFoundError,
        errors.RunFinishedError,
        errors.RunNotFoundError,
        errors.RunOwnedError,
        errors.RunStateError,
        errors.UsageError,
        errors.WaitNotFoundError,
        ValueError,
    )
}
_OUTCOMES: Mapping[str, Any] = {
    kind.__name__: kind for kind in (Run, Wait, Deployment, CacheLock, Pruned, Grant, bool, int, float, str)
}


class Asked(NamedTuple):
    """One call in a request."""

    arguments: Mapping[str, Any]
    #: Its number in the session; 0: it changes nothing.
    serial: int = 0
    #: It was sent before, and no answer came.
    repeat: bool = False


class Verb:
    """A verb on the wire."""

    def __init__(self, name: str, function: Any) -> None:
        self.name = name
        self.reads = name in READS
        self._function = function
        whole = inspect.signature(function)
        self.signature = whole.replace(parameters=list(whole.parameters.values())[1:])  # without self

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by their names."""
        return dict(self.signature.bind(*args, **kwargs).arguments)

    def request_bytes(self, calls: Sequence[Asked], known: int = 0) -> bytes:
        """A request. `known`: the answers to all calls with smaller numbers have arrived."""
        arguments, call, request = self._models
        sent = [
            call.model_construct(
                arguments=arguments.model_construct(**asked.arguments),
                serial=asked.serial,
                repeat=asked.repeat,
            )
            for asked in calls
        ]
        whole = request.model_construct(calls=sent, known=known)
        return whole.model_dump_json(exclude_unset=True, warnings=False).encode()

    def request_from(self, body: bytes) -> tuple[list[Asked], int]:
        """What is asked for, and which answers are known. Raises ValueError for anything else."""
        request: Any = self._models[-1].model_validate_json(body)
        calls = [Asked(_given(call.arguments), call.serial, call.repeat) for call in request.calls]
        return calls, request.known

    def reply_bytes(self, outcomes: Sequence[object]) -> bytes:
        """What the calls came to: what they returned, or an exception of the table."""
        outcome, reply = self._answers
        sent = [
            outcome.model_construct(error=_error_bytes(result))
            if isinstance(result, BaseException)
            else outcome.model_construct(value=result)
            for result in outcomes
        ]
        whole = reply.model_construct(outcomes=sent)
        return whole.model_dump_json(exclude_unset=True, warnings=False).encode()

    def reply_from(self, body: bytes) -> list[Any]:
        """The outcomes in a reply: values, and exceptions to be raised. Raises ValueError for anything else."""
        reply: Any = self._answers[-1].model_validate_json(body)
        return [
            outcome.value if outcome.error is None else error_from(outcome.error)
            for outcome in reply.outcomes
        ]

    @property
    def result(self) -> Any:
        """The annotation of what it returns."""
        return get_type_hints(self._function)["return"]

    @cached_property
    def _models(self) -> tuple[type[BaseModel], type[BaseModel], type[BaseModel]]:
        hints = get_type_hints(self._function)
        fields: dict[str, Any] = {
            name: (_sendable(hints[name]), ... if item.default is item.empty else item.default)
            for name, item in self.signature.parameters.items()
        }
        arguments = create_model(f"{self.name}_arguments", __config__=_WIRE, **fields)
        call = create_model(
            f"{self.name}_call", __config__=_WIRE, arguments=arguments, serial=(int, 0), repeat=(bool, False)
        )
        request = create_model(f"{self.name}_request", __config__=_WIRE, calls=list[call], known=(int, 0))
        return arguments, call, request

    @cached_property
    def _answers(self) -> tuple[type[BaseModel], type[BaseModel]]:
        members: dict[str, Any] = {"value": (self.result | None, None), "error": (list[str] | None, None)}
        outcome = create_model(f"{self.name}_outcome", __config__=_WIRE, **members)
        return outcome, create_model(f"{self.name}_reply", __config__=_WIRE, outcomes=list[outcome])


def _sendable(hint: Any) -> Any:
    """Any collection travels as a list."""
    return list[get_args(hint)] if get_origin(hint) is Collection else hint


def _given(arguments: BaseModel) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in type(arguments).model_fields}


def _verbs() -> dict[str, Verb]:
    found: dict[str, Verb] = {}
    for noun in _NOUNS:
        for name, function in vars(noun).items():
            if inspect.isfunction(function) and not name.startswith("_") and name not in _NOT_SENT:
                found[name] = Verb(name, function)
    return found


VERBS: Mapping[str, Verb] = _verbs()
"""What can be asked for, by name."""


@cache
def protocol() -> str:
    """A digest of all that travels and how; a server and a worker with different ones refuse each other."""
    shapes: dict[str, str] = {}
    hints = [get_type_hints(vars(noun)[name]) for noun in _NOUNS for name in vars(noun) if name in VERBS]
    todo: list[Any] = [kind for hint in hints for kind in hint.values()]
    while todo:
        kind = todo.pop()
        todo += get_args(kind)
        name = getattr(kind, "__qualname__", "")
        if name in shapes or not getattr(kind, "__module__", "").startswith("agentflow."):
            continue
        members = get_type_hints(kind)
        todo += members.values()
        shapes[name] = repr(list(kind)) if issubclass(kind, Enum) else repr(members)
    verbs = [f"{name}{verb.signature}" for name, verb in VERBS.items()]
    return hashlib.sha256(repr((verbs, sorted(shapes.items()))).encode()).hexdigest()[:16]


# -- errors
def is_sendable(error: BaseException) -> bool:
    """Whether an error can be told by its name."""
    return type(error).__name__ in _ERRORS


def _error_bytes(error: BaseException) -> list[str]:
    kind, arguments = error.__reduce__()[:2]
    return [getattr(kind, "__name__", ""), *map(str, arguments)]


def error_from(parts: Sequence[str]) -> BaseException:
    """The error of that name. Raises ValueError for one that is not in the table."""
    kind: Any = _ERRORS.get(parts[0]) if parts else None
    try:
        return kind(*parts[1:])
    except TypeError:
        message = f"no error can be made of {list(parts)!r}"
        raise ValueError(message) from None


_SEVERAL = "[]"


# -- what a transaction came to, kept for whoever asks once more
def is_kept(kind: Any) -> bool:
    """Whether what has that annotation can be kept."""
    parts = get_args(kind)
    return all(map(is_kept, parts)) if parts else kind is NoneType or kind in _OUTCOMES.values()


def outcome_bytes(value: object) -> bytes:
    """What a verb's transaction returned; nothing where that is of a kind that its verb has no use for."""
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    name = type(items[0]).__name__ if items else "str"  # of nothing, any kind is right
    if name not in _OUTCOMES:
        return b""
    name += _SEVERAL * isinstance(value, list)
    return name.encode() + b" " + _kept(name).model_construct(value=value).model_dump_json().encode()


def outcome_from(data: bytes) -> Any:
    """The same, read back."""
    name, _, text = data.partition(b" ")
    kept: Any = _kept(name.decode()).model_validate_json(text) if name else None
    return None if kept is None else kept.value


@cache
def _kept(name: str) -> type[BaseModel]:
    kind = _OUTCOMES[name.removesuffix(_SEVERAL)]
    fields: dict[str, Any] = {"value": (list[kind] if name.endswith(_SEVERAL) else kind, ...)}
    return create_model("kept", __config__=_WIRE, **fields)
