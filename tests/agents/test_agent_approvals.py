"""Approvals in agents: a person signs what a model wants done; it runs once, as signed, and the model is told."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP
from pydantic import BaseModel
from pydantic_ai import (
    AbstractToolset,
    Agent,
    ApprovalRequired,
    ApprovalRequiredToolset,
    FunctionToolset,
    ModelRetry,
    RunContext,
    ToolDefinition,
)
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.openai import OpenAIChatModel

from agentflow import flow, task
from agentflow.agents.pydantic_ai import Durability
from agentflow.errors import DecisionRefusedError
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict, WaitKind
from agentflow.testing.models import ModelRequest, Reply, ScriptedModelServer, ToolCall
from tests.agents.agents import chat_model
from tests.agents.lives import Lives


class Note(BaseModel):
    text: str


Ledger = list[tuple[str, int]]
Tools = Callable[[Ledger], AbstractToolset[object]]


def pay_bob(request: ModelRequest) -> Reply:
    """Look, and pay; then repeat every word that came after the call."""
    if request.turn == 0:
        return Reply(tool_calls=[ToolCall("transfer", {"to": "bob", "cents": 900})])
    said = [message.text for message in request.messages if message.role != "assistant"]
    return Reply(" | ".join(said[1:]))


def deferred(ledger: Ledger) -> AbstractToolset[object]:
    """A function tool that always needs approval."""
    tools: FunctionToolset[object] = FunctionToolset(id="bank")

    def only_positive(_context: RunContext[object], to: str, cents: int) -> None:
        del to
        if cents <= 0:
            message = "cents must be positive"
            raise ModelRetry(message)

    @tools.tool_plain(requires_approval=True, args_validator=only_positive)
    async def transfer(to: str, cents: int) -> str:
        """Send money."""
        ledger.append((to, cents))
        return f"sent {cents} to {to}"

    return tools


def raising(ledger: Ledger) -> AbstractToolset[object]:
    """A function tool that finds out by itself that it needs approval."""
    tools: FunctionToolset[object] = FunctionToolset(id="bank")

    @tools.tool
    async def transfer(context: RunContext[object], to: str, cents: int) -> str:
        """Send money."""
        if cents > 100 and not context.tool_call_approved:
            raise ApprovalRequired(metadata={"limit": 100})
        ledger.append((to, cents))
        return f"sent {cents} to {to}"

    return tools


def guarded_mcp(ledger: Ledger) -> AbstractToolset[object]:
    """A third party's tool behind `ApprovalRequiredToolset`."""
    bank = FastMCP("bank")

    @bank.tool
    def transfer(to: str, cents: int) -> str:
        """Send money."""
        ledger.append((to, cents))
        return f"sent {cents} to {to}"

    def is_much(_context: RunContext[object], _tool: ToolDefinition, arguments: dict[str, Any]) -> bool:
        return arguments["cents"] > 100

    return ApprovalRequiredToolset(MCPToolset[object](bank, id="bank"), is_much)


def signed_task(ledger: Ledger) -> AbstractToolset[object]:
    """A function tool that calls a task with a side effect."""
    tools: FunctionToolset[object] = FunctionToolset(id="bank")

    @task(side_effect=True, name="send_money")
    async def send_money(to: str, cents: int) -> str:
        ledger.append((to, cents))
        return f"sent {cents} to {to}"

    @tools.tool_plain
    async def transfer(to: str, cents: int) -> str:
        """Send money."""
        return await send_money(to, cents)

    return tools


def effect_by_option(ledger: Ledger) -> AbstractToolset[object]:
    """A function tool whose metadata says that it has a side effect."""
    tools: FunctionToolset[object] = FunctionToolset(id="bank")

    @tools.tool_plain(metadata={"agentflow": {"side_effect": True}})
    async def transfer(to: str, cents: int) -> str:
        """Send money."""
        ledger.append((to, cents))
        return f"sent {cents} to {to}"

    return tools


EVERY_WAY = pytest.mark.parametrize("tools", [deferred, raising, guarded_mcp, signed_task, effect_by_option])


class Bank:
    """One agent with one tool, and what the tool has done."""

    def __init__(self, folder: Path, server: ScriptedModelServer, tools: Tools, *capabilities: Any) -> None:
        self.ledger: Ledger = []

        @flow
        async def paying() -> str:
            async with chat_model(server) as model:
                agent = Agent(
                    model,
                    name="payer",
                    toolsets=[tools(self.ledger)],
                    capabilities=[Durability(), *capabilities],
                )
                return (await agent.run("pay bob")).output

        self.lives = Lives(folder, paying)


