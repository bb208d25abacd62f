"""Digests of inputs: one canonical byte string per value, tagged by type, hashed with the installation's key.

Walks ``__dict__``, private and extra fields, never serialisers (two secrets may dump alike). What cannot be made
canonical (a client, a connection) counts by its type, and the digest says so.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import hashlib
import math
import struct
import types
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from fractions import Fraction
from operator import itemgetter
from pathlib import PurePath
from typing import Any, cast

from pydantic import BaseModel, SecretBytes, SecretStr

from agentflow.model.states import State
from agentflow.payloads.envelopes import pieces
from agentflow.payloads.shapes import exception_parts

_DEPTH_LIMIT = 200
#: Characters or bytes beyond which a digest of a text or of bytes stands for it.
_LARGE = 1 << 20
_pack_float = struct.Struct(">d").pack
_NAN = b"fnan;"


class Canonical:
    """Collects the canonical bytes of values; `opaque` names what could only be counted by type."""

    __slots__ = ("_stack", "opaque", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.opaque: list[str] = []
        self._stack: list[int] = []

    def add(self, value: Any) -> None:
        """Append the canonical bytes of `value`."""
        writer = _WRITERS.get(value.__class__)
        if writer is not None:
            self.parts.append(writer(value))
            return
        marker = id(value)
        if marker in self._stack:
            self.parts.append(b"^%d;" % (len(self._stack) - self._stack.index(marker)))
            return
        if len(self._stack) > _DEPTH_LIMIT:
            self._by_type(value)
            return
        self._stack.append(marker)
        try:
            self._add_compound(value)
        finally:
            self._stack.pop()

    def _add_compound(self, value: Any) -> None:
        if isinstance(value, (list, tuple)) and not hasattr(cast("Any", value), "_fields"):
            self._sequence(b"[", cast("Sequence[Any]", value))
        elif isinstance(value, Mapping):
            self._mapping(cast("Mapping[Any, Any]", value))
        elif isinstance(value, AbstractSet):
            self._unordered(cast("AbstractSet[Any]", value))
        elif isinstance(value, enum.Enum):
            self._named(b"E", value)
            self.parts.append(_text(value.name or repr(value)))
        elif isinstance(value, (SecretStr, SecretBytes)):
            self._named(b"S", value)
            self.add(value.get_secret_value())
        elif isinstance(value, State):
            state = cast("State[Any]", value)
            self.opaque.append("State")  # callers look closer: states among arguments become their values
            self._named(b"Y", state)
            self._sequence(b"[", [state.type.value, state.name, state.message, state.data])
        elif isinstance(value, BaseModel):
            self._named(b"M", value)
            self._mapping(value.__dict__)
            self._mapping(value.__pydantic_extra__ or {})
            self._mapping(value.__pydantic_private__ or {})
        elif is_dataclass_value(given := cast("Any", value)):
            self._named(b"D", given)
            self._mapping({item.name: getattr(given, item.name, None) for item in dataclasses.fields(given)})
        elif isinstance(value, tuple):
            items = cast("tuple[Any, ...]", value)
            self._named(b"N", items)
            self._sequence(b"[", items)
        else:
            self._add_other(value)

    def _add_other(self, value: Any) -> None:
        for kind, writer in _SUBCLASS_WRITERS:
            if isinstance(value, kind):
                self._named(b"U", value)
                self.parts.append(writer(value))
                return
        if isinstance(value, types.MethodType):
            self._named(b"m", value.__func__)
            self.add(value.__self__)
        elif isinstance(value, functools.partial):
            self.parts.append(b"p")
            self.add(value.func)
            self._sequence(b"[", list(value.args))
            self._mapping(value.keywords)
        elif isinstance(value, types.FunctionType) and "<" in value.__qualname__:
            self._local_function(value)
        elif isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
            self.parts.append(b"c" + _text(f"{value.__qualname__}"))
        elif isinstance(value, BaseException):
            self._named(b"X", value)
            self._sequence(b"[", list(value.args))
            self._mapping(exception_parts(value))
        else:
            self._by_type(value)

    def _local_function(self, value: types.FunctionType) -> None:
        """A lambda or inner function: its name does not say what it does, so it is no key across runs."""
        self.opaque.append(value.__qualname__)
        self.parts.append(b"c" + _text(value.__qualname__))

    def _by_type(self, value: object) -> None:
        self.opaque.append(type(value).__qualname__)
        self.parts.append(b"?" + _text(type(value).__qualname__))

    def _named(self, tag: bytes, value: object) -> None:
        owner = value if isinstance(value, types.FunctionType) else type(value)
        self.parts.append(tag + _text(owner.__qualname__))

    def _sequence(self, tag: bytes, items: Sequence[Any]) -> None:
        self.parts.append(b"%s%d;" % (tag, len(items)))
        for item in items:
            self.add(item)

    def _mapping(self, items: Mapping[Any, Any]) -> None:
        pairs = sorted(((self._apart(key), value) for key, value in items.items()), key=itemgetter(0))
        self.parts.append(b"{%d;" % len(pairs))
        for key, value in pairs:
            self.parts.append(key)
            self.add(value)

    def _unordered(self, items: AbstractSet[Any]) -> None:
        members = sorted(self._apart(item) for item in items)
        self.parts.append(b"<%d;" % len(members))
        self.parts.extend(members)

    def _apart(self, value: Any) -> bytes:
        outer, self.parts = self.parts, []
        try:
            self.add(value)
            return b"".join(self.parts)
        finally:
            self.parts = outer


def is_dataclass_value(value: object) -> bool:
    """Whether it is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _text(text: str) -> bytes:
    if len(text) > _LARGE:
        return _condensed(b"S", text)
    data = text.encode("utf-8", "surrogatepass")
    return b"s%d:%s" % (len(data), data)


