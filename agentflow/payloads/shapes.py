"""One rule per kind of value that JSON does not know: how it becomes JSON, and how it comes back."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, cast

from pydantic import BaseModel, SecretBytes, SecretStr

from agentflow.errors import CorruptRecord

Part = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A rule of the codec."""

    tag: str
    accepts: Callable[[Any], bool]
    #: (value, how to store a part of it) -> JSON object with "$" = tag
    lower: Callable[[Any, Part], dict[str, Any]]
    #: (that object, how to read a part of it) -> value
    raise_: Callable[[dict[str, Any], Part], Any]


def class_name(kind: type[Any]) -> str:
    """``module:qualname``, with ``__main__`` replaced by the name its file is imported under."""
    module = kind.__module__
    if module == "__main__":
        file = getattr(sys.modules.get("__main__"), "__file__", None)
        module = Path(file).stem if file else module
    return f"{module}:{kind.__qualname__}"


def class_of(value: object) -> str:
    """`class_name` of a value's type."""
    return class_name(type(value))


def find_class(name: str) -> type[Any]:
    """The class of that name in a module that is loaded already. Raises `CorruptRecord` where there is none."""
    module_name, _, qualname = name.partition(":")
    candidates = [sys.modules.get(module_name)]
    main = sys.modules.get("__main__")
    if main is not None and Path(getattr(main, "__file__", None) or "").stem == module_name:
        candidates.append(main)
    for module in candidates:
        found: Any = module
        for part in qualname.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type):
            return found
    message = f"class {name} is recorded but not loaded; import it in the flow's file, or keep its name"
    raise CorruptRecord(message)


def _by_text(
    tag: str, kind: type[Any], read: Callable[[str], Any], write: Callable[[Any], str] = str
) -> Shape:
    return Shape(
        tag,
        lambda value: type(value) is kind,
        lambda value, _: {"$": tag, "v": write(value)},
        lambda data, _: read(data["v"]),
    )


