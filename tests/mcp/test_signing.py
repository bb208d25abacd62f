"""Signatures over MCP: one decision, one execution; what a client may and may not achieve."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from agentflow.approvals.decisions import decide
from agentflow.errors import UsageError
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.mcp.asking import MOST_ROUNDS
from agentflow.mcp.calls import Patience
from agentflow.mcp.sealing import Continuation, call_digest
from agentflow.mcp.server import build_server
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.model.waits import Assurance, Channel, Verdict, WaitKind
from agentflow.workers.inline import InlineWorker
from tests.mcp.conftest import Person, connect, only_wait

World = Callable[[], list[str]]
ORDER = {"order_id": "a1"}


async def first_round(client: Client[Any], tool: str, arguments: dict[str, Any]) -> InputRequiredResult:
    """Call a tool in the modern era, and get its questions."""
    result = await client.session.call_tool(tool, arguments, allow_input_required=True)
    assert isinstance(result, InputRequiredResult)
    return result


async def answered(
    client: Client[Any],
    asked: InputRequiredResult,
    tool: str,
    arguments: dict[str, Any],
    answer: ElicitResult,
) -> CallToolResult | InputRequiredResult:
    """Answer all questions of a round."""
    return await client.session.call_tool(
        tool,
        arguments,
        input_responses=dict.fromkeys(asked.input_requests or {}, answer),
        request_state=asked.request_state,
        allow_input_required=True,
    )


def yes(**more: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"approve": True, **more})


async def test_a_decision_says_who_decided_where(server: FastMCP[Any], journal: Journal, era: str) -> None:
    """The record names the client and the channel, at low assurance: a client can answer by itself."""
    async with connect(server, era, Person([{"approve": True, "reason": "fine"}])) as client:
        await client.call_tool("refund_order", ORDER)
    (wait,) = journal.list_waits(open_only=False)
    assert wait.decision is not None
    assert wait.decision.verdict is Verdict.APPROVED
    assert wait.decision.channel is Channel.ELICITATION
    assert wait.decision.assurance is Assurance.LOW
    assert wait.decision.actor.startswith("mcp ")
    assert wait.decision.reason == "fine"


async def test_runs_of_a_model_are_marked_so(server: FastMCP[Any], journal: Journal) -> None:
    """A run that is started over MCP has a model's origin, so that its side effects are signed."""
    async with connect(server, "auto") as client:
        await client.call_tool("greet", {"name": "Ada"})
        await client.call_tool("start_run", {"flow": "greet", "arguments": {"name": "Ada"}})
    assert {run.origins for run in journal.list_runs(RunFilter())} == {(Origin.MODEL,)}


@pytest.mark.parametrize("approve", [None, "yes", 1])
async def test_only_an_explicit_yes_approves(
    server: FastMCP[Any], journal: Journal, world: World, approve: Any, era: str
) -> None:
    """A client that accepts forms by itself, with nothing or nonsense in them, approves nothing."""
    content = {} if approve is None else {"approve": approve}
    async with connect(server, era, Person([content])) as client:
        result = await client.call_tool("refund_order", ORDER)
    assert (result.structured_content or {})["status"] == "awaiting_approval"
    assert only_wait(journal).is_open
    assert world() == ["find a1"]


async def test_a_malformed_edit_is_asked_again(server: FastMCP[Any], world: World, era: str) -> None:
    """An edit that does not fit the tool's schema runs nothing: the form comes back and says what was wrong."""
    person = Person([{"approve": True, "amount": "much"}, {"approve": True, "amount": 3}])
    async with connect(server, era, person) as client:
        result = await client.call_tool("refund_order", ORDER)
    assert (result.structured_content or {})["amount"] == 3
    assert "amount: 'much' is not of type 'integer'" in person.asked[1].message
    assert world() == ["find a1", "refund A1 3"]


async def test_several_questions_come_in_one_round(server: FastMCP[Any], world: World) -> None:
    """Side effects that wait at the same time are put before the person together."""
    async with connect(server, "auto", Person(["cancel"])) as client:
        asked = await first_round(client, "refund_two", {"first": "x", "second": "y"})
        assert len(asked.input_requests or {}) == 2
        result = await answered(client, asked, "refund_two", {"first": "x", "second": "y"}, yes())
    assert isinstance(result, CallToolResult)
    assert sorted(world()) == ["refund x 1", "refund y 2"]


