"""pydantic-ai agents inside flows: killed at any write, they go on without asking or doing anything twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import orjson
import pytest
from fastmcp import FastMCP
from pydantic_ai import AbstractToolset, Agent, AgentStreamEvent, FunctionToolset, RunContext
from pydantic_ai.exceptions import ModelQuotaExceededError, ModelRequestRejectedError, UserError
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.toolsets import DynamicToolset

from agentflow import Flow, flow, task
from agentflow.agents.pydantic_ai import Durability
from agentflow.agents.usage import total_usage
from agentflow.errors import CorruptRecord
from agentflow.testing.models import Fault, ModelRequest, Reply, ScriptedModelServer, ToolCall
from tests.agents.agents import SECRET, Office, chat_model, office
from tests.agents.lives import Lives


async def test_parallel_sub_agents_killed_at_every_write_go_on(tmp_path: Path) -> None:
    """A boss and two parallel sub-agents: whatever write is the last, nothing recorded is asked or run again.

    Output and usage come out as in an undisturbed run; the only repeated requests are those in flight.
    """
    with ScriptedModelServer(office) as server:
        undisturbed = await Lives(tmp_path, Office(server).flow()).live()
        total = len(server.requests)
    assert undisturbed is not None
    assert undisturbed.value[0] == "LEFT & RIGHT", undisturbed
    assert total == 6
    for at, after in itertools.product(range(1, 40), (False, True)):
        place = tmp_path / f"{at}-{after}"
        place.mkdir()
        # a server for each life: what the first one still has in flight is not counted with the second
        with ScriptedModelServer(office) as first, ScriptedModelServer(office) as second:
            rooms = Office(first)
            lives = Lives(place, rooms.flow())
            if await lives.live(at=at, after=after) is not None:
                assert at > 6, "it has ten steps; some are written together"
                break
            asked = len(lives.rows(kind="model", event="completed"))
            fetched = [row for row in lives.rows(kind="tool", event="completed") if row.name == "fetch"]
            rooms.server = second
            rooms.fetched.clear()
            outcome = await lives.live()
            where = f"write {at}, {'stored' if after else 'lost'}: {outcome}"
            assert outcome is not None, where
            assert outcome.value == undisturbed.value, where
            assert len(second.requests) == total - asked, where
            assert len(rooms.fetched) == 2 - len(fetched), where


async def test_a_replayed_agent_asks_nobody(tmp_path: Path) -> None:
    """The next life of a finished agent makes no request and calls no tool; usage is recorded, the API key is not."""
    with ScriptedModelServer(office) as server:
        rooms = Office(server)
        lives = Lives(tmp_path, rooms.flow())
        assert await lives.live(at_end=True) is None
        asked, fetched = len(server.requests), len(rooms.fetched)
        outcome = await lives.live()
        assert (len(server.requests), len(rooms.fetched)) == (asked, fetched)
    assert outcome is not None
    assert outcome.tally.executed == 0
    rows = lives.rows(kind="model", event="completed")
    assert {row.name for row in rows} == {"boss: chat gpt-5", "clerk: chat gpt-5"}
    assert orjson.loads(rows[0].detail or b"") == {
        "provider": "openai",
        "operation": "chat",
        "model": "gpt-5",
        "usage": {"input_tokens": 10, "output_tokens": 3},
    }
    assert total_usage(rows).output_tokens == 18
    assert SECRET.encode() not in lives.stored_bytes()


async def test_a_corrupt_record_stops_the_run(tmp_path: Path) -> None:
    """A result that cannot be read back stops the run; the model never sees it as a mistake of its own."""
    with ScriptedModelServer(office) as server:
        lives = Lives(tmp_path, Office(server).flow())
        assert await lives.live(at_end=True) is None
        asked = len(server.requests)
        database = apsw.Connection(str(lives.path))
        changed = "UPDATE step SET value = ? WHERE kind = 'tool' AND name = 'ask' AND event = 'completed'"
        database.execute(changed, (orjson.dumps({"payload": {"kind": "no such kind"}}),))
        database.close()
        with pytest.raises(CorruptRecord):
            await lives.live()
        assert len(server.requests) == asked


async def test_equal_agents_side_by_side_replay(tmp_path: Path) -> None:
    """Runs of one agent with equal prompts in a gather are runs of their own, and all of them replay."""
    with ScriptedModelServer(lambda request: Reply(f"{request.prompt}{request.number}")) as server:

        @flow
        async def asking() -> list[str]:
            async with chat_model(server) as model:
                agent = Agent(model, name="one", capabilities=[Durability()])
                results = await asyncio.gather(*(agent.run(prompt) for prompt in ("a", "a", "b")))
                return [result.output for result in results]

        lives = Lives(tmp_path, asking)
        assert await lives.live(at_end=True) is None
        outcome = await lives.live()
        assert len(server.requests) == 3
    assert outcome is not None
    assert {text[0] for text in outcome.value} == {"a", "b"}
    assert len(set(outcome.value)) == 3
    assert outcome.tally.executed == 0


def test_an_agent_in_a_sync_flow_replays(tmp_path: Path) -> None:
    """`run_sync` in a sync flow is as durable."""
    with ScriptedModelServer(office) as server:
        rooms = Office(server)

        @flow
        def asking() -> str:
            async def ask() -> str:
                async with chat_model(server) as model:
                    return (await rooms.ask(model))[0]

            return asyncio.run(ask())

        lives = Lives(tmp_path, asking)
        assert lives.live_blocking(at_end=True) is None
        asked = len(server.requests)
        outcome = lives.live_blocking()
        assert len(server.requests) == asked
    assert outcome is not None
    assert outcome.value == "LEFT & RIGHT"


async def test_a_streamed_agent_tells_its_events_once(tmp_path: Path) -> None:
    """A streamed answer is recorded whole; the event handler hears every event once over all lives."""
    heard: list[str] = []

    async def hear(_context: RunContext[object], events: AsyncIterable[AgentStreamEvent]) -> None:
        heard.extend([type(event).__name__ async for event in events])

    with ScriptedModelServer(office) as server:

        @flow
        async def asking() -> str:
            async with chat_model(server) as model:
                files: FunctionToolset[object] = FunctionToolset(id="files")

                @files.tool_plain
                def fetch(topic: str) -> str:
                    return topic.upper()

                durable = Durability[object](event_stream_handler=hear)
                agent = Agent(model, name="one", toolsets=[files], capabilities=[durable])
                async with agent.run_stream("left") as streamed:
                    return "".join([text async for text in streamed.stream_text(delta=True)])

        lives = Lives(tmp_path, asking)
        assert await lives.live(at_end=True) is None
        first = len(heard)
        outcome = await lives.live()
        assert len(server.requests) == 2
    assert outcome is not None
    assert outcome.value == "LEFT"
    assert "FunctionToolResultEvent" in heard
    assert len(heard) == first


async def test_mcp_and_dynamic_toolsets_replay(tmp_path: Path) -> None:
    """Tools of an MCP server and of a dynamic toolset are steps: discovery and calls are made once."""
    ran: list[str] = []
    bank = FastMCP("bank")

    @bank.tool
    def balance(owner: str) -> int:
        ran.append(f"balance {owner}")
        return 12

    def tools_for(_context: RunContext[object]) -> FunctionToolset[object]:
        tools: FunctionToolset[object] = FunctionToolset(id="made")

        @tools.tool_plain
        def shout(text: str) -> str:
            ran.append(f"shout {text}")
            return text.upper()

        return tools

    def script(request: ModelRequest) -> Reply:
        if request.turn == 0:
            return Reply(
                tool_calls=[ToolCall("balance", {"owner": "ann"}), ToolCall("shout", {"text": "hey"})]
            )
        return Reply(" ".join(message.text for message in request.tool_results))

    with ScriptedModelServer(script) as server:

        @flow
        async def asking() -> str:
            async with chat_model(server) as model:
                toolsets: list[AbstractToolset[object]] = [
                    MCPToolset[object](bank, id="bank"), DynamicToolset[object](tools_for, id="dynamic")
                ]  # fmt: skip
                agent = Agent(model, name="one", toolsets=toolsets, capabilities=[Durability()])
                return (await agent.run("go")).output

        lives = Lives(tmp_path, asking)
        assert await lives.live(at_end=True) is None
        outcome = await lives.live()
        assert len(server.requests) == 2
    assert outcome is not None
    assert "12" in outcome.value
    assert "HEY" in outcome.value
    assert sorted(ran) == ["balance ann", "shout hey"]
    assert outcome.tally.executed == 0


async def test_transient_model_errors_are_tried_again(tmp_path: Path) -> None:
    """A rate limit costs the pause that the provider asks for."""
    with ScriptedModelServer([Reply("fine")]) as server:
        server.faults.extend([Fault.status(429, retry_after=20), Fault.status(529), Fault.drop()])
        lives = Lives(tmp_path, single(server))
        outcome = await lives.live()
        assert len(server.requests) == 4
    assert outcome is not None
    assert outcome.value == "fine"
    assert lives.naps == [20.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.status(400), ModelRequestRejectedError),
        (Fault.status(429, code="insufficient_quota"), ModelQuotaExceededError),
    ],
)
async def test_final_model_errors_are_not(tmp_path: Path, fault: Fault, error: type[Exception]) -> None:
    """A refused request and an empty account fail at once, with pydantic-ai's own error in every life."""
    with ScriptedModelServer([Reply("fine")]) as server:
        server.faults.append(fault)

        async def caught(agent: Agent[object, str]) -> str:
            try:
                return (await agent.run("go")).output
            except error as refusal:
                return f"{error.__name__}: {refusal}"

        lives = Lives(tmp_path, single(server, caught))
        assert await lives.live(at_end=True) is None
        outcome = await lives.live()
        assert len(server.requests) == 1
    assert outcome is not None
    assert outcome.value.startswith(error.__name__)
    assert lives.naps == []
    assert SECRET.encode() not in lives.stored_bytes()


