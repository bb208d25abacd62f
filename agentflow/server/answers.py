"""Answers: JSON, and errors as JSON or as a page. An error says what to do next and never shows a traceback."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from agentflow.errors import (
    AgentflowError,
    CodecError,
    DecisionRefusedError,
    DefinitionError,
    DeploymentNotFoundError,
    DeploymentPausedError,
    FlowNotFoundError,
    LimitNotFoundError,
    ParameterError,
    RunFinishedError,
    RunNotFoundError,
    RunOwnedError,
    RunStateError,
    UsageError,
    WaitNotFoundError,
)
from agentflow.server.rendering import render

_STATUS: dict[type[AgentflowError], int] = {
    RunNotFoundError: 404,
    WaitNotFoundError: 404,
    FlowNotFoundError: 404,
    DeploymentNotFoundError: 404,
    LimitNotFoundError: 404,
    DeploymentPausedError: 409,
    RunFinishedError: 409,
    RunOwnedError: 409,
    RunStateError: 409,
    DecisionRefusedError: 409,
    ParameterError: 422,
    DefinitionError: 422,
    CodecError: 422,
    UsageError: 400,
}


class JSON(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of `content`."""
        return orjson.dumps(content, default=str)


def wants_page(request: Request) -> bool:
    """Whether an answer is looked at by a person."""
    path = request.url.path
    if path.startswith(("/api/", "/static/")) or path in ("/health", "/api"):
        return False
    return "text/html" in request.headers.get("accept", "")


def error_response(request: Request, status: int, kind: str, message: str) -> Response:
    """An error, as the caller can read it best."""
    if wants_page(request):
        title = {403: "Refused", 404: "Not found", 409: "Too late", 500: "Something broke here"}.get(
            status, HTTPStatus(status).phrase
        )
        return render(
            request, "error.html", {"title": title, "message": message, "status": status}, status=status
        )
    return JSON({"error": {"type": kind, "message": message}}, status)


def on_http_error(request: Request, error: Exception) -> Response:
    """What routing and parsing refuse."""
    if not isinstance(error, HTTPException):
        return crash_response(request)
    names = {404: "NotFound", 405: "MethodNotAllowed"}
    message = error.detail
    if error.status_code == 404 and message == "Not Found":  # noqa: PLR2004
        message = "there is nothing here"
    response = error_response(request, error.status_code, names.get(error.status_code, "BadRequest"), message)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def on_agentflow_error(request: Request, error: Exception) -> Response:
    """What the library refuses."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return error_response(request, status, type(error).__name__, str(error))


def crash_response(request: Request) -> Response:
    """A defect: the server's own log has the traceback, the caller only hears of it."""
    return error_response(request, 500, "InternalError", "the server failed at this; its log says why")
