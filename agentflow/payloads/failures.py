"""Exceptions to bytes and back: rebuilt by ``cls.__new__``, args and attributes - the same in every life.

An exception that cannot be rebuilt becomes `StepFailed` at once, so that code which catches it sees in the first life
what it would see on replay.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

import orjson

from agentflow.errors import CorruptRecord, StepFailed
from agentflow.payloads.codec import Codec
from agentflow.payloads.shapes import class_name, exception_parts, find_class

_TRACEBACK_LIMIT = 8_000
_ERRNO_AND_TEXT = 2


def encode_failure(codec: Codec, error: BaseException) -> tuple[bytes, BaseException]:
    """The bytes of `error`, and the exception that every life raises for it (itself where it can be rebuilt)."""
    record = _record(error)
    try:
        record["args"] = made_of(error)
        record["parts"] = dict(exception_parts(error))
        data = codec.encode(record)
        if _same(error, decode_failure(codec, data)):
            return data, error
    except Exception:  # noqa: BLE001, S110 - the exception's own code runs here, and may raise anything
        pass
    except CorruptRecord:
        pass
    for name in ("args", "parts"):
        record.pop(name, None)
    data = codec.encode(record)
    stand_in = decode_failure(codec, data)
    stand_in.__cause__ = error
    return data, stand_in


def decode_failure(codec: Codec, data: bytes) -> BaseException:
    """The exception of `data`."""
    record: dict[str, Any] = codec.decode(data)
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


def made_of(error: BaseException) -> tuple[Any, ...]:
    """What an exception was made of: its args, and for an OSError also the file names, which are not among them."""
    if isinstance(error, OSError) and len(error.args) == _ERRNO_AND_TEXT:
        names = (error.filename, None, error.filename2) if error.filename2 is not None else (error.filename,)
        return error.args if error.filename is None else (*error.args, *names)
    return error.args


def describe_failure(data: bytes) -> dict[str, str]:
    """What people are shown of a recorded failure, without building it: type, text, traceback."""
    try:
        record = orjson.loads(data)
        return {name: str(record.get(name, "")) for name in ("type", "text", "traceback")}
    except orjson.JSONDecodeError:
        return {"type": "unreadable", "text": "", "traceback": ""}


def _record(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)
    except Exception as second:  # noqa: BLE001 - a user's __str__ may raise anything
        text = f"<its text raised {type(second).__name__}>"
    return {
        "type": type(error).__qualname__,
        "class": class_name(type(error)),
        "text": _clean(text),
        "traceback": _clean("".join(traceback.format_exception(error))[-_TRACEBACK_LIMIT:]),
    }


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _same(first: BaseException, second: BaseException) -> bool:
    return type(first) is type(second) and repr(first.args) == repr(second.args) and str(first) == str(second)
