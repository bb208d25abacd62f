"""Exceptions and states as values: how they are taken apart and rebuilt, the same in every life.

An exception is rebuilt by ``cls.__new__``, its args and attributes. One that cannot be becomes `StepFailed`, at once.
Exceptions that end a step are recorded by `agentflow.payloads.failures`, which uses this.
"""

from __future__ import annotations

import datetime as dt
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from agentflow.errors import CorruptRecord, StepFailed
from agentflow.model.states import State, StateType
from agentflow.payloads.shapes import Part, Shape, class_name, exception_parts, find_class

_TRACEBACK_LIMIT = 8_000
_ERRNO_AND_TEXT = 2
#: What the names of agentflow's own files begin with.
_OWN = str(Path(__file__).parents[1]) + os.sep


def description(error: BaseException) -> dict[str, Any]:
    """What people are shown of an exception, and its class."""
    try:
        text = str(error)
    except Exception as second:  # noqa: BLE001 - a user's __str__ may raise anything
        text = f"<its text raised {type(second).__name__}>"
    return {"type": type(error).__qualname__, "class": class_name(type(error)), "text": _clean(text)}


def shown_traceback(error: BaseException) -> str:
    """The end of its traceback, for people: of agentflow's own calls only one by which an exception was raised."""
    told = traceback.TracebackException.from_exception(error, lookup_lines=False)
    chain, seen = [told], set[int]()
    while chain:
        one = chain.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:-1] = [call for call in one.stack[:-1] if not call.filename.startswith(_OWN)]
        chain += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other]
    return _clean("".join(told.format())[-_TRACEBACK_LIMIT:])


def made_of(error: BaseException) -> tuple[Any, ...]:
    """What an exception was made of: its args, and for an OSError also the file names, which are not among them."""
    if isinstance(error, OSError) and len(error.args) == _ERRNO_AND_TEXT:
        names = (error.filename, None, error.filename2) if error.filename2 is not None else (error.filename,)
        return error.args if error.filename is None else (*error.args, *names)
    return error.args


def rebuilt(record: dict[str, Any]) -> BaseException:
    """The exception of a record: a `description`, with ``args`` and ``parts`` where it can be rebuilt."""
    if "args" not in record:
        return StepFailed(record["type"], record["text"])
    kind = find_class(record["class"])
    if not issubclass(kind, BaseException):
        message = f"{record['class']} was an exception when it was recorded and is none now"
        raise CorruptRecord(message)
    return rebuild(kind, record["args"], record["parts"])


def rebuild(kind: type[BaseException], args: Sequence[Any], parts: Mapping[str, Any]) -> BaseException:
    """An exception of a class, from what it was made of and the attributes that its class had set."""
    error = kind.__new__(kind, *args)
    if isinstance(kind.__init__, FunctionType):
        error.args = tuple(args)
    else:  # a builtin's own: it fills in fields that only it can
        kind.__init__(error, *args)
    for name, item in parts.items():
        setattr(error, name, item)
    return error


def is_same(first: BaseException, second: BaseException) -> bool:
    """Whether an exception was rebuilt well enough."""
    return type(first) is type(second) and repr(first.args) == repr(second.args) and str(first) == str(second)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _lower_exception(error: Any, go: Part) -> dict[str, Any]:
    out: dict[str, Any] = {"$": "exception", **description(error)}
    try:
        whole = {"args": list(made_of(error)), "parts": dict(exception_parts(error))}
        if is_same(error, rebuilt({**out, **whole})):
            out |= {"args": [go(item) for item in whole["args"]]}
            out |= {"parts": {str(name): go(item) for name, item in exception_parts(error).items()}}
    except Exception:  # noqa: BLE001 - the exception's own code runs here, and may raise anything
        out.pop("args", None)
    return out


def _raise_exception(data: dict[str, Any], go: Part) -> BaseException:
    if "args" not in data:
        return rebuilt(data)
    parts = {name: go(item) for name, item in data["parts"].items()}
    return rebuilt({**data, "args": [go(item) for item in data["args"]], "parts": parts})


def _lower_state(state: Any, go: Part) -> dict[str, Any]:
    at = state.timestamp.isoformat()
    return {
        "$": "state", "t": state.type.value, "n": state.name, "m": state.message, "at": at, "v": go(state.data),
    }  # fmt: skip


def _raise_state(data: dict[str, Any], go: Part) -> State[Any]:
    return State(
        StateType(data["t"]), data["n"], data["m"], go(data["v"]), dt.datetime.fromisoformat(data["at"])
    )


SHAPES = [
    Shape("exception", lambda value: isinstance(value, BaseException), _lower_exception, _raise_exception),
    Shape("state", lambda value: type(value) is State, _lower_state, _raise_state),
]
