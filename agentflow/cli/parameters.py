"""Values from the command line: ``name=value`` as the schema of what they are for reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from agentflow.errors import ParameterError

JsonSchema = dict[str, Any]


def read_json(text: str, option: str) -> Any:
    """The value of a JSON text. Raises `ParameterError` naming `option`."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        message = f"{option} is not JSON: {error}; got {text!r:.80}"
        raise ParameterError(message) from None


def read_object(text: str | None, option: str) -> dict[str, Any]:
    """The JSON object of an option; {} where it was not given."""
    if text is None:
        return {}
    value = read_json(text, option)
    if not isinstance(value, dict):
        message = f"{option} wants a JSON object by name, such as '{{\"name\": 1}}'; got {text!r:.80}"
        raise ParameterError(message)
    return value  # pyright: ignore[reportUnknownVariableType]


def read_pairs(pairs: Sequence[str], schema: JsonSchema, option: str) -> dict[str, Any]:
    """``name=value`` texts as values by name.

    Where the schema takes text, the text is the value; elsewhere it is read as JSON, if it is JSON. A name that is
    given several times makes a list, where the schema wants one. Raises `ParameterError`.
    """
    texts: dict[str, list[str]] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            message = f"{option} wants name=value, not {pair!r:.80}"
            raise ParameterError(message)
        texts.setdefault(name, []).append(text)
    found: dict[str, Any] = {}
    for name, given in texts.items():
        wanted = _resolve(schema.get("properties", {}).get(name, {}), schema)
        items = _items(wanted, schema)
        if items is None and len(given) > 1:
            message = f"{option} {name} is given {len(given)} times"
            raise ParameterError(message)
        found[name] = _read(given[0], wanted, schema)
        if items is not None and (len(given) > 1 or isinstance(found[name], str)):
            found[name] = [_read(text, items, schema) for text in given]
    return found


def _items(wanted: JsonSchema, schema: JsonSchema) -> JsonSchema | None:
    """The schema of a list's items; None where no list is wanted, or text would do as well."""
    if _takes_text(wanted, schema):
        return None
    options = [wanted, *wanted.get("anyOf", ())]
    lists = [
        option for option in (_resolve(option, schema) for option in options) if option.get("type") == "array"
    ]
    return _resolve(lists[0].get("items", {}), schema) if lists else None


def _read(text: str, wanted: JsonSchema, schema: JsonSchema) -> Any:
    if wanted and _takes_text(wanted, schema):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _resolve(wanted: JsonSchema, schema: JsonSchema) -> JsonSchema:
    reference = wanted.get("$ref", "")
    if reference.startswith("#/$defs/"):
        return schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    return wanted


def _takes_text(wanted: JsonSchema, schema: JsonSchema) -> bool:
    wanted = _resolve(wanted, schema)
    if isinstance(wanted.get("const"), str) or any(isinstance(item, str) for item in wanted.get("enum", ())):
        return True
    options = [*wanted.get("anyOf", ()), *wanted.get("oneOf", ())]
    if options:
        return any(_takes_text(option, schema) for option in options)
    kind = wanted.get("type")
    return "string" in kind if isinstance(kind, list) else kind == "string"
