"""A client that stops waiting: the call ends, the run does not."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from fastmcp import FastMCP

from agentflow.journal.protocol import Journal, RunFilter
from agentflow.mcp.server import http_app
from agentflow.model.states import StateType
from agentflow.workers.inline import InlineWorker
from tests.mcp.conftest import connect, listening_on_a_socket
from tests.mcp.sample_flows import GATE

T = TypeVar("T")


async def once(found: Callable[[], T]) -> T:
    """What `found` finds, as soon as it finds something."""
    async with asyncio.timeout(20):
        while not (result := found()):  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0)
    return result


async def started(journal: Journal) -> str:
    """The id of the run, once it runs."""
    runs = await once(lambda: journal.list_runs(RunFilter(states=(StateType.RUNNING,))))
    return runs[0].id


async def logged(journal: Journal, run_id: str) -> str:
    """The first line of the run's log, once there is one."""
    run = journal.get_run(run_id)
    assert run is not None
    lines = await once(lambda: journal.logs(run.number))
    return lines[0][1].text


@pytest.mark.parametrize("transport", ["memory", "http"])
async def test_a_cancelled_call_leaves_the_run_alone(
    server: FastMCP[Any], worker: InlineWorker, journal: Journal, era: str, transport: str
) -> None:
    """Cancelling (a notification, or a closed stream) ends the call; the run goes on, and its log says so."""

    async def scenario(target: Any) -> None:
        async with connect(target, era) as client:
            call = asyncio.create_task(client.call_tool("hold", {}))
            run_id = await started(journal)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert "no longer waits for this call; the run goes on" in await logged(journal, run_id)
            GATE.set()
            done = (await client.call_tool("await_run", {"run_id": run_id})).structured_content or {}
            assert done["result"] == "let go"

    if transport == "memory":
        await scenario(server)
        return
    async with listening_on_a_socket(http_app(worker, base_url="")) as address:
        await scenario(f"{address}/mcp")


async def test_a_vanished_client_leaves_the_run_alone(
    server: FastMCP[Any], worker: InlineWorker, journal: Journal, world: Callable[[], list[str]]
) -> None:
    """A client that goes away with an open question leaves the question open."""
    async with connect(server, "auto") as client:
        left = (await client.call_tool("refund_order", {"order_id": "a1"})).structured_content or {}
    run = journal.get_run(left["run_id"])
    assert run is not None
    assert run.state is StateType.PAUSED
    assert world() == ["find a1"]