@EVERY_WAY
async def test_an_edited_call_runs_once_and_the_model_is_told(tmp_path: Path, tools: Tools) -> None:
    """The run leaves memory; a person signs with other arguments; the next life executes those, once, and says so."""
    with ScriptedModelServer(pay_bob) as server:
        bank = Bank(tmp_path, server, tools)
        waiting = await bank.lives.live()
        assert waiting is not None
        assert waiting.state is StateType.PAUSED
        assert bank.ledger == []
        (wait,) = bank.lives.waits()
        assert wait.kind is WaitKind.APPROVAL
        assert wait.question["arguments"] == {"to": "bob", "cents": 900}
        bank.lives.decide(wait, Verdict.APPROVED, {"cents": 300})
        with pytest.raises(DecisionRefusedError):
            bank.lives.decide(wait, Verdict.APPROVED)
        outcome = await bank.lives.live()
        assert len(server.requests) == 2
    assert outcome is not None
    assert bank.ledger == [("bob", 300)]
    assert "sent 300 to bob" in outcome.value
    assert 'Asked for: {"to":"bob","cents":900}. Executed: {"to":"bob","cents":300}.' in outcome.value


@EVERY_WAY
async def test_a_denied_call_does_nothing_and_the_model_is_told_why(tmp_path: Path, tools: Tools) -> None:
    """A refusal reaches the model as the result of its call; the run goes on."""
    with ScriptedModelServer(pay_bob) as server:
        bank = Bank(tmp_path, server, tools)
        await bank.lives.live()
        bank.lives.decide(bank.lives.waits()[0], Verdict.DENIED, reason="bob is a fraud")
        assert await bank.lives.live(at_end=True) is None
        outcome = await bank.lives.live()
        assert len(server.requests) == 2
    assert outcome is not None
    assert bank.ledger == []
    assert "was denied: bob is a fraud. Nothing was executed." in outcome.value


@EVERY_WAY
async def test_an_approved_call_runs_once_wherever_the_process_dies(tmp_path: Path, tools: Tools) -> None:
    """Killed before or after any write around the signature: the money is sent once, or a person is asked about it."""
    for at, after in itertools.product(range(1, 20), (False, True)):
        place = tmp_path / f"{at}-{after}"
        place.mkdir()
        with ScriptedModelServer(pay_bob) as server:
            bank = Bank(place, server, tools)
            await bank.lives.live()
            bank.lives.decide(bank.lives.waits()[0], Verdict.APPROVED)
            where = f"write {at}, {'stored' if after else 'lost'}"
            if await bank.lives.live(at=at, after=after) is not None:
                assert at > 2, where
                return
            sent = len(bank.ledger)
            outcome = await bank.lives.live()
            assert outcome is not None, where
            if outcome.state is StateType.PAUSED:  # started, and nobody knows whether it ended
                (doubt,) = bank.lives.waits()
                assert doubt.kind is WaitKind.IN_DOUBT, where
                assert len(bank.ledger) == sent, where
                bank.lives.decide(doubt, Verdict.HAPPENED, "sent 900 to bob") if sent else bank.lives.decide(
                    doubt, Verdict.RUN_AGAIN
                )
                outcome = await bank.lives.live()
                assert outcome is not None, where
            assert outcome.state is StateType.COMPLETED, where
            assert bank.ledger == [("bob", 900)], where
            assert "sent 900 to bob" in outcome.value, where


async def test_two_approvals_in_one_answer_wait_together(tmp_path: Path) -> None:
    """Parallel calls are asked about at once and decided in any order; what is decided runs, in the end all."""

    def pay_both(request: ModelRequest) -> Reply:
        if request.turn == 0:
            calls = [ToolCall("transfer", {"to": name, "cents": 900}) for name in ("ann", "bob")]
            return Reply(tool_calls=calls)
        return Reply(" | ".join(message.text for message in request.tool_results))

    with ScriptedModelServer(pay_both) as server:
        bank = Bank(tmp_path, server, deferred)
        await bank.lives.live()
        waits = {wait.question["arguments"]["to"]: wait for wait in bank.lives.waits()}
        assert waits.keys() == {"ann", "bob"}
        bank.lives.decide(waits["bob"], Verdict.APPROVED)
        again = await bank.lives.live()
        assert again is not None
        assert again.state is StateType.PAUSED
        bank.lives.decide(waits["ann"], Verdict.DENIED)
        outcome = await bank.lives.live()
        assert len(server.requests) == 2, outcome
    assert outcome is not None
    assert bank.ledger == [("bob", 900)]
    assert outcome.value.startswith("transfer was denied")
    assert outcome.value.endswith("sent 900 to bob")


async def test_an_edit_that_the_tool_refuses_executes_nothing(tmp_path: Path) -> None:
    """Edited arguments pass the tool's own validator before anything runs; the schema was checked at the decision."""
    with ScriptedModelServer(pay_bob) as server:
        bank = Bank(tmp_path, server, deferred)
        await bank.lives.live()
        (wait,) = bank.lives.waits()
        with pytest.raises(DecisionRefusedError, match="cents"):
            bank.lives.decide(wait, Verdict.APPROVED, {"cents": "many"})
        bank.lives.decide(wait, Verdict.APPROVED, {"cents": -5})
        outcome = await bank.lives.live()
    assert outcome is not None
    assert bank.ledger == []
    assert "cents must be positive" in outcome.value


