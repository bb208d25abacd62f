"""Anthropic's messages in words: ``POST /v1/messages``. Text and tool use; no thinking, no server-side tools."""

from __future__ import annotations

from collections.abc import Iterator

from agentflow.testing.models_dialect import (
    Exchange,
    UnplayableReplyError,
    UnreadableRequestError,
    arguments_text,
    compact,
    matched,
    objects,
    parsed_arguments,
    pieces,
    required,
    server_sent,
    text_of,
)
from agentflow.testing.models_script import Fault, JsonObject, Message, ModelRequest, ToolCall, ToolOffer

PATH = "/v1/messages"

#: Status -> type of the error object.
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def read(number: int, body: JsonObject) -> ModelRequest:
    """The request, normalised; tool results come out of the user messages that carry them, in front of their text."""
    required(body, "max_tokens", int)
    instructions = [text_of(body.get("system"), "system", separator="\n\n")]
    messages: list[Message] = []
    for position, item in enumerate(objects(required(body, "messages", list), "messages")):
        name = f"messages[{position}]"
        match item.get("role"):
            case "system":
                instructions.append(text_of(item.get("content"), name, separator="\n\n"))
            case "user":
                messages.extend(_user(item, name))
            case "assistant":
                text = text_of(item.get("content"), name)
                messages.append(Message("assistant", text, tuple(_calls(item, name))))
            case role:
                raise UnreadableRequestError(f"{name}.role {role!r} is unknown")
    return ModelRequest(
        number=number,
        api="messages",
        model=required(body, "model"),
        instructions="\n\n".join(text for text in instructions if text),
        messages=matched(messages),
        tools=tuple(
            ToolOffer(required(item, "name"), item.get("description") or "", item["input_schema"])
            for item in objects(body.get("tools"), "tools")
            if "input_schema" in item
        ),
        stream=body.get("stream") is True,
        body=body,
    )


def _user(item: JsonObject, name: str) -> Iterator[Message]:
    content = item.get("content")
    parts: list[JsonObject] = [] if isinstance(content, str) else objects(content, f"{name}.content")
    results = [part for part in parts if part.get("type") == "tool_result"]
    for part in results:
        text = text_of(part.get("content"), f"{name}.content")
        yield Message(
            "tool", text, call_id=required(part, "tool_use_id"), is_error=part.get("is_error") is True
        )
    text = text_of(content, name)
    if text or not results:
        yield Message("user", text)


def _calls(item: JsonObject, name: str) -> Iterator[ToolCall]:
    if not isinstance(item.get("content"), str):
        for part in objects(item.get("content"), f"{name}.content"):
            if part.get("type") == "tool_use":
                yield ToolCall(required(part, "name"), required(part, "input", dict), required(part, "id"))


def _blocks(exchange: Exchange) -> list[JsonObject]:
    """The content: the text if there is any (or nothing else), then the tool calls."""
    blocks: list[JsonObject] = []
    if exchange.reply.text or not exchange.calls:
        blocks.append({"type": "text", "text": exchange.reply.text})
    for call in exchange.calls:
        arguments = parsed_arguments(arguments_text(call))
        if isinstance(arguments, str):
            raise UnplayableReplyError(
                f"Anthropic's API carries arguments as an object, not as {arguments!r}"
            )
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
    return blocks


def whole(exchange: Exchange) -> JsonObject:
    """The reply as a ``message``."""
    return {
        **_unfinished(exchange, exchange.usage.output_tokens),
        "content": _blocks(exchange),
        "stop_reason": _stop_reason(exchange),
    }


def _stop_reason(exchange: Exchange) -> str:
    return "tool_use" if exchange.calls else "end_turn"


def _unfinished(exchange: Exchange, output_tokens: int) -> JsonObject:
    usage = exchange.usage
    return {
        "id": exchange.id("msg"),
        "type": "message",
        "role": "assistant",
        "model": exchange.request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.input_tokens - usage.cached_tokens,
            "cache_read_input_tokens": usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "output_tokens": output_tokens,
        },
    }


def events(exchange: Exchange) -> list[bytes]:
    """The reply as events, from ``message_start`` to ``message_stop``."""
    return [server_sent(step, step["type"]) for step in _steps(exchange)]


def _steps(exchange: Exchange) -> Iterator[JsonObject]:
    yield {"type": "message_start", "message": _unfinished(exchange, 0)}
    for index, block in enumerate(_blocks(exchange)):
        empty: JsonObject = {"input": {}} if block["type"] == "tool_use" else {"text": ""}
        yield {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": _stop_reason(exchange), "stop_sequence": None},
        "usage": {"output_tokens": exchange.usage.output_tokens},
    }
    yield {"type": "message_stop"}


def _deltas(block: JsonObject) -> Iterator[JsonObject]:
    if block["type"] == "tool_use":
        for piece in pieces(compact(block["input"])):
            yield {"type": "input_json_delta", "partial_json": piece}
    else:
        for piece in pieces(block["text"]):
            yield {"type": "text_delta", "text": piece}


def error(number: int, fault: Fault) -> JsonObject:
    """The body of an error status."""
    kind = fault.code or _ERRORS.get(fault.status_code, "api_error")
    message = fault.message or f"The script answers with status {fault.status_code}."
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_{number}"}


def failure(exchange: Exchange, fault: Fault, position: int) -> bytes:
    """The ``error`` event that ends a stream."""
    del position
    return server_sent(error(exchange.request.number, fault), "error")
