"""The Tasks extension over the journal: a run is a task."""

from collections.abc import Callable
from typing import Any

import pytest
from fastmcp import FastMCP
from mcp.client import advertise
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

from agentflow.journal.protocol import Journal, RunFilter
from agentflow.mcp.calls import Patience
from agentflow.mcp.sealing import Keys
from agentflow.mcp.server import build_server, http_app
from agentflow.mcp.task_shapes import EXTENSION
from agentflow.model.states import StateType
from agentflow.workers.inline import InlineWorker
from tests.mcp.conftest import Person, connect, listening_on_a_socket, only_wait, said
from tests.mcp.sample_flows import GATE
from tests.mcp.tasks_client import Created, ask, call, knowing, until

World = Callable[[], list[str]]


@pytest.fixture
def patience() -> Patience:
    """Everything that does not end at once becomes a task."""
    return Patience(run=20, question=20, task=0.05)


async def test_a_quick_flow_needs_no_task(server: FastMCP[Any]) -> None:
    """What ends shortly after it was started is answered with its result, to clients that know tasks as well."""
    patient = build_server(worker_of(server), patience=Patience(task=20))
    async with knowing(patient) as client:
        result = await call(client, "greet", name="Ada")
    assert result.structured_content == {"result": "Hello, Ada!"}


async def test_a_long_flow_becomes_a_task(server: FastMCP[Any], journal: Journal) -> None:
    """The task is working while the run works, and then holds the call's result."""
    async with knowing(server) as client:
        created = await call(client, "hold")
        assert isinstance(created, Created)
        assert created.status == "working"
        GATE.set()
        task = await until(client, created.task_id, "completed")
    assert task["result"]["structuredContent"] == {"result": "let go"}
    assert task["result"]["content"] == [{"type": "text", "text": "let go"}]
    assert task["ttlMs"] is None
    assert task["resultType"] == "complete"
    assert len(journal.list_runs(RunFilter())) == 1


async def test_the_sdk_lets_tasks_through(worker: InlineWorker) -> None:
    """A task reaches a client over HTTP unchanged: mcp 2.3 no longer strips results of extensions."""
    app = http_app(worker, base_url="")
    async with listening_on_a_socket(app) as address, knowing(f"{address}/mcp") as client:
        created = await call(client, "refund_order", order_id="a1")
        assert created.task_id
        assert created.model_dump()["pollIntervalMs"] > 0
        assert (await until(client, created.task_id, "input_required"))["taskId"] == created.task_id


async def test_a_task_asks_for_a_signature(server: FastMCP[Any], world: World, journal: Journal) -> None:
    """A run that waits for a person is a task that requires input; its answer is a decision."""
    async with knowing(server, Person(["cancel"])) as client:
        created = await call(client, "refund_order", order_id="a1")
        task = await until(client, created.task_id, "input_required")
        ((key, asked),) = task["inputRequests"].items()
        assert asked["method"] == "elicitation/create"
        assert 'order_id = "A1"' in asked["params"]["message"]
        answer = {"action": "accept", "content": {"approve": True, "amount": 2}}
        assert (await ask(client, "tasks/update", taskId=created.task_id, inputResponses={key: answer}))[
            "resultType"
        ] == "complete"
        done = await until(client, created.task_id, "completed")
    assert done["result"]["structuredContent"]["amount"] == 2
    assert world() == ["find a1", "refund A1 2"]
    assert journal.list_waits() == []


async def test_questions_can_be_answered_one_by_one(server: FastMCP[Any], world: World) -> None:
    """After an answer to one of two questions the task still requires the other, under the same key."""
    async with knowing(server, Person(["cancel"])) as client:
        created = await call(client, "refund_two", first="x", second="y")
        task = await until(client, created.task_id, "input_required")
        first, second = task["inputRequests"]
        yes = {"action": "accept", "content": {"approve": True}}
        await ask(client, "tasks/update", taskId=created.task_id, inputResponses={first: yes})
        left = await until(client, created.task_id, "input_required")
        assert list(left["inputRequests"]) == [second]
        await ask(client, "tasks/update", taskId=created.task_id, inputResponses={first: yes, second: yes})
        await until(client, created.task_id, "completed")
    assert sorted(world()) == ["refund x 1", "refund y 2"]


