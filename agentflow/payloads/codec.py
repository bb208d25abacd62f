"""Values to bytes and back, tagged by their runtime type; annotations never narrow what is stored.

JSON text in which anything that JSON does not know is ``{"$": tag, ...}``. Decoding looks classes up in modules that
are loaded already and never imports. What no rule knows falls back to a pickle signed with the installation's key.

What is large, or to be encrypted, goes through a `Vault` on its way to the row.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, cast

import orjson

from agentflow.errors import CodecError, CorruptRecord, JournalUnavailable
from agentflow.payloads import exceptions, shapes
from agentflow.payloads.encryption import NO_KEYS
from agentflow.payloads.envelopes import PART_SIZE, TEXT, Draft
from agentflow.payloads.shapes import Shape
from agentflow.payloads.vault import Vault

#: How a part of JSON text begins that holds what a row could hold of a value; see `as_part`.
KEPT = b'{"$":"kept","v":'
_INT_LIMIT = 1 << 63
_TAG = "$"
_HINTS = (
    "return something the journal can store (builtins, dataclass, pydantic model, Enum, datetime, Decimal, ...), "
    "register a codec with agentflow.register_codec, or set persist_result=False (then it runs again on resume)"
)
#: The rules in their order: the first one that accepts a value stores it.
SHAPES: list[Shape] = [*exceptions.SHAPES, *shapes.SHAPES]
#: Types of values that come back as they were, and that nobody can change.
UNCHANGED = frozenset({str, int, float, bool, type(None), bytes})
_BUFFERS = frozenset({bytes, bytearray})


@cache
def _pickle_key(key: bytes) -> bytes:
    return hashlib.sha256(b"agentflow pickle" + key).digest()


class Codec:
    """Encodes and decodes under one key. `allow_pickle` says whether unknown types may be pickled, and unpickled.

    Without a `vault`, everything stays in its row, readable. `agentflow.payloads.opening` makes codecs from settings.
    """

    __slots__ = ("_key", "_limit", "_vault", "allow_pickle", "encrypts", "pickled")

    def __init__(self, key: bytes, *, allow_pickle: bool = True, vault: Vault | None = None) -> None:
        self._key = _pickle_key(key)
        self._vault = vault or Vault(key, None, NO_KEYS, 0)
        #: Whether what is stored from now on is encrypted.
        self.encrypts = self._vault.encrypts
        #: Bytes of text up to which a value is kept as it is.
        self._limit = -1 if self._vault.encrypts else self._vault.limit if self._vault.store else sys.maxsize
        self.allow_pickle = allow_pickle
        #: The types of what had to be pickled, by name.
        self.pickled: set[str] = set()

    def encode(self, value: Any) -> bytes:
        """What a row holds of `value`. Raises `CodecError` for what cannot be stored, `JournalUnavailable`."""
        trail = _Trail()
        text = self._encoded(value, trail)
        return (
            text
            if len(text) <= self._limit and not trail.parts
            else self._vault.keep(Draft(text, trail.parts))
        )

    def keep(self, draft: Draft) -> bytes:
        """What a row holds of an encoded value. Raises `JournalUnavailable`."""
        return draft.text if len(draft.text) <= self._limit and not draft.parts else self._vault.keep(draft)

    def keep_part(self, draft: Draft) -> bytes:
        """The same as JSON text, for what is stored inside of other JSON: decoded together with that."""
        return as_part(self.keep(draft))

    def encode_part(self, value: Any) -> bytes:
        """`keep_part` of a value. Raises as `encode` does."""
        return self.keep_part(self.draft(value))

    def draft(self, value: Any) -> Draft:
        """The value, encoded, before anything of it is kept. Raises `CodecError`."""
        trail = _Trail()
        return Draft(self._encoded(value, trail), trail.parts)

    def decode(self, data: bytes) -> Any:
        """The value that a row holds. Raises `CorruptRecord` where it cannot be read."""
        try:
            if data[0] < TEXT:
                return self._read(*self._vault.open(data))
            if b'"$"' not in data:
                return orjson.loads(data)
            return self._raise(orjson.loads(data), ())
        except (CorruptRecord, JournalUnavailable):
            raise
        except Exception as error:
            raise _unreadable(error) from error

    def again(self, draft: Draft) -> Any:
        """What a later life would read of a draft. Raises `CorruptRecord`."""
        return self._read(draft.text, _copies(draft.parts))

    def _read(self, text: bytes, parts: Sequence[Any]) -> Any:
        try:
            return self._raise(orjson.loads(text), parts) if b'"$"' in text else orjson.loads(text)
        except (CorruptRecord, JournalUnavailable):
            raise
        except Exception as error:
            raise _unreadable(error) from error

    def shown(self, error: BaseException) -> str:
        """An exception as logs may show it: where values are encrypted, by its type alone."""
        return type(error).__name__ if self.encrypts else repr(error)

    def open(self, data: bytes) -> Draft:
        """What a row holds, still encoded. Raises `CorruptRecord`, `JournalUnavailable`."""
        return self._vault.open(data)

    def text(self, data: bytes) -> bytes:
        """The text of what a row holds; large parts are not in it, and not read. Raises `CorruptRecord`."""
        return data if data and data[0] >= TEXT else self._vault.open(data, parts=False).text

    def read(self, draft: Draft) -> Any:
        """The value of a draft that was opened, and that nobody reads again. Raises `CorruptRecord`."""
        return self._read(draft.text, draft.parts)

    def round_trip(self, value: Any) -> tuple[bytes, Any]:
        """What a row holds of `value`, and what a later life would read: what the caller receives in this one."""
        data, value = self.drafted(value)
        return self._vault.keep(data) if isinstance(data, Draft) else data, value

    def drafted(self, value: Any) -> tuple[bytes | Draft, Any]:
        """The same; but of a value that takes long to `keep`, its draft, which nobody else can change."""
        kind = value.__class__
        if kind is int and -_INT_LIMIT <= value < _INT_LIMIT and not self.encrypts:
            return b"%d" % value, value
        trail = _Trail()
        text, parts = self._encoded(value, trail), trail.parts
        if kind not in UNCHANGED:
            parts = _copies(parts)
            try:
                value = self._read(text, parts)
            except CorruptRecord as error:
                message = f"{_name(value)} does not survive being stored and read back ({error}); {_HINTS}"
                raise CodecError(message) from error
        if len(text) > self._limit or parts:
            return self.at_once(Draft(text, parts)), value
        return text, value

    def at_once(self, draft: Draft) -> bytes | Draft:
        """What a row holds of an encoded value; the draft itself where it takes long to `keep`."""
        return draft if self._vault.takes_long(draft) else self.keep(draft)

    def _encoded(self, value: Any, trail: _Trail) -> bytes:
        """The text of a value; its large parts are left in `trail`."""
        kind = value.__class__
        if kind is int and -_INT_LIMIT <= value < _INT_LIMIT:
            return b"%d" % value
        if value is None:
            return b"null"
        try:
            return orjson.dumps(self._lower(value, trail))
        except CodecError:
            raise
        except RecursionError:
            message = f"{_name(value)} is nested too deeply to be stored; {_HINTS}"
            raise CodecError(message) from None
        except Exception as error:
            message = f"{_name(value)} cannot be stored ({error}); {_HINTS}"
            raise CodecError(message) from error

    def _lower(self, value: Any, trail: _Trail) -> Any:
        kind = value.__class__
        atom = _ATOM_RULES.get(kind)
        if atom is not None:
            return trail.put(value) if kind is str and len(value) >= PART_SIZE else atom(value)
        if kind in _BUFFERS and len(value) >= PART_SIZE:
            return trail.put(value)
        marker = id(value)
        if marker in trail:
            message = f"{_name(value)} contains itself, so it cannot be stored; {_HINTS}"
            raise CodecError(message)
        trail.append(marker)
        try:
            if kind is list:
                return [self._lower(item, trail) for item in value]
            if kind is dict:
                return self._lower_dict(value, trail)
            shape = find_shape(value)
            if shape is None:
                return self._pickle(value, trail)
            return shape.lower(value, lambda part: self._lower(part, trail))
        finally:
            trail.pop()

    def _lower_dict(self, value: dict[Any, Any], trail: _Trail) -> Any:
        if _TAG not in value and all(key.__class__ is str and _is_utf8(key) for key in value):
            return {key: self._lower(item, trail) for key, item in value.items()}
        return _tagged(
            "dict", v=[[self._lower(key, trail), self._lower(item, trail)] for key, item in value.items()]
        )

    def _raise(self, value: Any, parts: Sequence[Any]) -> Any:
        if isinstance(value, list):
            return [self._raise(item, parts) for item in cast("list[Any]", value)]
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, Any]", value)
        tag = fields.get(_TAG)
        if tag is None:
            return {key: self._raise(item, parts) for key, item in fields.items()}
        return self._raise_tagged(tag, fields, parts)

    def _raise_tagged(self, tag: str, fields: dict[str, Any], parts: Sequence[Any]) -> Any:
        if tag == "part":
            return parts[fields["i"]]
        if tag == "pickle":
            return self._unpickle(fields, parts)
        if tag == "dict":
            return {self._raise(key, parts): self._raise(item, parts) for key, item in fields["v"]}
        if tag == "kept":
            return self.decode(base64.b64decode(fields["v"]))
        basic = _BASIC.get(tag)
        if basic is not None:
            return basic(fields["v"])
        shape = _BY_TAG.get(tag)
        if shape is None:
            message = f"unknown type tag {tag!r}; was it written with a codec that is not registered here?"
            raise CorruptRecord(message)
        return shape.raise_(fields, lambda part: self._raise(part, parts))

    def _pickle(self, value: Any, trail: _Trail) -> dict[str, Any]:
        if not self.allow_pickle:
            message = (
                f"{_name(value)} could only be pickled, which AGENTFLOW_ALLOW_PICKLE=false forbids; {_HINTS}"
            )
            raise CodecError(message)
        beside: list[memoryview] = []
        try:
            data = pickle.dumps(value, protocol=5, buffer_callback=partial(_keep_inside, beside))
        except Exception as error:
            message = f"{_name(value)} cannot be pickled ({error}); {_HINTS}"
            raise CodecError(message) from error
        self.pickled.add(_name(value))
        found = _tagged("pickle", v=None, seal=self._seal(data, beside))
        found["v"] = trail.put(data) if len(data) >= PART_SIZE else base64.b64encode(data).decode()
        if beside:
            found["b"] = [trail.put(buffer) for buffer in beside]
        return found

    def _unpickle(self, value: dict[str, Any], parts: Sequence[Any]) -> Any:
        if not self.allow_pickle:
            message = (
                "a recorded value is a pickle, which AGENTFLOW_ALLOW_PICKLE=false forbids; it is not read"
            )
            raise CorruptRecord(message)
        data = base64.b64decode(value["v"]) if isinstance(value["v"], str) else self._raise(value["v"], parts)
        beside = [self._raise(item, parts) for item in value.get("b", ())]
        if not hmac.compare_digest(self._seal(data, beside), str(value.get("seal", ""))):
            message = "a recorded pickle is not signed by this installation's key; it is not read"
            raise CorruptRecord(message)
        return _LoadedOnly(io.BytesIO(data), buffers=beside).load()

    def _seal(self, data: bytes, beside: Sequence[Any]) -> str:
        """The signature of a pickle, and of the buffers that belong to it."""
        state = hmac.new(self._key, data, hashlib.sha256)
        for buffer in beside:
            state.update(b"|%d|" % memoryview(buffer).nbytes)
            state.update(buffer)
        return state.hexdigest()


def as_part(data: bytes) -> bytes:
    """What a row could hold of a value as JSON text, for what is stored inside of other JSON."""
    return data if data[0] >= TEXT else KEPT + b'"%b"}' % base64.b64encode(data)


def kept_part(data: bytes) -> bytes | None:
    """What `as_part` was given, where that was not JSON text itself."""
    if not data.startswith(KEPT):
        return None
    return base64.b64decode(orjson.loads(data)["v"])


class _Trail(list[int]):
    """The containers that are being encoded, outermost first; and the large parts found so far."""

    parts: Sequence[Any] = ()

    def put(self, part: Any) -> dict[str, Any]:
        """Keep a part beside the text; returns what stands for it there."""
        self.parts = [*self.parts, part]
        return _tagged("part", i=len(self.parts) - 1)


def _copies(parts: Sequence[Any]) -> Sequence[Any]:
    """Parts that whoever has the original ones cannot change."""
    return [part if part.__class__ in UNCHANGED else _copied(part) for part in parts] if parts else parts


def _copied(part: Any) -> Any:
    return bytes(part) if memoryview(part).readonly else bytearray(part)


def _keep_inside(beside: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Whether a buffer stays in its pickle; a large one is put `beside` it."""
    try:
        view = buffer.raw()
    except BufferError:  # not in one piece
        return True
    if view.nbytes < PART_SIZE:
        return True
    beside.append(view)
    return False


def _unreadable(error: Exception) -> CorruptRecord:
    return CorruptRecord(f"a recorded value cannot be read back ({type(error).__name__}: {error})")


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

    `tag` names the rule in the journal for ever: choose one that no other package takes (``"acme.Thing"``). `decode`
    must not change what it is given.
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
