"""Request bodies: bounded, of the content type they say, read once by the guard and parsed here."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import parse_qsl

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive

BODY_LIMIT = 2 * 1024 * 1024
_FIELD_LIMIT = 500
JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"


async def read_body(receive: Receive, declared: str | None, *, limit: int = BODY_LIMIT) -> bytes:
    """The whole body. Raises `HTTPException` 413 beyond the limit, 400 where the client went away."""
    if declared is not None and (not declared.isdigit() or int(declared) > limit):
        raise HTTPException(413, f"the body may have {limit} bytes")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise HTTPException(400, "the body ended early")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise HTTPException(413, f"the body may have {limit} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def content_type(header: str) -> str:
    """The media type of a Content-Type header, without its parameters."""
    return header.partition(";")[0].strip().lower()


def parse_form(body: bytes) -> dict[str, str]:
    """The fields of a form; of a repeated one the last value. Raises `HTTPException` 400."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=_FIELD_LIMIT,
        )
    except ValueError:
        raise HTTPException(400, "the form cannot be read") from None
    return dict(pairs)


def form_of(request: Request) -> dict[str, str]:
    """The form that the guard has read."""
    return cast("dict[str, str]", request.state.form)


def json_object(request: Request) -> dict[str, Any]:
    """The JSON object in the body; {} for an empty body. Raises `HTTPException` 400, 415."""
    body: bytes = request.state.body
    if not body:
        return {}
    if content_type(request.headers.get("content-type", "")) != JSON_TYPE:
        raise HTTPException(415, f"send {JSON_TYPE}")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return cast("dict[str, Any]", value)


def text_member(body: dict[str, Any], name: str, default: str = "") -> str:
    """A member of a JSON body that must be text. Raises `HTTPException` 400."""
    value = body.get(name, default)
    if not isinstance(value, str):
        raise HTTPException(400, f"{name!r} must be a string")
    return value


def object_member(body: dict[str, Any], name: str) -> dict[str, Any]:
    """A member of a JSON body that must be an object by parameter name; {} where there is none.

    Raises `HTTPException` 400.
    """
    value: Any = body.get(name, {})
    if not isinstance(value, dict):
        raise HTTPException(400, f"{name!r} must be a JSON object by parameter name")
    return cast("dict[str, Any]", value)
