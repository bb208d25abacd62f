"""Forms made from JSON schemas: what a person may edit, and back to JSON without changing what was not touched.

A value is edited as text where the text says all of it; everything else (objects, lists, text with characters that no
browser keeps or nobody sees) as JSON. A field whose text is unchanged gives back the very value it was made from.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

import jsonschema
import orjson

from agentflow.server.rendering import pretty_json

_LONG = 70
MISSING: Any = object()
"""No value at all; null is one."""
_REFERENCES = 20
_HARMLESS = "\u00ad\u200c\u200d"
"""Soft hyphen, and the joiners of emoji and of several scripts."""


class Control(StrEnum):
    """How a field is edited."""

    LINE = "line"
    LONG = "long"
    INTEGER = "integer"
    NUMBER = "number"
    CHOICE = "choice"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form."""

    name: str
    label: str
    control: Control
    #: What stands in it.
    text: str
    description: str = ""
    required: bool = True
    #: The JSON of each value that may be chosen.
    choices: tuple[str, ...] = ()
    error: str = ""
    #: Something the reader could overlook.
    warning: str = ""
    #: What the text was made from.
    original: Any = MISSING
    shown: str = ""
    nullable: bool = False

    @property
    def kind(self) -> str:
        """What to write into it, in a word."""
        words = {
            "line": "text",
            "long": "text",
            "integer": "whole number",
            "number": "number",
            "json": "JSON",
        }
        return words.get(self.control, "") + (", may be empty" if self.nullable or not self.required else "")

    @property
    def is_touched(self) -> bool:
        """Whether its text is not the one it was made with."""
        return self.text != self.shown


def fields_of(schema: Mapping[str, Any], values: Mapping[str, Any] | None) -> list[Field]:
    """The fields of an object: of `values` as they are (None: of the schema's defaults)."""
    properties: dict[str, Any] = dict(schema.get("properties", {}))
    required = schema.get("required", [])
    names = (
        list(properties)
        if values is None
        else [*values, *(name for name in properties if name not in values)]
    )
    fields: list[Field] = []
    for name in names:
        part = properties.get(name, {})
        value = part.get("default", MISSING) if values is None else values.get(name, MISSING)
        fields.append(field_of(name, part, value, schema, required=name in required))
    return fields


def field_of(
    name: str, part: Mapping[str, Any], value: Any, root: Mapping[str, Any], *, required: bool
) -> Field:
    """One field. `part` is its schema within `root`."""
    resolved, nullable = _resolve(part, root)
    control, choices = _control(resolved, value)
    text = (
        "" if value is MISSING or (value is None and control is not Control.JSON) else _text(control, value)
    )
    if value is MISSING and control is Control.CHOICE and not required:
        choices = ("", *choices)
    return Field(
        name=name,
        label=str(part.get("title") or resolved.get("title") or name.replace("_", " ").strip().capitalize()),
        control=control,
        text=text,
        description=str(part.get("description") or resolved.get("description") or ""),
        required=required and not nullable,
        choices=choices,
        warning=_warning(value),
        original=value,
        shown=text,
        nullable=nullable,
    )


def fill(fields: list[Field], form: Mapping[str, str]) -> list[Field]:
    """The fields with the text of a submitted form."""
    out: list[Field] = []
    for field in fields:
        text = form.get(f"field.{field.name}", field.text).replace("\r\n", "\n")
        out.append(replace(field, text=text))
    return out


def with_error(field: Field, error: str) -> Field:
    """The field with what is wrong in it."""
    return replace(field, error=error)


def read(fields: list[Field], schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[Field], str]:
    """The values of a form; the fields with what is wrong in them; what is wrong with the whole."""
    values: dict[str, Any] = {}
    checked: list[Field] = []
    for field in fields:
        value, error = _value(field)
        checked.append(replace(field, error=error))
        if value is not MISSING:
            values[field.name] = value
    if any(field.error for field in checked) or not schema:
        return values, checked, ""
    faults = _faults(schema, values)
    checked = [replace(field, error=faults.pop(field.name, "")) for field in checked]
    return values, checked, "; ".join(faults.values())


def _faults(schema: Mapping[str, Any], values: Any) -> dict[str, str]:
    """What does not fit, by the field it is in ("" = the whole)."""
    found: dict[str, str] = {}
    validator: Any = jsonschema.Draft202012Validator(schema)
    for fault in validator.iter_errors(values):
        path = [str(part) for part in fault.absolute_path]
        name = path[0] if path else ""
        where = f"{'.'.join(path[1:])}: " if path[1:] else ""
        found.setdefault(name, where + fault.message[:300])
    return found