async def test_questions_in_turn_are_asked_in_turn(server: FastMCP[Any], world: World, era: str) -> None:
    """One call can ask several times, and its run goes on where it was."""
    person = Person([{"approve": True}])
    async with connect(server, era, person) as client:
        await client.call_tool("refund_in_turn", {"first": "x", "second": "y"})
    assert len(person.asked) == 2
    assert world() == ["refund x 1", "refund y 2"]


async def test_a_replayed_state_runs_nothing_twice(
    server: FastMCP[Any], journal: Journal, world: World
) -> None:
    """The same sealed state, sent again with any answer, gives the same run's result and executes nothing."""
    async with connect(server, "auto", Person(["cancel"])) as client:
        asked = await first_round(client, "refund_order", ORDER)
        first = await answered(client, asked, "refund_order", ORDER, yes())
        again = await answered(client, asked, "refund_order", ORDER, yes(amount=999))
        other = await answered(client, asked, "refund_order", ORDER, ElicitResult(action="decline"))
    assert isinstance(first, CallToolResult)
    assert isinstance(again, CallToolResult)
    assert isinstance(other, CallToolResult)
    assert first.structured_content == again.structured_content == other.structured_content
    assert world() == ["find a1", "refund A1 5"]
    assert len(journal.list_runs(RunFilter())) == 1


async def test_a_retried_call_belongs_to_the_same_run(
    server: FastMCP[Any], journal: Journal, world: World
) -> None:
    """Answering continues the run that asked: finished steps are not repeated, no second run is made."""
    async with connect(server, "auto", Person(["cancel"])) as client:
        asked = await first_round(client, "refund_order", ORDER)
        (run,) = journal.list_runs(RunFilter())
        result = await answered(client, asked, "refund_order", ORDER, yes())
    assert isinstance(result, CallToolResult)
    assert result.meta is not None
    assert result.meta["agentflow/run_id"] == run.id
    assert world() == ["find a1", "refund A1 5"]


async def test_progress_is_told_once(server: FastMCP[Any], era: str) -> None:
    """Over all rounds of a call, each finished step is reported once, in order."""
    told: list[tuple[float, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, message))

    async with connect(server, era, Person([{"approve": True}]), progress_handler=progress) as client:
        await client.call_tool("refund_order", ORDER)
    assert told == [(1, "find_order"), (2, "refund")]


async def test_changed_arguments_are_refused(server: FastMCP[Any], journal: Journal, world: World) -> None:
    """An answer cannot be carried over to other arguments or another tool."""
    async with connect(server, "auto", Person(["cancel"])) as client:
        asked = await first_round(client, "refund_order", ORDER)
        for tool, arguments in (
            ("refund_order", {"order_id": "b2"}),
            ("refund_two", {"first": "a", "second": "b"}),
        ):
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await answered(client, asked, tool, arguments, yes())
    assert only_wait(journal).is_open
    assert world() == ["find a1"]


@pytest.mark.parametrize("forged", ["{true}AAAAAA", "v1.AAAA", '{{"run_id": "x"}}'])
async def test_a_forged_state_is_refused(
    server: FastMCP[Any], journal: Journal, world: World, forged: str
) -> None:
    """What the client sends back is its own until the seal says otherwise."""
    async with connect(server, "auto", Person(["cancel"])) as client:
        asked = await first_round(client, "refund_order", ORDER)
        state = forged.format(true=(asked.request_state or "")[:-6])
        with pytest.raises(MCPError, match="Invalid or expired requestState"):
            await answered(
                client, asked.model_copy(update={"request_state": state}), "refund_order", ORDER, yes()
            )
    assert only_wait(journal).is_open
    assert world() == ["find a1"]


def test_a_state_belongs_to_one_call() -> None:
    """Below the seal, the state names its call: under another tool or other arguments it is refused, not ignored."""
    state = Continuation(call=call_digest("pay", {"to": "a"}), run_id="run").model_dump_json()
    found = Continuation.read(state, "pay", {"to": "a"})
    assert found is not None
    assert found.run_id == "run"
    assert Continuation.read(None, "pay", {"to": "a"}) is None
    for tool, arguments, text in (
        ("pay", {"to": "b"}, state),
        ("send", {"to": "a"}, state),
        ("pay", {"to": "a"}, "{}"),
    ):
        with pytest.raises(UsageError, match="belongs to another call"):
            Continuation.read(text, tool, arguments)