def single(
    server: ScriptedModelServer, ask: Callable[[Agent[object, str]], Awaitable[str]] | None = None
) -> Flow[..., Any]:
    """A flow that asks one agent without tools."""

    async def plainly(agent: Agent[object, str]) -> str:
        return (await agent.run("go")).output

    @flow
    async def asking() -> str:
        async with chat_model(server) as model:
            return await (ask or plainly)(Agent(model, name="one", capabilities=[Durability()]))

    return asking


def test_names_are_asked_for() -> None:
    """An agent without a name, and a toolset without an id, are refused with a sentence that says what to do."""
    with pytest.raises(UserError, match="name"):
        Agent("test", capabilities=[Durability()])
    with pytest.raises(UserError, match="`id`"):
        Agent("test", name="one", toolsets=[FunctionToolset[object]()], capabilities=[Durability()])


async def test_a_toolset_of_a_single_run_is_refused(tmp_path: Path) -> None:
    """What arrives after the agent was made could not be recorded."""
    with ScriptedModelServer(office) as server:

        async def with_more(agent: Agent[object, str]) -> str:
            return (await agent.run("go", toolsets=[FunctionToolset[object](id="late")])).output

        outcome = await Lives(tmp_path, single(server, with_more)).live()
    assert outcome is not None
    assert isinstance(outcome.error, UserError)
    assert "runtime" in str(outcome.error)


async def test_a_retried_task_goes_on_with_its_agent(tmp_path: Path) -> None:
    """Where a model stays away for good, a retry of the task around the agent asks only what has no answer yet."""

    def script(request: ModelRequest) -> Reply:
        if request.turn == 0:
            return Reply(tool_calls=[ToolCall("look")])
        if len(server.requests) == 2:
            server.faults.append(Fault.status(500))
            return Reply(tool_calls=[ToolCall("look")])
        return Reply("done")

    looked: list[str] = []
    with ScriptedModelServer(script) as server:

        @task(retries=1)
        async def ask(model: OpenAIChatModel) -> str:
            agent = Agent(model, name="one", capabilities=[Durability(attempts=1)])

            @agent.tool_plain
            async def look() -> str:
                looked.append("look")
                return "seen"

            return (await agent.run("go")).output

        @flow
        async def asking() -> str:
            async with chat_model(server) as model:
                return await ask(model)

        lives = Lives(tmp_path, asking)
        outcome = await lives.live()
        assert [len(request.body["messages"]) for request in server.requests] == [1, 3, 5, 5]
    assert outcome is not None
    assert outcome.value == "done"
    assert looked == ["look", "look"]
    assert len(lives.rows(kind="tool", name="look", event="completed")) == 2
