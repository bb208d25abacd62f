"""Scripted model servers, asked by the providers' own clients over real sockets."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import Message as ClaudeMessage
from anthropic.types import RawMessageStreamEvent, ToolParam
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionToolParam
from openai.types.responses import (
    FunctionToolParam,
    Response,
    ResponseCompletedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
)
from pydantic import BaseModel, TypeAdapter
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from agentflow.testing.models import (
    Answer,
    Message,
    ModelRequest,
    Reply,
    ScriptedModelServer,
    ToolCall,
    ToolOffer,
    Usage,
)

MODEL: Any = "any-model"
SYSTEM = "Be brief."
PROMPT = "Where are my orders? Ωμέγα"
DESCRIPTION = "Finds an order."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"order_id": {"type": "string"}},
    "required": ["order_id"],
    "additionalProperties": False,
}
CHAT_TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "find", "description": DESCRIPTION, "parameters": SCHEMA}}
]
RESPONSES_TOOLS: list[FunctionToolParam] = [
    {"type": "function", "name": "find", "description": DESCRIPTION, "parameters": SCHEMA, "strict": True}
]
MESSAGES_TOOLS: list[ToolParam] = [{"name": "find", "description": DESCRIPTION, "input_schema": SCHEMA}]

TEXT = Reply('Two are under way:\n"A-1" \u2028 and 📦 B-2.')
CALLS = Reply("Looking.", [ToolCall("find", {"order_id": "A-1"}), ToolCall("find", {"order_id": "Ω 📦"})])
SILENT_CALL = Reply(tool_calls=[ToolCall("ping"), ToolCall("find", {"order_id": "B-2"}, id="my-id")])


@dataclass(frozen=True)
class Heard:
    """What a provider's client made of an answer."""

    text: str
    calls: list[tuple[str, str, Any]]
    input_tokens: int
    output_tokens: int
    reason: str | None


async def chat_json(url: str) -> Heard:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
            tools=CHAT_TOOLS,
        )
    message, usage = answer.choices[0].message, answer.usage
    assert usage is not None
    calls = [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls or []
        if call.type == "function"
    ]
    return Heard(
        message.content or "",
        calls,
        usage.prompt_tokens,
        usage.completion_tokens,
        answer.choices[0].finish_reason,
    )


async def chat_stream(url: str) -> Heard:
    text, reason, usage, calls = "", None, None, dict[int, list[str]]()
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "developer", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
            tools=CHAT_TOOLS,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
                for part in choice.delta.tool_calls or []:
                    call = calls.setdefault(part.index, ["", "", ""])
                    assert part.function is not None
                    for place, piece in enumerate((part.id, part.function.name, part.function.arguments)):
                        call[place] += piece or ""
    assert usage is not None
    heard = [(call_id, name, json.loads(arguments)) for call_id, name, arguments in calls.values()]
    return Heard(text, heard, usage.prompt_tokens, usage.completion_tokens, reason)


async def chat_accumulated(url: str) -> Heard:
    """The client's own accumulation of a stream."""
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client,
        client.chat.completions.stream(
            model=MODEL,
            messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
            tools=CHAT_TOOLS,
            stream_options={"include_usage": True},
        ) as stream,
    ):
        answer = await stream.get_final_completion()
    message, usage = answer.choices[0].message, answer.usage
    assert usage is not None
    calls = [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls or []
    ]
    return Heard(
        message.content or "",
        calls,
        usage.prompt_tokens,
        usage.completion_tokens,
        answer.choices[0].finish_reason,
    )


def heard_response(answer: Response) -> Heard:
    assert answer.usage is not None
    calls = [
        (item.call_id, item.name, json.loads(item.arguments))
        for item in answer.output
        if item.type == "function_call"
    ]
    return Heard(
        answer.output_text, calls, answer.usage.input_tokens, answer.usage.output_tokens, answer.status
    )


async def responses_json(url: str) -> Heard:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client:
        answer = await client.responses.create(
            model=MODEL, instructions=SYSTEM, input=PROMPT, tools=RESPONSES_TOOLS
        )
    return heard_response(answer)


