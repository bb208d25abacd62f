"""Values to bytes and back, tagged by their runtime type; annotations never narrow what is stored.

JSON text in which anything that JSON does not know is ``{"$": tag, ...}``. Decoding looks classes up in modules that
are loaded already and never imports. What no rule knows falls back to a pickle signed with the installation's key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import math
import pickle
import sys
from collections.abc import Callable
from typing import Any, cast

import orjson

from agentflow.errors import CodecError, CorruptRecord
from agentflow.payloads import exceptions, shapes
from agentflow.payloads.shapes import Shape

_INT_LIMIT = 1 << 63
_TAG = "$"
_HINTS = (
    "return something the journal can store (builtins, dataclass, pydantic model, Enum, datetime, Decimal, ...), "
    "register a codec with agentflow.register_codec, or set persist_result=False (then it runs again on resume)"
)
#: The rules in their order: the first one that accepts a value stores it.
SHAPES: list[Shape] = [*exceptions.SHAPES, *shapes.SHAPES]
_ATOMS = frozenset({str, int, float, bool, type(None)})


class Codec:
    """Encodes and decodes under one key. `allow_pickle` says whether unknown types may be pickled."""

    __slots__ = ("_key", "allow_pickle", "on_pickle")

    def __init__(self, key: bytes, *, allow_pickle: bool = True) -> None:
        self._key = hashlib.sha256(b"agentflow pickle" + key).digest()
        self.allow_pickle = allow_pickle
        #: Called with the type's name whenever a value had to be pickled.
        self.on_pickle: Callable[[str], None] | None = None

    def encode(self, value: Any) -> bytes:
        """The bytes of `value`. Raises `CodecError` for what cannot be stored."""
        kind = value.__class__
        if kind is int and -_INT_LIMIT <= value < _INT_LIMIT:
            return b"%d" % value
        if value is None:
            return b"null"
        try:
            return orjson.dumps(self._lower(value, []))
        except CodecError:
            raise
        except RecursionError:
            message = f"{_name(value)} is nested too deeply to be stored; {_HINTS}"
            raise CodecError(message) from None
        except Exception as error:
            message = f"{_name(value)} cannot be stored ({error}); {_HINTS}"
            raise CodecError(message) from error

    def decode(self, data: bytes) -> Any:
        """The value of `data`. Raises `CorruptRecord` where it cannot be read."""
        try:
            if b'"$"' not in data:
                return orjson.loads(data)
            return self._raise(orjson.loads(data))
        except CorruptRecord:
            raise
        except Exception as error:
            message = f"a recorded value cannot be read back ({type(error).__name__}: {error})"
            raise CorruptRecord(message) from error

    def round_trip(self, value: Any) -> tuple[bytes, Any]:
        """The bytes of `value`, and the value that a later life would read: what the caller receives in this one."""
        data = self.encode(value)
        if value.__class__ in _ATOMS:
            return data, value
        try:
            return data, self.decode(data)
        except CorruptRecord as error:
            message = f"{_name(value)} does not survive being stored and read back ({error}); {_HINTS}"
            raise CodecError(message) from error

    def _lower(self, value: Any, stack: list[int]) -> Any:
        atom = _ATOM_RULES.get(value.__class__)
        if atom is not None:
            return atom(value)
        marker = id(value)
        if marker in stack:
            message = f"{_name(value)} contains itself, so it cannot be stored; {_HINTS}"
            raise CodecError(message)
        stack.append(marker)
        try:
            if value.__class__ is list:
                return [self._lower(item, stack) for item in value]
            if value.__class__ is dict:
                return self._lower_dict(value, stack)
            shape = find_shape(value)
            if shape is None:
                return self._pickle(value)
            return shape.lower(value, lambda part: self._lower(part, stack))
        finally:
            stack.pop()

    def _lower_dict(self, value: dict[Any, Any], stack: list[int]) -> Any:
        if _TAG not in value and all(key.__class__ is str and _is_utf8(key) for key in value):
            return {key: self._lower(item, stack) for key, item in value.items()}
        return _tagged(
            "dict", v=[[self._lower(key, stack), self._lower(item, stack)] for key, item in value.items()]
        )

    def _raise(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._raise(item) for item in cast("list[Any]", value)]
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, Any]", value)
        tag = fields.get(_TAG)
        if tag is None:
            return {key: self._raise(item) for key, item in fields.items()}
        return self._raise_tagged(tag, fields)

    def _raise_tagged(self, tag: str, fields: dict[str, Any]) -> Any:
        if tag == "pickle":
            return self._unpickle(fields)
        if tag == "dict":
            return {self._raise(key): self._raise(item) for key, item in fields["v"]}
        basic = _BASIC.get(tag)
        if basic is not None:
            return basic(fields["v"])
        shape = _BY_TAG.get(tag)
        if shape is None:
            message = f"unknown type tag {tag!r}; was it written with a codec that is not registered here?"
            raise CorruptRecord(message)
        return shape.raise_(fields, self._raise)

    def _pickle(self, value: Any) -> dict[str, Any]:
        if not self.allow_pickle:
            message = (
                f"{_name(value)} could only be pickled, which AGENTFLOW_ALLOW_PICKLE=false forbids; {_HINTS}"
            )
            raise CodecError(message)
        try:
            data = pickle.dumps(value, protocol=5)
        except Exception as error:
            message = f"{_name(value)} cannot be pickled ({error}); {_HINTS}"
            raise CodecError(message) from error
        if self.on_pickle is not None:
            self.on_pickle(_name(value))
        seal = hmac.new(self._key, data, hashlib.sha256).hexdigest()
        return _tagged("pickle", v=base64.b64encode(data).decode(), seal=seal)

    def _unpickle(self, value: dict[str, Any]) -> Any:
        data = base64.b64decode(value["v"])
        seal = hmac.new(self._key, data, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(seal, str(value.get("seal", ""))):
            message = "a recorded pickle is not signed by this installation's key; it is not read"
            raise CorruptRecord(message)
        return _LoadedOnly(io.BytesIO(data)).load()


class _LoadedOnly(pickle.Unpickler):
    """Unpickles classes of modules that are loaded already; never imports."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name not in sys.modules:
            message = f"module {module_name} is not loaded; import it in the flow's file"
            raise CorruptRecord(message)
        return super().find_class(module_name, global_name)


