"""OpenAI's chat completions in words: ``POST /v1/chat/completions``. One choice an answer; function tools only."""

from __future__ import annotations

from collections.abc import Iterator

from agentflow.testing.models_dialect import (
    CREATED,
    Exchange,
    UnreadableRequestError,
    arguments_text,
    matched,
    objects,
    parsed_arguments,
    pieces,
    required,
    server_sent,
    text_of,
)
from agentflow.testing.models_script import (
    Fault,
    JsonObject,
    Message,
    ModelRequest,
    ToolCall,
    ToolOffer,
    Usage,
)

PATH = "/v1/chat/completions"

#: Status -> (type, code) of the error object.
_ERRORS: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def read(number: int, body: JsonObject) -> ModelRequest:
    """The request, normalised."""
    instructions: list[str] = []
    messages: list[Message] = []
    for position, item in enumerate(objects(required(body, "messages", list), "messages")):
        name = f"messages[{position}]"
        text = text_of(item.get("content"), f"{name}.content")
        match item.get("role"):
            case "system" | "developer":
                instructions.append(text)
            case "user":
                messages.append(Message("user", text))
            case "assistant":
                messages.append(Message("assistant", text, _calls(item, f"{name}.tool_calls")))
            case "tool":
                messages.append(Message("tool", text, call_id=required(item, "tool_call_id")))
            case role:
                raise UnreadableRequestError(f"{name}.role {role!r} is unknown")
    return ModelRequest(
        number=number,
        api="chat",
        model=required(body, "model"),
        instructions="\n\n".join(instructions),
        messages=matched(messages),
        tools=tuple(_offers(body)),
        stream=body.get("stream") is True,
        body=body,
    )


def _calls(message: JsonObject, name: str) -> tuple[ToolCall, ...]:
    calls: list[ToolCall] = []
    for item in objects(message.get("tool_calls"), name):
        function = required(item, "function", dict)
        arguments = parsed_arguments(required(function, "arguments"))
        calls.append(ToolCall(required(function, "name"), arguments, required(item, "id")))
    return tuple(calls)


def _offers(body: JsonObject) -> Iterator[ToolOffer]:
    for item in objects(body.get("tools"), "tools"):
        if item.get("type") == "function":
            function = required(item, "function", dict)
            yield ToolOffer(
                required(function, "name"),
                function.get("description") or "",
                function.get("parameters") or {},
            )


def _usage(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def whole(exchange: Exchange) -> JsonObject:
    """The reply as a ``chat.completion``."""
    message: JsonObject = {"role": "assistant", "content": exchange.reply.text or None, "refusal": None}
    if exchange.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": arguments_text(call)},
            }
            for call in exchange.calls
        ]
    else:
        message["content"] = exchange.reply.text
    return {
        "id": exchange.id("chatcmpl"),
        "object": "chat.completion",
        "created": CREATED,
        "model": exchange.request.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(exchange)}],
        "usage": _usage(exchange.usage),
    }


def _finish(exchange: Exchange) -> str:
    return "tool_calls" if exchange.calls else "stop"


def events(exchange: Exchange) -> list[bytes]:
    """The reply as ``chat.completion.chunk`` events and ``[DONE]``; with usage only if the client asked for it."""
    options: JsonObject = exchange.request.body.get("stream_options") or {}
    with_usage = options.get("include_usage") is True
    chunk: JsonObject = {
        "id": exchange.id("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": exchange.request.model,
        **({"usage": None} if with_usage else {}),
    }
    steps = [(delta, None) for delta in _deltas(exchange)] + [({}, _finish(exchange))]
    chunks = [
        {**chunk, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
        for delta, finish in steps
    ]
    if with_usage:
        chunks.append({**chunk, "choices": [], "usage": _usage(exchange.usage)})
    return [*map(server_sent, chunks), server_sent("[DONE]")]


def _deltas(exchange: Exchange) -> Iterator[JsonObject]:
    yield {"role": "assistant", "content": None if exchange.calls and not exchange.reply.text else ""}
    for piece in pieces(exchange.reply.text):
        yield {"content": piece}
    for index, call in enumerate(exchange.calls):
        function = {"name": call.name, "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]}
        for piece in pieces(arguments_text(call)):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def error(number: int, fault: Fault) -> JsonObject:
    """The body of an error status; `models_responses` says it in the same way."""
    del number
    unknown = ("invalid_request_error" if fault.status_code < 500 else "server_error", None)  # noqa: PLR2004 - HTTP
    kind, code = _ERRORS.get(fault.status_code, unknown)
    message = fault.message or f"The script answers with status {fault.status_code}."
    return {"error": {"message": message, "type": kind, "param": None, "code": fault.code or code}}


def failure(exchange: Exchange, fault: Fault, position: int) -> bytes:
    """The event that ends a stream in an error."""
    del position
    return server_sent(error(exchange.request.number, fault))