def _bytes(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()


def _moment_lower(value: Any, _: Part) -> dict[str, Any]:
    zone = value.tzinfo
    out = {"$": "datetime" if isinstance(value, dt.datetime) else "time", "v": value.isoformat()}
    if value.fold:
        out["fold"] = value.fold
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        out["zone"] = zone.key
        out["v"] = value.replace(tzinfo=None).isoformat()
    return out


def _moment_raise(data: dict[str, Any], _: Part) -> Any:
    kind = dt.datetime if data["$"] == "datetime" else dt.time
    value = kind.fromisoformat(data["v"])
    if "zone" in data:
        value = value.replace(tzinfo=zoneinfo.ZoneInfo(data["zone"]))
    return value.replace(fold=data.get("fold", 0))


def _moment(kind: type[Any], tag: str) -> Shape:
    def accepts(value: Any) -> bool:
        return type(value) is kind and (
            value.tzinfo is None or isinstance(value.tzinfo, (dt.timezone, zoneinfo.ZoneInfo))
        )

    return Shape(tag, accepts, _moment_lower, _moment_raise)


def _sequence(tag: str, kind: type[Any]) -> Shape:
    def lower(value: Any, go: Part) -> dict[str, Any]:
        return {"$": tag, "v": [go(item) for item in value]}

    return Shape(
        tag, lambda value: type(value) is kind, lower, lambda data, go: kind(go(item) for item in data["v"])
    )


def _set(tag: str, kind: type[Any]) -> Shape:
    def lower(value: Any, go: Part) -> dict[str, Any]:
        return {"$": tag, "v": [go(item) for item in sorted(value, key=repr)]}

    return Shape(
        tag, lambda value: type(value) is kind, lower, lambda data, go: kind(go(item) for item in data["v"])
    )


def _enum_lower(value: Any, _: Part) -> dict[str, Any]:
    if value.name is None or "|" in value.name:
        return {"$": "enum", "c": class_of(value), "v": value.value}
    return {"$": "enum", "c": class_of(value), "n": value.name}


def _enum_raise(data: dict[str, Any], _: Part) -> Any:
    kind: Any = find_class(data["c"])
    return kind[data["n"]] if "n" in data else kind(data["v"])


def _fields_lower(value: Any, go: Part) -> dict[str, Any]:
    return {
        "$": "dataclass",
        "c": class_of(value),
        "v": {
            item.name: go(getattr(value, item.name))
            for item in dataclasses.fields(value)
            if hasattr(value, item.name)
        },
    }


def _fields_raise(data: dict[str, Any], go: Part) -> Any:
    value = object.__new__(find_class(data["c"]))
    for name, item in data["v"].items():
        object.__setattr__(value, name, go(item))
    return value


def _plain_dataclass(value: Any) -> bool:
    kind = cast("Any", type(value))
    if not dataclasses.is_dataclass(kind) or isinstance(value, (BaseException, list, dict, str, int, tuple)):
        return False
    names = {item.name for item in dataclasses.fields(kind)}
    return not (set(getattr(value, "__dict__", ())) - names)


def _model_lower(value: Any, go: Part) -> dict[str, Any]:
    out: dict[str, Any] = {"$": "model", "c": class_of(value)}
    out["v"] = {name: go(item) for name, item in value.__dict__.items()}
    if value.__pydantic_extra__:
        out["x"] = {name: go(item) for name, item in value.__pydantic_extra__.items()}
    if value.__pydantic_private__:
        out["p"] = {name: go(item) for name, item in value.__pydantic_private__.items()}
    out["f"] = sorted(value.__pydantic_fields_set__)
    return out


def _model_raise(data: dict[str, Any], go: Part) -> Any:
    kind: Any = find_class(data["c"])
    value = kind.__new__(kind)
    extra: dict[str, Any] | None = {name: go(item) for name, item in data.get("x", {}).items()}
    private: dict[str, Any] | None = {name: go(item) for name, item in data.get("p", {}).items()}
    object.__setattr__(value, "__dict__", {name: go(item) for name, item in data["v"].items()})
    object.__setattr__(value, "__pydantic_fields_set__", set(data["f"]))
    object.__setattr__(
        value, "__pydantic_extra__", extra if kind.model_config.get("extra") == "allow" else None
    )
    object.__setattr__(value, "__pydantic_private__", private if kind.__private_attributes__ else None)
    return value


def _is_plain_model(value: Any) -> bool:
    return isinstance(value, BaseModel) and "__new__" not in type(value).__dict__


def _secret_raise(data: dict[str, Any], _: Part) -> Any:
    message = f"a secret cannot be read from the journal: {data['$']}"
    raise CorruptRecord(message)


def _secret_lower(value: Any, _: Part) -> dict[str, Any]:
    message = (
        f"a {type(value).__name__} is a secret and secrets are never recorded: "
        "read it where it is used, or set persist_result=False"
    )
    raise ValueError(message)


def _named_tuple_lower(value: Any, go: Part) -> dict[str, Any]:
    return {"$": "namedtuple", "c": class_of(value), "v": [go(item) for item in value]}


def _named_tuple_raise(data: dict[str, Any], go: Part) -> Any:
    kind: Any = find_class(data["c"])
    return kind._make(go(item) for item in data["v"])


def _delta(value: Any, _: Part) -> dict[str, Any]:
    return {"$": "timedelta", "v": [value.days, value.seconds, value.microseconds]}


def _class_lower(value: Any, _: Part) -> dict[str, Any]:
    return {"$": "class", "v": class_name(value)}


def exception_parts(value: BaseException) -> Mapping[str, Any]:
    """The attributes of an exception that its class set beyond ``args``."""
    return {name: item for name, item in vars(value).items() if not name.startswith("__")}


_PATHS: dict[str, type[PurePath]] = {
    "": type(Path()),
    "posix": PurePosixPath,
    "windows": PureWindowsPath,
}


def _path_lower(value: Any, _: Part) -> dict[str, Any]:
    out = {"$": "path", "v": str(value)}
    kind = next(name for name, kind in _PATHS.items() if type(value) is kind)
    return out | {"kind": kind} if kind else out


def _path_raise(data: dict[str, Any], _: Part) -> Any:
    return _PATHS[data.get("kind", "")](data["v"])


SHAPES: list[Shape] = [
    _sequence("tuple", tuple),
    _set("set", set),
    _set("frozenset", frozenset),
    _by_text("bytes", bytes, base64.b64decode, _bytes),
    _by_text("bytearray", bytearray, lambda text: bytearray(base64.b64decode(text)), _bytes),
    _by_text("decimal", Decimal, Decimal),
    _by_text("fraction", Fraction, Fraction),
    _by_text("complex", complex, complex),
    _by_text("uuid", uuid.UUID, uuid.UUID),
    _by_text("date", dt.date, dt.date.fromisoformat),
    _moment(dt.datetime, "datetime"),
    _moment(dt.time, "time"),
    Shape(
        "timedelta",
        lambda value: type(value) is dt.timedelta,
        _delta,
        lambda data, _: dt.timedelta(*data["v"]),
    ),
    Shape("path", lambda value: type(value) in _PATHS.values(), _path_lower, _path_raise),
    Shape("secret", lambda value: isinstance(value, (SecretStr, SecretBytes)), _secret_lower, _secret_raise),
    Shape("enum", lambda value: isinstance(value, enum.Enum), _enum_lower, _enum_raise),
    Shape(
        "class", lambda value: isinstance(value, type), _class_lower, lambda data, _: find_class(data["v"])
    ),
    Shape("model", _is_plain_model, _model_lower, _model_raise),
    Shape("dataclass", _plain_dataclass, _fields_lower, _fields_raise),
    Shape(
        "namedtuple",
        lambda value: isinstance(value, tuple) and hasattr(cast("Any", value), "_fields"),
        _named_tuple_lower,
        _named_tuple_raise,
    ),
]