def _tagged(tag: str, **fields: Any) -> dict[str, Any]:
    return {_TAG: tag, **fields}


def _name(value: object) -> str:
    kind = type(value)
    return f"a value of type {kind.__module__}.{kind.__qualname__}"


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _surrogates(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _lower_int(value: int) -> Any:
    return value if -_INT_LIMIT <= value < _INT_LIMIT else _tagged("int", v=str(value))


def _lower_float(value: float) -> Any:
    return value if math.isfinite(value) else _tagged("float", v=repr(value))


def _lower_str(value: str) -> Any:
    return value if _is_utf8(value) else _tagged("str", v=_surrogates(value))


def _same(value: Any) -> Any:
    return value


_ATOM_RULES: dict[type[Any], Callable[[Any], Any]] = {
    str: _lower_str,
    bool: _same,
    type(None): _same,
    int: _lower_int,
    float: _lower_float,
}
_BASIC: dict[str, Callable[[Any], Any]] = {
    "str": lambda text: base64.b64decode(text).decode("utf-8", "surrogatepass"),
    "int": int,
    "float": float,
}
_BY_TAG: dict[str, Shape] = {shape.tag: shape for shape in SHAPES}
_CUSTOM: list[Shape] = []
_FOUND: dict[type[Any], Shape] = {}


def find_shape(value: object) -> Shape | None:
    """The rule that stores this value, or None where only pickle could."""
    known = _FOUND.get(type(value))
    if known is None or not known.accepts(value):
        known = next((shape for shape in (*_CUSTOM, *SHAPES) if shape.accepts(value)), None)
        if known is not None:
            _FOUND[type(value)] = known
    return known


def register_codec(
    kind: type[Any], *, tag: str, encode: Callable[[Any], Any], decode: Callable[[Any], Any]
) -> None:
    """Store values of exactly type `kind` as what `encode` makes of them (storable itself); `decode` undoes it.

    `tag` names the rule in the journal for ever: choose one that no other package takes (``"acme.Thing"``).
    """
    shape = Shape(
        tag=tag,
        accepts=lambda value: type(value) is kind,
        lower=lambda value, go: {_TAG: tag, "v": go(encode(value))},
        raise_=lambda data, go: decode(go(data["v"])),
    )
    _CUSTOM.insert(0, shape)
    _BY_TAG[tag] = shape
    _FOUND.clear()
