"""OpenAI's responses in words: ``POST /v1/responses``. Function tools only; nothing is stored between requests.

A conversation is what the request carries: ``previous_response_id`` is accepted, but earlier turns are not looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentflow.testing import models_chat
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
from agentflow.testing.models_script import Fault, JsonObject, Message, ModelRequest, ToolCall, ToolOffer

PATH = "/v1/responses"

error = models_chat.error


def read(number: int, body: JsonObject) -> ModelRequest:
    """The request, normalised; items that are neither messages nor function calls (reasoning, ...) are passed over."""
    given = required(body, "input", (str, list))
    instructions: list[str] = [text] if isinstance(text := body.get("instructions"), str) else []
    messages = [Message("user", given)] if isinstance(given, str) else _messages(given, instructions)
    elsewhere = bool(body.get("previous_response_id") or body.get("conversation"))
    return ModelRequest(
        number=number,
        api="responses",
        model=required(body, "model"),
        instructions="\n\n".join(instructions),
        messages=matched(messages, complete=not elsewhere),
        tools=tuple(
            ToolOffer(required(item, "name"), item.get("description") or "", item.get("parameters") or {})
            for item in objects(body.get("tools"), "tools")
            if item.get("type") == "function"
        ),
        stream=body.get("stream") is True,
        body=body,
    )


def _messages(items: list[Any], instructions: list[str]) -> list[Message]:
    """The conversation; texts of the system go to `instructions`; what the model said in one turn is one message."""
    messages: list[Message] = []
    for position, item in enumerate(objects(items, "input")):
        name = f"input[{position}]"
        match item.get("type", "message"), item.get("role"):
            case "message", "system" | "developer":
                instructions.append(text_of(item.get("content"), name))
            case "message", "user":
                messages.append(Message("user", text_of(item.get("content"), name)))
            case "message", "assistant":
                _spoken(messages, text_of(item.get("content"), name))
            case "function_call", _:
                arguments = parsed_arguments(required(item, "arguments"))
                _spoken(messages, "", ToolCall(required(item, "name"), arguments, required(item, "call_id")))
            case "function_call_output", _:
                text = text_of(required(item, "output", (str, list)), f"{name}.output")
                messages.append(Message("tool", text, call_id=required(item, "call_id")))
            case "message", role:
                raise UnreadableRequestError(f"{name}.role {role!r} is unknown")
            case _:
                pass
    return messages


def _spoken(messages: list[Message], text: str, *calls: ToolCall) -> None:
    """Adds to the turn of the model that is under way, or begins one."""
    earlier = messages.pop() if messages and messages[-1].role == "assistant" else Message("assistant")
    messages.append(Message("assistant", earlier.text + text, earlier.tool_calls + calls))


def _items(exchange: Exchange) -> list[JsonObject]:
    """The output: the message if there is text (or nothing else), then the calls."""
    items: list[JsonObject] = []
    if exchange.reply.text or not exchange.calls:
        part: JsonObject = {
            "type": "output_text",
            "text": exchange.reply.text,
            "annotations": [],
            "logprobs": [],
        }
        items.append(
            {
                "id": exchange.id("msg"),
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [part],
            }
        )
    for position, call in enumerate(exchange.calls, start=1):
        items.append(
            {
                "id": exchange.id("fc", position),
                "type": "function_call",
                "status": "completed",
                "call_id": call.id,
                "name": call.name,
                "arguments": arguments_text(call),
            }
        )
    return items


def whole(exchange: Exchange) -> JsonObject:
    """The reply as a completed ``response``."""
    usage = exchange.usage
    return {
        **_unfinished(exchange, "completed"),
        "output": _items(exchange),
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
    }


def _unfinished(exchange: Exchange, status: str, error: JsonObject | None = None) -> JsonObject:
    body = exchange.request.body
    echoed: JsonObject = {
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }
    return {
        "id": exchange.id("resp"),
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "model": exchange.request.model,
        "output": [],
        "error": error,
        "incomplete_details": None,
        "usage": None,
        **{name: body.get(name, usual) for name, usual in echoed.items()},
    }


def events(exchange: Exchange) -> list[bytes]:
    """The reply as ``response.*`` events, from ``created`` to ``completed``."""
    steps: list[JsonObject] = [
        {"type": "response.created", "response": _unfinished(exchange, "in_progress")},
        {"type": "response.in_progress", "response": _unfinished(exchange, "in_progress")},
    ]
    for index, item in enumerate(_items(exchange)):
        started: JsonObject = {
            **item,
            "status": "in_progress",
            **({"content": []} if "content" in item else {"arguments": ""}),
        }
        steps.append({"type": "response.output_item.added", "output_index": index, "item": started})
        told = _text(item) if "content" in item else _arguments(item)
        steps.extend({**step, "item_id": item["id"], "output_index": index} for step in told)
        steps.append({"type": "response.output_item.done", "output_index": index, "item": item})
    steps.append({"type": "response.completed", "response": whole(exchange)})
    return [_event(step, position) for position, step in enumerate(steps)]


def _event(step: JsonObject, position: int) -> bytes:
    return server_sent({**step, "sequence_number": position}, step["type"])


def _text(item: JsonObject) -> Iterator[JsonObject]:
    part = item["content"][0]
    yield {"type": "response.content_part.added", "content_index": 0, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", "content_index": 0, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", "content_index": 0, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", "content_index": 0, "part": part}


def _arguments(item: JsonObject) -> Iterator[JsonObject]:
    for piece in pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", "delta": piece}
    yield {
        "type": "response.function_call_arguments.done",
        "name": item["name"],
        "arguments": item["arguments"],
    }


def failure(exchange: Exchange, fault: Fault, position: int) -> bytes:
    """The ``response.failed`` event that ends a stream in an error."""
    said = error(exchange.request.number, fault)["error"]
    failed = {"code": said["code"] or said["type"], "message": said["message"]}
    return _event({"type": "response.failed", "response": _unfinished(exchange, "failed", failed)}, position)