async def responses_stream(url: str) -> Heard:
    """The pieces of the stream add up to the response that ends it."""
    pieces: dict[str, str] = {}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client:
        stream = await client.responses.create(
            model=MODEL,
            input=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
            tools=RESPONSES_TOOLS,
            stream=True,
        )
        numbers: list[int] = []
        last: object = None
        async for event in stream:
            last = event
            numbers.append(cast("Any", event).sequence_number)
            if isinstance(event, ResponseTextDeltaEvent | ResponseFunctionCallArgumentsDeltaEvent):
                pieces[event.item_id] = pieces.get(event.item_id, "") + event.delta
    assert isinstance(last, ResponseCompletedEvent)
    assert numbers == list(range(len(numbers)))
    for item in last.response.output:
        if item.type == "function_call":
            assert pieces.get(item.id or "", "") == item.arguments
        elif item.type == "message":
            assert pieces.get(item.id, "") == last.response.output_text
    return heard_response(last.response)


async def responses_accumulated(url: str) -> Heard:
    """The client's own accumulation of a stream."""
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client,
        client.responses.stream(
            model=MODEL, instructions=SYSTEM, input=PROMPT, tools=RESPONSES_TOOLS
        ) as stream,
    ):
        return heard_response(await stream.get_final_response())


def heard_message(answer: anthropic.types.Message) -> Heard:
    text = "".join(block.text for block in answer.content if block.type == "text")
    calls = [(block.id, block.name, block.input) for block in answer.content if block.type == "tool_use"]
    return Heard(text, calls, answer.usage.input_tokens, answer.usage.output_tokens, answer.stop_reason)


async def messages_json(url: str) -> Heard:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="secret", max_retries=0) as client:
        answer = await client.messages.create(
            model=MODEL,
            max_tokens=100,
            system=SYSTEM,
            messages=[{"role": "user", "content": PROMPT}],
            tools=MESSAGES_TOOLS,
        )
    return heard_message(answer)


