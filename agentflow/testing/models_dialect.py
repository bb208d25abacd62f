"""What the three provider APIs share: the verbs each must know, the exchange they put into words, token estimates.

The wording itself is in `models_chat`, `models_responses` and `models_messages`, one module for each API.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast

from agentflow.testing.models_script import Fault, JsonObject, Message, ModelRequest, Reply, ToolCall, Usage

#: Every answer's time of creation, in seconds since 1970: fixed, so that equal scripts give equal bytes.
CREATED = 1_767_225_600

#: Bytes of text that count as one token. Providers' tokenizers come near it for English prose; nothing more is claimed.
BYTES_PER_TOKEN = 4

#: Characters of text or arguments in one event of a stream.
PIECE_LENGTH = 16


class UnreadableRequestError(Exception):
    """The request breaks a rule of its API; answered with status 400, as the provider would."""


class UnplayableReplyError(Exception):
    """The script's reply cannot be said in this API; answered with status 500."""


class Dialect(Protocol):
    """One provider API. Each is a module with these functions."""

    @property
    def PATH(self) -> str:  # noqa: N802 - a module's constant
        """The endpoint's path."""
        ...

    def read(self, number: int, body: JsonObject) -> ModelRequest:
        """The request, normalised; raises `UnreadableRequestError`."""
        ...

    def whole(self, exchange: Exchange) -> JsonObject:
        """The reply as one JSON object; raises `UnplayableReplyError`."""
        ...

    def events(self, exchange: Exchange) -> list[bytes]:
        """The reply as server-sent events, the last one being the API's own end mark."""
        ...

    def error(self, number: int, fault: Fault) -> JsonObject:
        """The body of an error status."""
        ...

    def failure(self, exchange: Exchange, fault: Fault, position: int) -> bytes:
        """The event that ends a stream in an error after `position` events."""
        ...


@dataclass(frozen=True)
class Exchange:
    """A request and its reply, with everything filled in that the script left open."""

    request: ModelRequest
    reply: Reply

    def id(self, prefix: str, *positions: int) -> str:
        """An identifier that depends on nothing but the request's number (and a position in the reply)."""
        return "_".join([prefix, str(self.request.number), *map(str, positions)])

    @cached_property
    def calls(self) -> tuple[ToolCall, ...]:
        """The reply's tool calls, each with an id."""
        prefix = "toolu" if self.request.api == "messages" else "call"
        return tuple(
            ToolCall(call.name, call.arguments, call.id or self.id(prefix, position))
            for position, call in enumerate(self.reply.tool_calls, start=1)
        )

    @cached_property
    def usage(self) -> Usage:
        """The script's numbers, or estimates from the normalised texts: equal for JSON and streams."""
        return self.reply.usage or Usage(
            estimated_tokens(_input_texts(self.request)),
            estimated_tokens([self.reply.text, *_call_texts(self.reply.tool_calls)]),
        )


def estimated_tokens(texts: Iterable[str]) -> int:
    """An honest guess: a token for every `BYTES_PER_TOKEN` bytes of UTF-8, rounded up over all `texts` together."""
    return -(-sum(len(text.encode()) for text in texts) // BYTES_PER_TOKEN)


def _input_texts(request: ModelRequest) -> Iterator[str]:
    yield request.instructions
    for message in request.messages:
        yield message.text
        yield from _call_texts(message.tool_calls)
    for tool in request.tools:
        yield from (tool.name, tool.description, compact(tool.parameters))


def _call_texts(calls: Iterable[ToolCall]) -> Iterator[str]:
    for call in calls:
        yield from (call.name, arguments_text(call))


def compact(value: object) -> str:
    """`value` as JSON without spaces; raises `UnplayableReplyError` if it is not made of JSON's types."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UnplayableReplyError(f"not JSON: {error}") from error


def arguments_text(call: ToolCall) -> str:
    """The arguments as the text that OpenAI's APIs carry."""
    return call.arguments if isinstance(call.arguments, str) else compact(dict(call.arguments))


def parsed_arguments(text: str) -> JsonObject | str:
    """Arguments that came as text: the JSON object in it, or the text itself if there is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return cast("JsonObject", value) if isinstance(value, dict) else text


def pieces(text: str) -> list[str]:
    """`text` in the portions of a stream; no portion for no text."""
    return [text[start : start + PIECE_LENGTH] for start in range(0, len(text), PIECE_LENGTH)]


def server_sent(data: object, event: str = "") -> bytes:
    """One server-sent event; `data` that is text already goes out as it is."""
    lines = (data if isinstance(data, str) else compact(data)).split("\n")
    fields = [f"event: {event}"] if event else []
    return "\n".join([*fields, *(f"data: {line}" for line in lines), "", ""]).encode()


def objects(value: object, name: str) -> list[JsonObject]:
    """`value` as a list of JSON objects; None counts as empty."""
    items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else []
    if not (value is None or isinstance(value, list)) or not all(isinstance(item, dict) for item in items):
        raise UnreadableRequestError(f"{name} must be a list of objects")
    return items


def text_of(content: object, name: str, separator: str = "") -> str:
    """The text in a message's content: a plain string, or the ``text`` of those parts that have one."""
    if isinstance(content, str):
        return content
    texts = (part.get("text") for part in objects(content, name))
    return separator.join(text for text in texts if isinstance(text, str))


def required(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field that the API insists on."""
    if not isinstance(body.get(name), kind):
        raise UnreadableRequestError(f"{name} is missing or of the wrong type")
    return body[name]


def matched(messages: Iterable[Message], *, complete: bool = True) -> tuple[Message, ...]:
    """The messages, each tool result with its tool's name.

    Raises `UnreadableRequestError` where every provider refuses: a result that answers no earlier call, two results
    for one call, a call without a result. With ``complete=False`` (the server is said to hold earlier turns) only
    the names are filled in.
    """
    names: dict[str, str] = {}
    answered: set[str] = set()
    result: list[Message] = []
    for message in messages:
        names.update((call.id, call.name) for call in message.tool_calls)
        if message.role != "tool":
            result.append(message)
            continue
        if complete and (message.call_id not in names or message.call_id in answered):
            problem = "comes a second time" if message.call_id in answered else "answers no earlier call"
            raise UnreadableRequestError(f"the tool result for {message.call_id!r} {problem}")
        answered.add(message.call_id)
        result.append(replace(message, tool=names.get(message.call_id, "")))
    if complete and (open_calls := names.keys() - answered):
        raise UnreadableRequestError(f"no tool result for {', '.join(sorted(open_calls))}")
    return tuple(result)
