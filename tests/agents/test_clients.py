"""Raw OpenAI and Anthropic clients inside flows: each request is a step, found in the journal in the next life."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest

import agentflow.agents.anthropic
import agentflow.agents.openai
from agentflow import flow
from agentflow.agents.usage import Usage, total_usage
from agentflow.testing.models import ModelRequest, Reply, ScriptedModelServer
from agentflow.testing.models import Usage as Tokens
from tests.agents.lives import Lives

SECRET = "sk-canary-0123456789"
USER: Any = [{"role": "user", "content": "hi"}]
TOKENS = Tokens(100, 7, cached_tokens=40)


def script(request: ModelRequest) -> Reply:
    return Reply(f"hello {request.prompt} from {request.api}", usage=TOKENS)


async def chat(client: openai.AsyncOpenAI) -> list[str]:
    answer = await client.chat.completions.create(model="gpt-5", messages=USER)
    return [type(answer).__name__, answer.choices[0].message.content or ""]


async def chat_stream(client: openai.AsyncOpenAI) -> list[str]:
    options: Any = {"include_usage": True}
    stream = await client.chat.completions.create(
        model="gpt-5", messages=USER, stream=True, stream_options=options
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return [type(chunks[0]).__name__, text]


async def responses(client: openai.AsyncOpenAI) -> list[str]:
    answer = await client.responses.create(model="gpt-5", input="hi")
    return [type(answer).__name__, answer.output_text]


async def responses_stream(client: openai.AsyncOpenAI) -> list[str]:
    events = [event async for event in await client.responses.create(model="gpt-5", input="hi", stream=True)]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    return [type(events[-1]).__name__, text]


async def messages(client: anthropic.AsyncAnthropic) -> list[str]:
    answer = await client.messages.create(model="claude", max_tokens=10, messages=USER)
    block = answer.content[0]
    return [type(answer).__name__, block.text if block.type == "text" else ""]


async def messages_stream(client: anthropic.AsyncAnthropic) -> list[str]:
    async with client.messages.stream(model="claude", max_tokens=10, messages=USER) as stream:
        return [type(stream).__name__, await stream.get_final_text()]


ASYNC: dict[str, tuple[Callable[[Any], Awaitable[list[str]]], str]] = {
    "chat": (chat, "openai chat gpt-5"),
    "chat-stream": (chat_stream, "openai chat gpt-5"),
    "responses": (responses, "openai responses gpt-5"),
    "responses-stream": (responses_stream, "openai responses gpt-5"),
    "messages": (messages, "anthropic messages claude"),
    "messages-stream": (messages_stream, "anthropic messages claude"),
}


def blocking_chat(client: openai.OpenAI) -> list[str]:
    answer = client.chat.completions.create(model="gpt-5", messages=USER)
    return [type(answer).__name__, answer.choices[0].message.content or ""]


def blocking_responses_stream(client: openai.OpenAI) -> list[str]:
    events = list(client.responses.create(model="gpt-5", input="hi", stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    return [type(events[-1]).__name__, text]


def blocking_chat_stream(client: openai.OpenAI) -> list[str]:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(model="gpt-5", messages=USER, stream=True, stream_options=options)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return [type(chunks[0]).__name__, text]


def blocking_messages(client: anthropic.Anthropic) -> list[str]:
    answer = client.messages.create(model="claude", max_tokens=10, messages=USER)
    block = answer.content[0]
    return [type(answer).__name__, block.text if block.type == "text" else ""]


def blocking_messages_stream(client: anthropic.Anthropic) -> list[str]:
    with client.messages.stream(model="claude", max_tokens=10, messages=USER) as stream:
        return [type(stream).__name__, stream.get_final_text()]


BLOCKING: dict[str, tuple[Callable[[Any], list[str]], str]] = {
    "chat": (blocking_chat, "openai chat gpt-5"),
    "chat-stream": (blocking_chat_stream, "openai chat gpt-5"),
    "responses-stream": (blocking_responses_stream, "openai responses gpt-5"),
    "messages": (blocking_messages, "anthropic messages claude"),
    "messages-stream": (blocking_messages_stream, "anthropic messages claude"),
}


def make_client(server: ScriptedModelServer, kind: str, **options: Any) -> Any:
    if kind.startswith("messages"):
        return agentflow.agents.anthropic.async_client(
            api_key=SECRET, base_url=server.anthropic_url, **options
        )
    return agentflow.agents.openai.async_client(api_key=SECRET, base_url=server.openai_url, **options)


def make_blocking_client(server: ScriptedModelServer, kind: str) -> Any:
    if kind.startswith("messages"):
        return agentflow.agents.anthropic.client(api_key=SECRET, base_url=server.anthropic_url)
    return agentflow.agents.openai.client(api_key=SECRET, base_url=server.openai_url)


def flow_of(server: ScriptedModelServer, kind: str, **options: Any) -> Any:
    """A flow that makes one request."""
    ask, _ = ASYNC[kind]

    @flow
    async def asking() -> list[str]:
        async with make_client(server, kind, **options) as client:
            return await ask(client)

    return asking


@pytest.mark.parametrize("kind", ASYNC)
async def test_an_async_clients_request_is_made_once(tmp_path: Path, kind: str) -> None:
    """The next life gets the same typed answer without asking the server; usage is recorded, the API key is not."""
    with ScriptedModelServer(script) as server:
        lives = Lives(tmp_path, flow_of(server, kind))
        assert await lives.live(at_end=True) is None
        outcome = await lives.live()
        assert len(server.requests) == 1
    assert outcome is not None
    assert outcome.value[1].startswith("hello hi from"), outcome
    assert outcome.tally.reused == 1
    check_row(lives, ASYNC[kind][1])


@pytest.mark.parametrize("kind", BLOCKING)
def test_a_blocking_clients_request_is_made_once(tmp_path: Path, kind: str) -> None:
    """The same for the clients that block their thread."""
    ask, name = BLOCKING[kind]
    with ScriptedModelServer(script) as server:

        @flow
        def asking() -> list[str]:
            with make_blocking_client(server, kind) as client:
                return ask(client)

        lives = Lives(tmp_path, asking)
        assert lives.live_blocking(at_end=True) is None
        outcome = lives.live_blocking()
        assert len(server.requests) == 1
    assert outcome is not None
    assert outcome.value[1].startswith("hello hi from"), outcome
    check_row(lives, name)


def check_row(lives: Lives, name: str) -> None:
    (row,) = lives.rows(kind="model", event="completed")
    assert row.name == name
    detail = orjson.loads(row.detail or b"")
    assert detail["model"] == name.rsplit(maxsplit=1)[-1]
    assert detail["usage"] == {"input_tokens": 100, "output_tokens": 7, "cache_read_input_tokens": 40}
    assert total_usage(lives.rows()) == Usage(100, 7, 40)
    assert SECRET.encode() not in lives.stored_bytes()