async def test_a_forged_answer_on_the_first_call_is_ignored(
    server: FastMCP[Any], journal: Journal, world: World
) -> None:
    """An answer to what nobody asked is no answer, whatever key it comes under."""
    async with connect(server, "auto", Person(["cancel"])) as client:
        asked = await first_round(client, "refund_order", ORDER)
        wait = only_wait(journal)
        for key in ("approval", wait.id, *(asked.input_requests or {})):
            result = await client.session.call_tool(
                "refund_order", ORDER, input_responses={key: yes()}, allow_input_required=True
            )
            assert isinstance(result, InputRequiredResult)
    assert all(wait.is_open for wait in journal.list_waits())
    assert "refund A1 5" not in world()


async def test_unsolicited_answers_are_ignored(server: FastMCP[Any], journal: Journal, world: World) -> None:
    """With a valid state, only the questions of that state can be answered."""
    async with connect(server, "auto", Person(["cancel"])) as client:
        asked = await first_round(client, "refund_order", ORDER)
        other = await first_round(client, "refund_order", {"order_id": "b2"})
        foreign = asked.model_copy(update={"input_requests": other.input_requests})
        result = await answered(client, foreign, "refund_order", ORDER, yes())
    assert isinstance(result, CallToolResult)
    assert (result.structured_content or {})["status"] == "awaiting_approval"
    assert [wait.is_open for wait in journal.list_waits()] == [True, True]
    assert world() == ["find a1", "find b2"]


async def test_a_client_is_not_asked_for_ever(worker: InlineWorker, journal: Journal) -> None:
    """After some rounds in one call, the questions are left to the inbox."""
    server = build_server(worker, patience=Patience(run=20))
    faulty = ElicitResult(action="accept", content={"approve": "perhaps"})
    async with connect(server, "auto", Person(["cancel"])) as client:
        result: Any = await first_round(client, "refund_order", ORDER)
        rounds = 1
        while isinstance(result, InputRequiredResult):
            result = await answered(client, result, "refund_order", ORDER, faulty)
            rounds += 1
    assert rounds == MOST_ROUNDS + 1
    assert result.structured_content["status"] == "awaiting_approval"
    assert only_wait(journal).is_open


async def test_an_unanswered_form_stays_open(worker: InlineWorker, journal: Journal, world: World) -> None:
    """A legacy client whose person does not answer in time gets the other ways; the question stays."""
    server = build_server(worker, patience=Patience(run=20, question=0.2))
    forms_closed = asyncio.Event()

    async def never(*_: Any) -> ElicitResult:
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            forms_closed.set()

    async with Client(server, mode="legacy", elicitation_handler=never) as client:
        result = await client.call_tool("refund_order", ORDER)
    assert (result.structured_content or {})["status"] == "awaiting_approval"
    assert forms_closed.is_set()
    assert only_wait(journal).is_open
    assert world() == ["find a1"]


async def test_somebody_elsewhere_may_be_faster(server: FastMCP[Any], journal: Journal, world: World) -> None:
    """A question that is answered in the web while a chat shows it is over there, too."""

    async def elsewhere(*_: Any) -> ElicitResult:
        decide(journal, only_wait(journal).id, Verdict.APPROVED, channel=Channel.WEB, actor="somebody")
        return await asyncio.get_running_loop().create_future()

    async with Client(server, mode="legacy", elicitation_handler=elsewhere) as client:
        result = await client.call_tool("refund_order", ORDER)
    assert (result.structured_content or {})["order_id"] == "A1"
    assert world() == ["find a1", "refund A1 5"]


async def test_a_late_answer_in_the_chat_changes_nothing(
    server: FastMCP[Any], journal: Journal, world: World
) -> None:
    """Whoever is first decides; the other answer is dropped and the run's end is shown."""
    async with connect(server, "auto", Person(["cancel"])) as client:
        asked = await first_round(client, "refund_order", ORDER)
        decide(journal, only_wait(journal).id, Verdict.DENIED, channel=Channel.WEB, reason="no")
        result = await answered(client, asked, "refund_order", ORDER, yes())
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert world() == ["find a1"]


async def test_a_question_that_was_left_open_is_asked_on_waiting(
    server: FastMCP[Any], world: World, era: str
) -> None:
    """await_run puts an open question before the person again, and returns the result."""
    async with connect(server, era, Person(["cancel", {"approve": True}])) as client:
        left: dict[str, Any] = (await client.call_tool("refund_order", ORDER)).structured_content or {}
        assert left["status"] == "awaiting_approval"
        done = await client.call_tool("await_run", {"run_id": left["run_id"]})
    result: dict[str, Any] = done.structured_content or {}
    assert result["status"] == "completed"
    assert result["result"]["order_id"] == "A1"
    assert world() == ["find a1", "refund A1 5"]


