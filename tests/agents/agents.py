"""Agents of the tests: a boss asks two parallel sub-agents, each of which calls a tool; over the scripted server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
from pydantic_ai import Agent, FunctionToolset, RunContext
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from agentflow import Flow, flow
from agentflow.agents.pydantic_ai import Durability
from agentflow.testing.models import ModelRequest, Reply, ScriptedModelServer, ToolCall, Usage

SECRET = "sk-canary-0123456789"

#: Made once: reading the certificates takes longer than most tests.
_TLS = ssl.create_default_context()


@asynccontextmanager
async def chat_model(server: ScriptedModelServer, name: str = "gpt-5") -> AsyncGenerator[OpenAIChatModel]:
    """A model that asks the server, closed at the end."""
    async with (
        httpx2.AsyncClient(verify=_TLS) as http,
        openai.AsyncOpenAI(
            api_key=SECRET, base_url=server.openai_url, max_retries=0, http_client=http
        ) as client,
    ):
        yield OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))


def office(request: ModelRequest) -> Reply:
    """The boss asks both sub-agents at once; each looks its topic up; then all say what they have."""
    names = {tool.name for tool in request.tools}
    usage = Usage(10 * len(request.messages), 3)
    if request.turn == 0 and "ask" in names:
        return Reply(
            tool_calls=[ToolCall("ask", {"topic": topic}) for topic in ("left", "right")], usage=usage
        )
    if request.turn == 0:
        return Reply(tool_calls=[ToolCall("fetch", {"topic": request.prompt})], usage=usage)
    return Reply(" & ".join(message.text for message in request.tool_results), usage=usage)


@dataclass
class Office:
    """The boss, its flow, and what its tools did."""

    server: ScriptedModelServer
    fetched: list[str] = field(default_factory=list[str])
    capabilities: Sequence[Any] = ()

    def flow(self) -> Flow[..., Any]:
        """A flow that asks the boss; returns its words and the usage."""

        @flow
        async def asking() -> tuple[str, str]:
            async with chat_model(self.server) as model:
                return await self.ask(model)

        return asking

    async def ask(self, model: OpenAIChatModel) -> tuple[str, str]:
        """Ask the boss once."""
        files: FunctionToolset[object] = FunctionToolset(id="files")
        desk: FunctionToolset[object] = FunctionToolset(id="desk")

        @files.tool_plain
        async def fetch(topic: str) -> str:
            """Look a topic up."""
            for _ in range(20 if topic == "left" else 0):  # the second one comes first
                await asyncio.sleep(0)
            self.fetched.append(topic)
            return topic.upper()

        clerk = Agent(model, name="clerk", toolsets=[files], capabilities=[Durability()])

        @desk.tool
        async def ask(context: RunContext[object], topic: str) -> str:
            """Ask a clerk."""
            return (await clerk.run(topic, usage=context.usage)).output

        boss = Agent(model, name="boss", toolsets=[desk], capabilities=[Durability(), *self.capabilities])
        result = await boss.run("go")
        return result.output, repr(result.usage)