def _resolve(part: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A schema with its references and its "or null" taken away, and whether null is allowed."""
    schema: dict[str, Any] = dict(part)
    nullable = False
    for _ in range(_REFERENCES):
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            target = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
            schema = {**target, **{key: item for key, item in schema.items() if key != "$ref"}}
            continue
        options = cast("list[dict[str, Any]]", schema.get("anyOf") or schema.get("oneOf") or [])
        others = [option for option in options if option.get("type") != "null"]
        nullable = nullable or len(others) < len(options)
        if len(others) != 1:
            break
        schema = {**{key: item for key, item in schema.items() if key not in ("anyOf", "oneOf")}, **others[0]}
    return schema, nullable


def _control(schema: Mapping[str, Any], value: Any) -> tuple[Control, tuple[str, ...]]:
    kinds = {option.get("type") for option in schema.get("anyOf", [])} or {schema.get("type")}
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if kinds == {"boolean"}:
        choices = [True, False]
    if choices is not None and (value is MISSING or value is None or value in choices):
        return Control.CHOICE, tuple(json.dumps(choice, ensure_ascii=False) for choice in choices)
    absent = value is MISSING or value is None
    if "string" in kinds and kinds <= {"string", "number", "integer"} and (absent or isinstance(value, str)):
        return _text_control(value, schema), ()  # a Decimal may be a number or a string: a string stays one
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kinds == {"integer"} and (absent or (is_number and isinstance(value, int))):
        return Control.INTEGER, ()
    if kinds <= {"number", "integer", "string"} and kinds & {"number", "integer"} and (absent or is_number):
        return Control.NUMBER, ()
    if kinds == {None} and isinstance(value, str):  # no schema says otherwise
        return _text_control(value, schema), ()
    return Control.JSON, ()


def _text_control(value: Any, schema: Mapping[str, Any]) -> Control:
    if isinstance(value, str) and not _survives(value):
        return Control.JSON
    long = isinstance(value, str) and (len(value) > _LONG or "\n" in value)
    return Control.LONG if long or schema.get("maxLength", 0) > _LONG * 3 else Control.LINE


def _survives(text: str) -> bool:
    """Whether a text comes back from a browser as it went, and a reader sees all of it."""
    return not any(_is_hidden(letter) for letter in text)


def _is_hidden(letter: str) -> bool:
    return letter not in "\n\t" and (unicodedata.category(letter) in ("Cc", "Cs") or is_deceptive(letter))


def is_deceptive(letter: str) -> bool:
    """Whether a character is invisible or turns the reading direction."""
    return unicodedata.category(letter) in ("Cf", "Zl", "Zp") and letter not in _HARMLESS


def _warning(value: Any) -> str:
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
        if value is not MISSING
        else ""
    )
    return "contains characters that cannot be seen; they are shown as \\u...." if not _survives(text) else ""


def _text(control: Control, value: Any) -> str:
    if control in (Control.LINE, Control.LONG):
        return str(value)
    if control is Control.JSON:
        text = pretty_json(value)
        return "".join(_escaped(letter) if _is_hidden(letter) else letter for letter in text)
    return json.dumps(value, ensure_ascii=False)


def _escaped(letter: str) -> str:
    return json.dumps(letter)[1:-1]


def _value(field: Field) -> tuple[Any, str]:  # noqa: PLR0911 - one way out for each kind of field
    """The value of a field's text, and what is wrong with it; `MISSING` = leave the field out."""
    text = field.text
    if text == field.shown and field.original is not MISSING:
        return field.original, ""
    is_text = field.control in (Control.LINE, Control.LONG)
    if not text.strip() and not (is_text and field.original is not MISSING and field.original is not None):
        if field.nullable:
            return None, ""
        if not field.required:
            return MISSING, ""
        return ("", "") if is_text else (MISSING, "is needed")
    if is_text:
        return text, ""
    if field.control is Control.CHOICE:
        return (json.loads(text), "") if text in field.choices else (MISSING, "is not one of the choices")
    return _parsed(field.control, text)


def _parsed(control: Control, text: str) -> tuple[Any, str]:
    """What is not text, from its JSON."""
    words = {Control.INTEGER: "is not a whole number", Control.NUMBER: "is not a number"}
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return MISSING, words.get(control, f"is not valid JSON: {error}")
    if control is not Control.JSON:
        kinds = int if control is Control.INTEGER else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return MISSING, words[control]
    return (
        (value, "")
        if _is_storable(value)
        else (MISSING, "has a number or a character that JSON cannot carry")
    )


def _is_storable(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def _refuse(text: str) -> Any:
    message = f"{text} is no JSON value"
    raise ValueError(message)