async def test_edited_arguments_have_the_tools_types(tmp_path: Path) -> None:
    """What a person writes as JSON reaches the tool as the types that it declares."""
    paid: list[Any] = []
    sent = {"amount": "12.50", "due": "2026-11-23", "note": {"text": "rent"}}

    def script(request: ModelRequest) -> Reply:
        return Reply(tool_calls=[ToolCall("pay", sent)]) if request.turn == 0 else Reply("done")

    def tools(_ledger: Ledger) -> AbstractToolset[object]:
        bank: FunctionToolset[object] = FunctionToolset(id="bank")

        @bank.tool_plain(requires_approval=True)
        def pay(amount: Decimal, due: dt.date, note: Note) -> str:
            paid.extend([amount, due, note])
            return "paid"

        return bank

    with ScriptedModelServer(script) as server:
        bank = Bank(tmp_path, server, tools)
        await bank.lives.live()
        (wait,) = bank.lives.waits()
        assert wait.question["arguments"] == sent
        bank.lives.decide(wait, Verdict.APPROVED, {"amount": "9.99"})
        outcome = await bank.lives.live()
    assert outcome is not None
    assert outcome.state is StateType.COMPLETED, outcome
    assert paid == [Decimal("9.99"), dt.date(2026, 11, 23), Note(text="rent")]


async def test_a_handler_of_the_agent_decides_first(tmp_path: Path) -> None:
    """Where the agent's own code answers a deferred call, nobody else is asked; the tool still runs only once."""
    handler: HandleDeferredToolCalls[object] = HandleDeferredToolCalls(
        handler=lambda _context, requests: requests.build_results(approve_all=True)
    )
    with ScriptedModelServer(pay_bob) as server:
        bank = Bank(tmp_path, server, deferred, handler)
        assert await bank.lives.live(at_end=True) is None
        outcome = await bank.lives.live()
    assert outcome is not None
    assert outcome.state is StateType.COMPLETED
    assert bank.ledger == [("bob", 900)]


async def test_a_sub_agents_approval_is_signed_below_its_boss(tmp_path: Path) -> None:
    """An approval asked for by a sub-agent suspends the whole run, and the sub-agent's model is told of the edit."""
    ledger: Ledger = []

    def script(request: ModelRequest) -> Reply:
        if request.turn == 0 and request.tools[0].name == "delegate":
            return Reply(tool_calls=[ToolCall("delegate")])
        return pay_bob(request)

    with ScriptedModelServer(script) as server:

        @flow
        async def paying() -> str:
            async with chat_model(server) as model:
                payer = Agent(model, name="payer", toolsets=[deferred(ledger)], capabilities=[Durability()])
                desk: FunctionToolset[object] = FunctionToolset(id="desk")

                @desk.tool
                async def delegate(context: RunContext[object]) -> str:
                    return (await payer.run("pay bob", usage=context.usage)).output

                boss = Agent(model, name="boss", toolsets=[desk], capabilities=[Durability()])
                return (await boss.run("have bob paid")).output

        lives = Lives(tmp_path, paying)
        await lives.live()
        lives.decide(lives.waits()[0], Verdict.APPROVED, {"cents": 5})
        outcome = await lives.live()
        assert len(server.requests) == 4
    assert outcome is not None
    assert ledger == [("bob", 5)]
    assert outcome.value.count("A person changed the arguments of transfer") == 1


@pytest.mark.parametrize("tools", [deferred, signed_task, effect_by_option])
async def test_a_retried_task_does_not_pay_again(tmp_path: Path, tools: Tools) -> None:
    """Where the task around an agent is tried again, what was signed and paid stays: nobody is asked twice."""
    ledger: Ledger = []
    tries: list[str] = []
    with ScriptedModelServer(pay_bob) as server:

        @task(retries=1)
        async def pay(model: OpenAIChatModel) -> str:
            agent = Agent(model, name="payer", toolsets=[tools(ledger)], capabilities=[Durability()])
            result = await agent.run("pay bob")
            tries.append(result.output)
            if len(tries) == 1:
                message = "the first try fails after all, by its own code: the model is asked again"
                raise ValueError(message)
            return result.output

        @flow
        async def paying() -> str:
            async with chat_model(server) as model:
                return await pay(model)

        lives = Lives(tmp_path, paying)
        await lives.live()
        lives.decide(lives.waits()[0], Verdict.APPROVED, {"cents": 7})
        outcome = await lives.live()
        assert len(server.requests) == 4
    assert outcome is not None
    assert outcome.state is StateType.COMPLETED
    assert ledger == [("bob", 7)]
    assert tries[0] == tries[1] == outcome.value


async def test_what_the_tool_says_stands_in_the_question(tmp_path: Path) -> None:
    """The reason that a tool gives for needing approval, and its description, are put before the person."""
    with ScriptedModelServer(pay_bob) as server:
        bank = Bank(tmp_path, server, raising)
        await bank.lives.live()
    (wait,) = bank.lives.waits()
    assert wait.name == "transfer"
    assert wait.question["description"] == 'Send money.\n{"limit":100}'
    assert set(wait.schema["properties"]) == {"to", "cents"}