def _condensed(tag: bytes, value: str | bytes | bytearray) -> bytes:
    """What stands for a value that is too large to be copied."""
    state = hashlib.blake2b(digest_size=32)
    for piece in pieces(value):
        state.update(piece)
    return b"%b%d:%b" % (tag, len(value), state.digest())


def _float(value: float) -> bytes:
    return _NAN if math.isnan(value) else b"f" + _pack_float(value)


def _moment(value: dt.datetime | dt.time) -> bytes:
    zone = "" if value.tzinfo is None else f"{value.utcoffset()}|{value.tzinfo}"
    return b"t" + _text(f"{value.isoformat()}|{zone}|{value.fold}")


_WRITERS: dict[type[Any], Callable[[Any], bytes]] = {
    type(None): lambda _: b"0",
    bool: lambda value: b"T" if value else b"F",
    int: b"i%d;".__mod__,
    float: _float,
    str: _text,
    bytes: lambda value: _condensed(b"O", value) if len(value) > _LARGE else b"b%d:%s" % (len(value), value),
    bytearray: lambda value: (
        _condensed(b"A", value) if len(value) > _LARGE else b"B%d:%s" % (len(value), bytes(value))
    ),
    complex: lambda value: b"z" + _float(value.real) + _float(value.imag),
    Decimal: lambda value: b"n" + _text(str(value)),
    Fraction: lambda value: b"q" + _text(str(value)),
    uuid.UUID: lambda value: b"u" + value.bytes,
    dt.datetime: _moment,
    dt.time: _moment,
    dt.date: lambda value: b"d" + _text(value.isoformat()),
    dt.timedelta: lambda value: b"l%d,%d,%d;" % (value.days, value.seconds, value.microseconds),
    type(...): lambda _: b".",
}
_SUBCLASS_WRITERS: list[tuple[type[Any], Callable[[Any], bytes]]] = [
    (PurePath, lambda value: _text(value.as_posix())),
    (str, lambda value: _text(str.__str__(value))),
    (bytes, lambda value: b"b%d:%s" % (len(value), bytes(value))),
    (int, lambda value: b"i%d;" % int(value)),
    (float, lambda value: _float(float(value))),
    (Decimal, lambda value: b"n" + _text(str(value))),
    (dt.datetime, _moment),
    (dt.date, lambda value: b"d" + _text(value.isoformat())),
    (uuid.UUID, lambda value: b"u" + value.bytes),
    (dt.tzinfo, lambda value: _text(str(value))),
]


_NOTHING: list[str] = []


def canonical(values: Sequence[Any]) -> tuple[bytes, list[str]]:
    """The canonical bytes of a sequence of values, and the type names of what could not be made canonical."""
    parts: list[bytes] = []
    for value in values:
        writer = _WRITERS.get(value.__class__)
        if writer is None:
            break
        parts.append(writer(value))
    else:
        return b"".join(parts), _NOTHING
    collector = Canonical()
    for value in values:
        collector.add(value)
    return b"".join(collector.parts), collector.opaque


DIGEST_SIZE = 16


class Hasher:
    """Digests under one key."""

    __slots__ = ("_begin",)

    def __init__(self, key: bytes) -> None:
        # the state after the key is copied for each digest, which is cheaper than taking in the key anew
        self._begin = hashlib.blake2b(digest_size=DIGEST_SIZE, key=key).copy

    def digest(self, data: bytes) -> bytes:
        """16 bytes that stand for `data`."""
        state = self._begin()
        state.update(data)
        return state.digest()
