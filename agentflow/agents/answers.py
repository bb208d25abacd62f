"""Answers of model APIs as they are recorded, and what can be read from them: did it end well, which model, what usage.

Knows the wording of OpenAI's chat completions and responses and of Anthropic's messages. No HTTP client, no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from agentflow.agents.usage import Usage, model_detail, usage_reported

#: How a path ends -> (provider, operation). The first that fits counts.
_OPERATIONS = {
    "/chat/completions": ("openai", "chat"),
    "/responses": ("openai", "responses"),
    "/embeddings": ("openai", "embeddings"),
    "/completions": ("openai", "completions"),
    "/messages": ("anthropic", "messages"),
}
#: Types of the events that end a stream well, and of those that end it in an error.
_LAST = frozenset({"message_stop", "response.completed", "response.incomplete"})
_FAILED = frozenset({"error", "response.failed"})

#: Response headers that are recorded and that the client sees: none that could hold a secret.
_KEPT = frozenset({"content-type", "openai-processing-ms", "openai-version", "request-id", "x-request-id"})
_KEPT_PREFIXES = ("anthropic-ratelimit-", "retry-after", "x-ratelimit-", "x-should-retry")

_ERROR_STATUS = 400


def operation_of(path: str) -> tuple[str, str]:
    """Whose API a path belongs to (empty if unknown), and what it asks for."""
    for suffix, known in _OPERATIONS.items():
        if path.endswith(suffix):
            return known
    return "", path.rstrip("/").rpartition("/")[2]


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The response headers that may be recorded, by lower-case name."""
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower() in _KEPT or name.lower().startswith(_KEPT_PREFIXES)
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer of a model's API."""

    status: int
    headers: dict[str, str]
    #: The decoded content: text, or bytes where it is no UTF-8.
    body: str | bytes = ""

    @property
    def content(self) -> bytes:
        """The decoded content."""
        return self.body.encode() if isinstance(self.body, str) else self.body

    @property
    def is_error(self) -> bool:
        """Whether its status says that the request failed."""
        return self.status >= _ERROR_STATUS

    @property
    def is_stream(self) -> bool:
        """Whether its content is a stream of server-sent events."""
        return "text/event-stream" in self.headers.get("content-type", "")

    def with_content(self, content: bytes) -> Answer:
        """The same answer with this content."""
        try:
            return Answer(self.status, self.headers, content.decode())
        except UnicodeDecodeError:
            return Answer(self.status, self.headers, content)

    def detail(self, path: str, model: str) -> dict[str, Any]:
        """The detail of the step's row: provider, operation, model (as answered, else as asked) and usage."""
        reader = EventReader()
        if self.is_stream:
            reader.feed(self.content + b"\n\n")
        else:
            reader.take(_object(self.content))
        provider, operation = operation_of(path)
        return model_detail(
            provider=provider, operation=operation, model=reader.model or model, usage=reader.usage
        )


class EventReader:
    """Reads server-sent events as they arrive: whether the last one has come, and what they say of model and usage."""

    def __init__(self) -> None:
        #: The last event has arrived.
        self.is_complete = False
        #: An event said that the answer failed, and by these words (types, codes).
        self.is_failed = False
        self.error_words: set[str] = set()
        #: Nothing more needs to come, although the last event may be missing (some servers do not send it).
        self.may_end = False
        self.model = ""
        self._usage: dict[str, Any] = {}
        self._line = b""
        self._data: list[bytes] = []

    @property
    def usage(self) -> Usage:
        """The usage reported so far."""
        return usage_reported(self._usage)

    def feed(self, portion: bytes) -> None:
        """Take in bytes of the stream."""
        *lines, self._line = (self._line + portion).split(b"\n")
        for line in lines:
            self._read(line.rstrip(b"\r"))

    def _read(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].strip())
        elif not line and self._data:
            data = b"\n".join(self._data)
            self._data.clear()
            if data == b"[DONE]":
                self.is_complete = True
            else:
                self.take(_object(data))

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in one event, or a whole JSON answer."""
        kind = event.get("type")
        self.is_complete |= kind in _LAST
        if kind in _FAILED or (kind is None and event.get("error")):
            self.is_failed = True
            self._note_error(event)
        choices: list[Any] = event["choices"] if isinstance(event.get("choices"), list) else []
        self.may_end |= any(
            isinstance(choice, dict) and cast("Any", choice).get("finish_reason") for choice in choices
        )
        for part in (event, event.get("response"), event.get("message")):
            if isinstance(part, Mapping):
                self._note(cast("Mapping[str, Any]", part))

    def _note_error(self, event: Mapping[str, Any]) -> None:
        response: Mapping[str, Any] = event.get("response") or {}
        for part in (event, event.get("error"), response.get("error")):
            if isinstance(part, Mapping):
                words = cast("Mapping[str, Any]", part)
                self.error_words |= {
                    word for name in ("type", "code") if isinstance(word := words.get(name), str)
                }

    def _note(self, part: Mapping[str, Any]) -> None:
        model, usage = part.get("model"), part.get("usage")
        if isinstance(model, str):
            self.model = model
        if isinstance(usage, dict):  # Anthropic tells it in two events, which complete each other
            found = cast("dict[str, Any]", usage)
            self._usage.update({name: count for name, count in found.items() if count is not None})


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