async def test_only_what_is_asked_can_be_answered(server: FastMCP[Any], journal: Journal) -> None:
    """Answers under made-up keys, the wait's id among them, and malformed ones, change nothing."""
    async with knowing(server, Person(["cancel"])) as client:
        created = await call(client, "refund_order", order_id="a1")
        task = await until(client, created.task_id, "input_required")
        ((key, _),) = task["inputRequests"].items()
        yes = {"action": "accept", "content": {"approve": True}}
        for responses in ({only_wait(journal).id: yes, "x": yes}, {key: "yes"}, {key: {"action": "agreed"}}):
            await ask(client, "tasks/update", taskId=created.task_id, inputResponses=responses)
        assert (await ask(client, "tasks/get", taskId=created.task_id))["status"] == "input_required"
    assert only_wait(journal).is_open


async def test_a_failed_flow_is_a_completed_task(server: FastMCP[Any]) -> None:
    """An exception of the flow is a tool error in a completed task; `failed` is for errors of the protocol."""
    instant = build_server(worker_of(server), patience=Patience(task=0.0001))
    async with knowing(instant) as client:
        created = await call(client, "nap", seconds=0.2)
        task = await until(client, created.task_id, "completed")
        assert task["result"]["structuredContent"] == {"result": "rested"}
        created = await call(client, "broken", text="no such thing")
        if isinstance(created, Created):
            created = CallToolResult.model_validate(
                (await until(client, created.task_id, "completed"))["result"], by_name=False
            )
    assert created.is_error
    assert said(created).startswith("LookupError: no such thing")


async def test_cancelling_a_task_cancels_the_run(server: FastMCP[Any], journal: Journal) -> None:
    """tasks/cancel means the run; of a task that has ended it is acknowledged and changes nothing."""
    async with knowing(server) as client:
        created = await call(client, "nap")
        assert (await ask(client, "tasks/cancel", taskId=created.task_id))["resultType"] == "complete"
        await until(client, created.task_id, "cancelled")
        assert (await ask(client, "tasks/cancel", taskId=created.task_id))["resultType"] == "complete"
    (run,) = journal.list_runs(RunFilter())
    assert run.state is StateType.CANCELLED


async def test_wrong_arguments_make_no_task(server: FastMCP[Any], journal: Journal) -> None:
    """Arguments that do not fit are an ordinary tool error."""
    async with knowing(server) as client:
        result = await call(client, "greet", nmae="Ada")
    assert result.is_error
    assert journal.list_runs(RunFilter()) == []


@pytest.mark.parametrize("made_up", ["x", "{run}", "{run}.", "{run}.00000000000000000000000000000000"])
async def test_a_task_cannot_be_guessed(server: FastMCP[Any], journal: Journal, made_up: str) -> None:
    """A run's id is no task's id: that carries a mark which only this installation can make."""
    async with knowing(server) as client:
        await call(client, "hold")
        (run,) = journal.list_runs(RunFilter())
        for method in ("tasks/get", "tasks/cancel"):
            with pytest.raises(MCPError, match="no such task"):
                await ask(client, method, taskId=made_up.format(run=run.id))


def test_a_task_belongs_to_its_principal(journal: Journal) -> None:
    """The id of another principal's task is unknown to everybody else."""
    keys = Keys(journal.key)
    task = keys.task("run", '["alice",null,null]')
    assert keys.run_of_task(task, '["alice",null,null]') == "run"
    assert keys.run_of_task(task, '["bob",null,null]') is None
    assert keys.run_of_task(task, "") is None


async def test_tasks_are_for_those_who_know_them(server: FastMCP[Any]) -> None:
    """Without the extension no call becomes a task, and its methods are refused with -32021."""
    async with connect(server, "auto", Person([{"approve": True}])) as client:
        result = await call(client, "refund_order", order_id="a1")
        assert not isinstance(result, Created)
        with pytest.raises(MCPError) as refused:
            await ask(client, "tasks/get", taskId="x")
        assert refused.value.error.code == -32021
    async with connect(server, "auto", extensions=[advertise(EXTENSION)]) as client:
        with pytest.raises(MCPError) as unknown:
            await ask(client, "tasks/get", taskId="x")
        assert unknown.value.error.code == -32602


def worker_of(server: FastMCP[Any]) -> InlineWorker:
    """The worker behind a server that a fixture has built."""
    provider: Any = server.providers[-1]
    return provider._desk.worker
