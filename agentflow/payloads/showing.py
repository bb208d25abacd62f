"""What people are shown of a call's arguments: JSON, in which what nobody can read by eye is cut short.

What is shown is what is signed, so what is cut short is shown with its digest. What has been cut short is no value: see
`find_shortened`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, cast

import orjson
from pydantic_core import to_jsonable_python

LONGEST = 65_536
"""Characters of a text, or of an argument's JSON, that are shown whole."""
_SHOWN = 1000
_SHORTENED = re.compile(r"(?s:.*)\.\.\. \([\d,]+ characters in all, SHA-256 [0-9a-f]{64}\)")


def as_shown(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name as a person sees them: JSON, secrets masked, what JSON does not know as text."""
    plain = {name: _described(value) for name, value in arguments.items()}
    try:
        found = _as_json(plain, "utf8")
    except UnicodeDecodeError:  # somewhere inside there are bytes that are no text
        found = _as_json(plain, "base64")
    return {name: _readable(value) for name, value in found.items()}


def find_shortened(value: Any) -> str | None:
    """A text in shown JSON that was cut short, so that nobody may take it for the value; None where there is none."""
    if isinstance(value, str):
        return value if len(value) > _SHOWN and _SHORTENED.fullmatch(value) else None
    parts: list[Any] = list(cast("dict[str, Any]", value).values()) if isinstance(value, dict) else []
    if isinstance(value, list):
        parts = cast("list[Any]", value)
    return next((found for part in parts if (found := find_shortened(part)) is not None), None)


def _as_json(value: Any, bytes_mode: Any) -> dict[str, Any]:
    return to_jsonable_python(
        value,
        fallback=lambda item: f"<{type(item).__qualname__}>",
        inf_nan_mode="strings",
        bytes_mode=bytes_mode,
    )


def _described(value: Any) -> Any:
    """Bytes that are no text: how many, and their digest."""
    if not isinstance(value, bytes | bytearray | memoryview):
        return value
    data = bytes(cast("Any", value))
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"<{len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}>"


def _readable(value: Any) -> Any:
    found = _without_long_texts(value)
    if isinstance(value, list | dict):
        text = orjson.dumps(found, option=orjson.OPT_SORT_KEYS)
        if len(text) > LONGEST:
            return _shortened(text.decode())
    return found


def _without_long_texts(value: Any) -> Any:
    if isinstance(value, str):
        return _shortened(value) if len(value) > LONGEST else value
    if isinstance(value, list):
        return [_without_long_texts(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _without_long_texts(item) for name, item in cast("dict[str, Any]", value).items()}
    return value


def _shortened(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:_SHOWN]}... ({len(text):,} characters in all, SHA-256 {digest})"
