"""What clients of optional libraries are not given."""

from __future__ import annotations

from typing import Any

from agentflow.errors import UsageError


def refuse_http_client(options: dict[str, Any]) -> None:
    """Raise `UsageError` where a client brings its own HTTP client, whose requests nobody would record."""
    if "http_client" in options:
        message = "http_client= would bypass the journal; pass transport= (what sends the requests) instead"
        raise UsageError(message)