async def messages_accumulated(url: str) -> Heard:
    """The client's own accumulation of a stream."""
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="secret", max_retries=0) as client,
        client.messages.stream(
            model=MODEL,
            max_tokens=100,
            system=[{"type": "text", "text": SYSTEM}],
            messages=[{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
            tools=MESSAGES_TOOLS,
        ) as stream,
    ):
        return heard_message(await stream.get_final_message())


async def messages_stream(url: str) -> Heard:
    text, calls, usage, reason = "", list[list[str]](), [0, 0], None
    async with anthropic.AsyncAnthropic(base_url=url, api_key="secret", max_retries=0) as client:
        stream = await client.messages.create(
            model=MODEL,
            max_tokens=100,
            system=SYSTEM,
            messages=[{"role": "user", "content": PROMPT}],
            tools=MESSAGES_TOOLS,
            stream=True,
        )
        async for event in stream:
            if event.type == "message_start":
                usage[0] = event.message.usage.input_tokens
            elif event.type == "content_block_start" and event.content_block.type == "tool_use":
                calls.append([event.content_block.id, event.content_block.name, ""])
            elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                text += event.delta.text
            elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                calls[-1][2] += event.delta.partial_json
            elif event.type == "message_delta":
                usage[1], reason = event.usage.output_tokens, event.delta.stop_reason
    heard = [(call_id, name, json.loads(arguments)) for call_id, name, arguments in calls]
    return Heard(text, heard, usage[0], usage[1], reason)


ASKING = [
    chat_json,
    chat_stream,
    chat_accumulated,
    responses_json,
    responses_stream,
    responses_accumulated,
    messages_json,
    messages_stream,
    messages_accumulated,
]


@pytest.mark.parametrize(
    "reply", [TEXT, CALLS, SILENT_CALL, Reply()], ids=["text", "calls", "silent", "nothing"]
)
@pytest.mark.parametrize("ask", ASKING, ids=lambda ask: ask.__name__)
async def test_every_client_hears_what_the_script_says(
    ask: Callable[[str], Awaitable[Heard]], reply: Reply
) -> None:
    """Text, parallel tool calls, usage and the reason for stopping reach every client, streamed or not."""
    with ScriptedModelServer([reply]) as server:
        heard = await ask(server.url)
    (record,) = server.requests
    assert heard.text == reply.text
    assert [call[1:] for call in heard.calls] == [(call.name, call.arguments) for call in reply.tool_calls]
    prefix = "toolu" if record.api == "messages" else "call"
    assert [call[0] for call in heard.calls] == [
        call.id or f"{prefix}_1_{position}" for position, call in enumerate(reply.tool_calls, start=1)
    ]
    called = {"chat": "tool_calls", "responses": "completed", "messages": "tool_use"}
    spoken = {"chat": "stop", "responses": "completed", "messages": "end_turn"}
    assert heard.reason == (called if reply.tool_calls else spoken)[record.api]
    said = reply.text + "".join(
        call.name + json.dumps(call.arguments, separators=(",", ":"), ensure_ascii=False)
        for call in reply.tool_calls
    )
    given = SYSTEM + PROMPT + "find" + DESCRIPTION + json.dumps(SCHEMA, separators=(",", ":"))
    assert (heard.output_tokens, heard.input_tokens) == (tokens(said), tokens(given))
    assert record.answer == reply
    assert not record.broken_off


def tokens(text: str) -> int:
    """The documented estimate: one token for every four bytes of UTF-8, rounded up."""
    return (len(text.encode()) + 3) // 4


@pytest.mark.parametrize("ask", ASKING, ids=lambda ask: ask.__name__)
async def test_a_script_sees_the_same_request_from_every_client(
    ask: Callable[[str], Awaitable[Heard]],
) -> None:
    """Instructions, messages and tools are normalised: one script serves all three APIs."""
    seen: list[ModelRequest] = []

    def script(request: ModelRequest) -> Answer:
        seen.append(request)
        return Reply("ok")

    with ScriptedModelServer(script) as server:
        await ask(server.url)
    (request,) = seen
    assert request.model == MODEL
    assert request.instructions == SYSTEM
    assert request.messages == (Message("user", PROMPT),)
    assert (request.prompt, request.turn, request.tool_results) == (PROMPT, 0, ())
    assert request.tools == (ToolOffer("find", DESCRIPTION, SCHEMA),)
    assert request.stream == ask.__name__.endswith(("stream", "accumulated"))
    assert request.body == server.requests[0].body


def test_the_blocking_clients_hear_the_same() -> None:
    """The blocking clients of both providers work too, streamed and not, several requests on one connection."""
    with (
        ScriptedModelServer([CALLS, TEXT, TEXT, CALLS, TEXT]) as server,
        openai.OpenAI(base_url=server.openai_url, api_key="secret", max_retries=0) as gpt,
        anthropic.Anthropic(base_url=server.anthropic_url, api_key="secret", max_retries=0) as claude,
    ):
        chat = gpt.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": PROMPT}])
        assert len(chat.choices[0].message.tool_calls or []) == 2
        assert heard_response(gpt.responses.create(model=MODEL, input=PROMPT)).text == TEXT.text
        stream = gpt.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPT}], stream=True
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT.text
        assert all(chunk.usage is None for chunk in chunks)
        answer = claude.messages.create(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": PROMPT}]
        )
        assert len(heard_message(answer).calls) == 2
        with claude.messages.stream(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": PROMPT}]
        ) as told:
            assert "".join(told.text_stream) == TEXT.text
    assert [record.number for record in server.requests] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("ask", ASKING, ids=lambda ask: ask.__name__)
async def test_usage_can_be_scripted(ask: Callable[[str], Awaitable[Heard]]) -> None:
    """A script's own usage is reported in the provider's terms: Anthropic counts cached tokens apart."""
    with ScriptedModelServer([Reply("ok", usage=Usage(1000, 20, cached_tokens=400))]) as server:
        heard = await ask(server.url)
    assert heard.output_tokens == 20
    assert heard.input_tokens == (600 if server.requests[0].api == "messages" else 1000)


async def test_equal_conversations_get_equal_bytes() -> None:
    """Identifiers, times and usage depend on the script and the requests alone."""

    async def bytes_of_a_server() -> list[bytes]:
        with ScriptedModelServer([CALLS] * 6) as server:
            async with httpx2.AsyncClient() as client:
                return [
                    (await client.post(server.url + path, json={**body, "stream": stream})).content
                    for path, body in WIRE.items()
                    for stream in (False, True)
                ]

    assert await bytes_of_a_server() == await bytes_of_a_server()