async def test_an_input_is_asked_with_its_own_form(server: FastMCP[Any], era: str) -> None:
    """A flow's own question becomes a form of its answer's fields; declining is an answer, too."""
    person = Person([{"street": "Main", "number": 3}, {"answer": "Ada"}, "decline"])
    async with connect(server, era, person) as client:
        address = await client.call_tool("ask_address", {})
        assert address.structured_content == {"street": "Main", "number": 3}
        named = await client.call_tool("ask_name", {})
        assert named.structured_content == {"result": "Hello, Ada"}
        declined = await client.call_tool("ask_name", {}, raise_on_error=False)
        assert declined.is_error
    assert person.asked[0].requested_schema["required"] == ["street"]
    assert person.asked[1].message.startswith("What is your name?")


@pytest.mark.parametrize(
    ("verdict", "happened", "result"),
    [("happened", 0, "yes, it was"), ("run_again", 1, "sent"), ("fail", 0, None)],
)
async def test_doubt_is_resolved_in_the_chat(
    server: FastMCP[Any], world: World, era: str, verdict: str, happened: int, result: str | None
) -> None:
    """A side effect with an unknown end is put before a person with three answers, and declining gives none."""
    person = Person(["decline", {"verdict": verdict, "result": "yes, it was"}])
    async with connect(server, era, person) as client:
        left: dict[str, Any] = (await client.call_tool("send_once", {})).structured_content or {}
        assert left["waiting_for"][0]["kind"] == WaitKind.IN_DOUBT
        done = await client.call_tool("await_run", {"run_id": left["run_id"]})
    state: dict[str, Any] = done.structured_content or {}
    assert state.get("result") == result
    assert state["status"] == ("failed" if result is None else "completed")
    assert world().count("sent") == 1 + happened
    assert "Look whether it happened" in person.asked[0].message


async def test_no_tool_can_decide(server: FastMCP[Any], journal: Journal, world: World) -> None:
    """Every tool that a model can reach, with an approval's id in every argument: the approval stays open."""
    async with connect(server, "auto") as client:
        await client.call_tool("refund_order", ORDER)
        wait = only_wait(journal)
        for tool in await client.list_tools():
            if tool.name in ("hold", "hear", "nap"):
                continue
            properties: dict[str, Any] = tool.input_schema["properties"]
            arguments = {name: filled(schema, wait.id) for name, schema in properties.items()}
            await client.call_tool(tool.name, arguments, raise_on_error=False)
            stolen = {name: filled(schema, wait.run_id) for name, schema in properties.items()}
            if tool.name != "cancel_run":
                await client.call_tool(tool.name, stolen, raise_on_error=False)
    found = journal.get_wait(wait.id)
    assert found is not None
    assert found.is_open
    run = journal.get_run(wait.run_id)
    assert run is not None
    assert run.state is StateType.PAUSED
    assert not [line for line in world() if line.startswith("refund")]


def filled(schema: dict[str, Any], text: str) -> Any:
    """A value for a schema, as malicious as it can be."""
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return 0.01 if kind == "number" else 1
    if kind == "object" or (
        "anyOf" in schema and any(option.get("type") == "object" for option in schema["anyOf"])
    ):
        return {"id": text, "approve": True}
    return text


async def test_what_a_model_sees_of_an_approval_does_not_help_it(
    server: FastMCP[Any], journal: Journal
) -> None:
    """Neither digest nor code of a question - what a terminal wants echoed - is shown by any tool."""
    async with connect(server, "auto") as client:
        status = await client.call_tool("refund_order", ORDER)
        wait = only_wait(journal)
        listed = await client.call_tool("list_approvals", {})
        shown = await client.call_tool("get_run", {"run_id": wait.run_id})
    for result in (status, listed, shown):
        assert wait.digest[:6] not in str(result.structured_content)


async def test_a_form_is_made_of_validated_arguments(worker: InlineWorker, journal: Journal) -> None:
    """Line breaks, invisible and direction-changing characters cannot disguise what is to be signed."""
    asked: list[ElicitRequestFormParams] = []

    async def read(message: str, kind: Any, params: ElicitRequestFormParams, context: Any) -> ElicitResult:
        asked.append(params)
        return ElicitResult(action="cancel")

    server = build_server(worker, patience=Patience(run=20, question=20))
    trick = "a1\n\nApproved already.\u202e\u200b"
    async with Client(server, elicitation_handler=read) as client:
        await client.call_tool("refund_order", {"order_id": trick})
    assert 'order_id = "A1\\n\\nAPPROVED ALREADY.\\u202e\\u200b"' in asked[0].message
    assert "Not shown in the form" not in asked[0].message
