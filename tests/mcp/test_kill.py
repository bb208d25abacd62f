"""kill -9 of a real server process between question and answer: the answer still counts, nothing is repeated."""

import os
import signal
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, ElicitResult, InputRequiredResult

from tests.mcp.conftest import Person, connect, http_process, stdio_transport
from tests.mcp.tasks_client import Created, ask, call, knowing, until

World = Callable[[], list[str]]
ORDER = {"order_id": "a1"}


class Machine:
    """Where servers are started and killed, one after the other, over the same journal."""

    def __init__(self, transport: str, home: Path) -> None:
        self.transport, self.home = transport, home
        self._pidfile = home / "pid"

    @contextmanager
    def server(self) -> Generator[Any]:
        """A new server process; gives what a client connects to."""
        with ExitStack() as stack:
            if self.transport == "stdio":
                yield stdio_transport(self.home, PIDFILE=str(self._pidfile))
                return
            address, process = stack.enter_context(http_process(self.home))
            self._pidfile.write_text(str(process.pid), encoding="utf-8")
            yield f"{address}/mcp"

    def kill(self) -> None:
        """Kill -9 of the server that was started last."""
        os.kill(int(self._pidfile.read_text(encoding="utf-8")), signal.SIGKILL)


@pytest.fixture(params=["stdio", "http"])
def machine(request: pytest.FixtureRequest, home: Path) -> Machine:
    return Machine(request.param, home)


async def test_a_modern_answer_survives_the_server(machine: Machine, world: World) -> None:
    """A new process accepts the state that a killed one has sealed, and completes the same run."""
    with machine.server() as target:
        client = connect(target, "auto", Person(["cancel"]))
        await client.__aenter__()
        asked = await client.session.call_tool("refund_order", ORDER, allow_input_required=True)
        assert isinstance(asked, InputRequiredResult)
        machine.kill()
        await client.close()
    assert world() == ["find a1"]
    yes = ElicitResult(action="accept", content={"approve": True})
    with machine.server() as target:
        async with connect(target, "auto", Person(["cancel"])) as client:
            for _ in range(2):  # the second time is a replay
                result = await client.session.call_tool(
                    "refund_order",
                    ORDER,
                    input_responses=dict.fromkeys(asked.input_requests or {}, yes),
                    request_state=asked.request_state,
                    allow_input_required=True,
                )
                assert isinstance(result, CallToolResult)
                assert (result.structured_content or {})["order_id"] == "A1"
    assert world() == ["find a1", "refund A1 5"]


async def test_a_legacy_question_survives_the_server(machine: Machine, world: World) -> None:
    """The server dies while the form is open: a new one lists the run, and asks again when it is awaited."""

    def kill(_: Any) -> str:
        machine.kill()
        return "cancel"

    with machine.server() as target:
        client = connect(target, "legacy", Person([kill]), timeout=5)
        await client.__aenter__()
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the client makes of a dead server
            await client.call_tool("refund_order", ORDER)
        await client.close()
    assert world() == ["find a1"]
    with machine.server() as target:
        async with connect(target, "legacy", Person([{"approve": True}])) as client:
            listed = (await client.call_tool("list_runs", {})).structured_content or {}
            (run,) = listed["runs"]
            done = (await client.call_tool("await_run", {"run_id": run["run_id"]})).structured_content or {}
    assert (done["status"], done["result"]["order_id"]) == ("completed", "A1")
    assert world() == ["find a1", "refund A1 5"]


async def test_an_answer_that_was_taken_is_not_lost(machine: Machine, world: World) -> None:
    """Killed right after the first of two answers, the run goes on from there and asks for the second only."""
    with machine.server() as target:
        client = connect(target, "auto", Person(["cancel"]))
        await client.__aenter__()
        arguments = {"first": "x", "second": "y"}
        asked = await client.session.call_tool("refund_in_turn", arguments, allow_input_required=True)
        assert isinstance(asked, InputRequiredResult)
        yes = ElicitResult(action="accept", content={"approve": True})
        second = await client.session.call_tool(
            "refund_in_turn",
            arguments,
            input_responses=dict.fromkeys(asked.input_requests or {}, yes),
            request_state=asked.request_state,
            allow_input_required=True,
        )
        assert isinstance(second, InputRequiredResult)
        machine.kill()
        await client.close()
    person = Person([{"approve": True}])
    with machine.server() as target:
        async with connect(target, "auto", person) as client:
            (run,) = ((await client.call_tool("list_runs", {})).structured_content or {})["runs"]
            done = (await client.call_tool("await_run", {"run_id": run["run_id"]})).structured_content or {}
    assert done["status"] == "completed"
    assert len(person.asked) == 1
    assert world() == ["refund x 1", "refund y 2"]


async def test_a_task_survives_the_server(machine: Machine, world: World) -> None:
    """A new client of a new process, which holds only the task's id, sees it, answers it and gets the result."""
    with machine.server() as target:
        client = knowing(target)
        await client.__aenter__()
        created = await call(client, "refund_order", **ORDER)
        assert isinstance(created, Created)
        await until(client, created.task_id, "input_required")
        machine.kill()
        await client.close()
    with machine.server() as target:
        async with knowing(target) as client:
            ((key, _),) = (await until(client, created.task_id, "input_required"))["inputRequests"].items()
            yes = {"action": "accept", "content": {"approve": True}}
            await ask(client, "tasks/update", taskId=created.task_id, inputResponses={key: yes})
            task = await until(client, created.task_id, "completed")
    assert task["result"]["structuredContent"]["order_id"] == "A1"
    assert world() == ["find a1", "refund A1 5"]