WIRE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]},
    "/v1/responses": {"model": MODEL, "input": PROMPT},
    "/v1/messages": {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": PROMPT}]},
}


WHOLE: dict[str, TypeAdapter[Any]] = {
    "/v1/chat/completions": TypeAdapter(ChatCompletion),
    "/v1/responses": TypeAdapter(Response),
    "/v1/messages": TypeAdapter(ClaudeMessage),
}
EVENT: dict[str, TypeAdapter[Any]] = {
    "/v1/chat/completions": TypeAdapter(ChatCompletionChunk),
    "/v1/responses": TypeAdapter(ResponseStreamEvent),
    "/v1/messages": TypeAdapter(RawMessageStreamEvent),
}


@pytest.mark.parametrize("path", WIRE)
def test_every_required_field_is_there(path: str) -> None:
    """The clients forgive missing fields; here each document and each event passes their types' full validation."""
    with ScriptedModelServer([CALLS, CALLS]) as server:
        WHOLE[path].validate_python(httpx2.post(server.url + path, json=WIRE[path]).json())
        stream = httpx2.post(server.url + path, json={**WIRE[path], "stream": True}).text
    events = [line.removeprefix("data: ") for line in stream.split("\n") if line.startswith("data: {")]
    assert len(events) > 5
    for event in events:
        EVENT[path].validate_python(json.loads(event))


class Order(BaseModel):
    """What the agent shall find."""

    order_id: str
    days: int


def order_script(request: ModelRequest) -> Answer:
    """Asks for two orders at once, then gives the result in the form that the request asks for."""
    by_tool = any(tool.name == "final_result" for tool in request.tools)
    if request.turn == 0:
        # where text is the output, text beside the calls would end a streamed run of pydantic-ai
        calls = [ToolCall("find", {"order_id": "A-1"}), ToolCall("find", {"order_id": "B-2"})]
        return Reply("Looking." if by_tool else "", calls)
    assert [(result.tool, result.text) for result in request.tool_results] == [
        ("find", "A-1: 3 days"),
        ("find", "B-2: 3 days"),
    ]
    found = {"order_id": "A-1", "days": 3}
    if by_tool:
        return Reply(tool_calls=[ToolCall("final_result", found)])
    return Reply(json.dumps(found))


def pydantic_ai_model(kind: str, server: ScriptedModelServer) -> Model[Any]:
    if kind == "messages":
        return AnthropicModel(
            MODEL, provider=AnthropicProvider(base_url=server.anthropic_url, api_key="secret")
        )
    provider = OpenAIProvider(base_url=server.openai_url, api_key="secret")
    return (OpenAIChatModel if kind == "chat" else OpenAIResponsesModel)(MODEL, provider=provider)


@pytest.mark.parametrize("native", [False, True], ids=["output tool", "native output"])
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("kind", ["chat", "responses", "messages"])
async def test_pydantic_ai_agents_work(kind: str, *, streamed: bool, native: bool) -> None:
    """An agent calls tools in parallel and gets structured output, with every model class, streamed or not."""
    with ScriptedModelServer(order_script) as server:
        model = pydantic_ai_model(kind, server)
        if native:
            model.profile["supports_json_schema_output"] = True
        agent = Agent(model, output_type=NativeOutput(Order) if native else Order, instructions=SYSTEM)

        @agent.tool_plain
        def find(order_id: str) -> str:
            return f"{order_id}: 3 days"

        async with agent:
            if streamed:
                async with agent.run_stream(PROMPT) as result:
                    output = await result.get_output()
                usage = result.usage
            else:
                answer = await agent.run(PROMPT)
                output, usage = answer.output, answer.usage
    assert output == Order(order_id="A-1", days=3)
    assert (usage.requests, usage.tool_calls) == (2, 2)
    assert usage.output_tokens > 0
    assert [(record.api, record.body.get("stream") is True) for record in server.requests] == [
        (kind, streamed)
    ] * 2
