"""Fields of an elicitation form: the part of JSON schema that clients can show, and what of a schema fits into it.

Source: MCP, client features, elicitation, "Requested schema": a flat object of strings, numbers, booleans and enums.
No wait, no decision and no wire type belongs here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

Schema = dict[str, Any]

_FORMATS = frozenset({"date", "date-time", "email", "uri"})
#: Longer texts are shown in the message and cannot be edited in the form.
LONGEST_TEXT = 2_000
_BOUNDS = ("minimum", "maximum")
_LENGTHS = ("minLength", "maxLength")


def resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Schema:
    """The schema itself, or what its local ``$ref`` points at; ``{}`` for a reference that leads nowhere."""
    seen: set[str] = set()
    current: Mapping[str, Any] = schema
    while isinstance(pointer := current.get("$ref"), str):
        if pointer in seen:
            return {}
        seen.add(pointer)
        found: Any = root
        for part in pointer.removeprefix("#").strip("/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            found = cast("Mapping[str, Any]", found).get(name) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            return {}
        current = {
            **cast("Mapping[str, Any]", found),
            **{key: item for key, item in current.items() if key != "$ref"},
        }
    return dict(current)


def field_of(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Schema | None:
    """The form field for a schema; None where a form cannot show it."""
    whole = resolve(schema, root)
    for options in (whole.get("anyOf"), whole.get("oneOf")):
        if isinstance(options, list):
            return _titled_choice(whole, cast("list[Any]", options)) or _either(
                whole, cast("list[Any]", options), root
            )
    values = whole.get("enum", [whole["const"]] if "const" in whole else None)
    if isinstance(values, list):
        listed = cast("list[Any]", values)
        return _named(whole, {"type": "string", "enum": listed}) if _are_texts(listed) else None
    kind = whole.get("type")
    if kind == "boolean":
        return _named(whole, {"type": "boolean"})
    if kind in ("integer", "number"):
        return _named(whole, {"type": kind, **{key: whole[key] for key in _BOUNDS if key in whole}})
    if kind == "string":
        text: Schema = {"type": "string", **{key: whole[key] for key in _LENGTHS if key in whole}}
        if whole.get("format") in _FORMATS:
            text["format"] = whole["format"]
        return _named(whole, text)
    return None


def argument_field(schema: Mapping[str, Any], root: Mapping[str, Any], proposed: object) -> Schema | None:
    """The form field in which a proposed argument can be edited, filled in with it; None where a form cannot."""
    if proposed is None or (isinstance(proposed, str) and len(proposed) > LONGEST_TEXT):
        return None
    field = field_of(schema, root)
    if field is None or not _fits(field["type"], proposed):
        field = _by_value(schema, root, proposed)
    if field is None or ("enum" in field and proposed not in field["enum"]):
        return None
    return {**field, "default": proposed}


def _titled_choice(whole: Schema, options: list[Any]) -> Schema | None:
    """``oneOf`` of constants with titles: an enum whose choices have names."""
    constants = [
        cast("Schema", option) for option in options if isinstance(option, dict) and "const" in option
    ]
    if len(constants) != len(options) or not _are_texts([option["const"] for option in constants]):
        return None
    named = [
        {"const": option["const"], "title": str(option.get("title", option["const"]))} for option in constants
    ]
    return _named(whole, {"type": "string", "oneOf": named})


def _either(whole: Schema, options: list[Any], root: Mapping[str, Any]) -> Schema | None:
    """The one branch of a union that is not null."""
    listed = [cast("Schema", option) for option in options if isinstance(option, dict)]
    rest = [option for option in listed if option.get("type") != "null"]
    if len(rest) != 1 or len(listed) != len(options):
        return None
    inner = field_of(rest[0], root)
    return None if inner is None else _named(whole, inner)


def _by_value(schema: Mapping[str, Any], root: Mapping[str, Any], proposed: object) -> Schema | None:
    """The branch of a union (``number | string`` of a Decimal) that the proposed value belongs to."""
    whole = resolve(schema, root)
    for option in cast("list[Any]", whole.get("anyOf") or []):
        field = field_of(cast("Schema", option), root) if isinstance(option, dict) else None
        if field is not None and _fits(field["type"], proposed):
            return _named(whole, field)
    return None


def _fits(kind: str, value: object) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int):
        return kind in ("integer", "number")
    if isinstance(value, float):
        return kind == "number"
    return isinstance(value, str) and kind == "string"


def _are_texts(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _named(whole: Schema, field: Schema) -> Schema:
    named = {key: whole[key] for key in ("title", "description") if isinstance(whole.get(key), str)}
    return {**field, **named}
