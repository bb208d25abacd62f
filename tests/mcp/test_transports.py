"""The whole way of a call, over every transport and in both protocol eras."""

import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from agentflow.mcp.server import http_app
from agentflow.workers.inline import InlineWorker
from tests.mcp.conftest import Person, connect, listening_on_a_socket, said, stdio_transport


@pytest.fixture(params=["http", "stdio"])
async def target(request: pytest.FixtureRequest, home: Path) -> AsyncGenerator[Any]:
    """Something a client can connect to: a socket, or a process of its own."""
    if request.param == "stdio":
        yield stdio_transport(home)
        return
    worker: InlineWorker = request.getfixturevalue("worker")
    async with listening_on_a_socket(http_app(worker, base_url="http://127.0.0.1:4300")) as address:
        yield f"{address}/mcp"


async def test_a_flow_is_a_tool(target: Any, era: str) -> None:
    """A client lists flows as tools, calls them, sees progress, structured results, errors and what was wrong."""
    seen: list[tuple[float, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, message))

    async with connect(target, era, progress_handler=progress) as client:
        assert client.protocol_version == ("2026-07-28" if era == "auto" else "2025-11-25")
        tools = {tool.name: tool for tool in await client.list_tools()}
        assert tools["refund_order"].description == "Refund an order."
        assert tools["refund_order"].input_schema["properties"]["amount"]["default"] == 5
        counted = await client.call_tool("count", {"steps": 3})
        assert counted.structured_content == {"total": 3}
        assert seen == [(1, "step"), (2, "step"), (3, "step")]
        greeted = await client.call_tool("greet", {"name": "Ada"})
        assert (greeted.structured_content, said(greeted)) == (
            {"result": "Hello, Ada!"},
            "Hello, Ada!",
        )
        failed = await client.call_tool("broken", {"text": "no such thing"}, raise_on_error=False)
        assert failed.is_error
        assert said(failed).startswith("LookupError: no such thing")
        assert "Traceback" not in json.dumps(failed.structured_content) + said(failed)
        wrong = await client.call_tool("greet", {"nmae": "Ada"}, raise_on_error=False)
        assert wrong.is_error
        assert "'nmae'" in said(wrong)


async def test_a_person_signs_in_the_chat(target: Any, era: str, world: Callable[[], list[str]]) -> None:
    """Approving runs exactly what was signed, editing what was edited; denying and cancelling run nothing."""
    edit: dict[str, Any] = {"approve": True, "amount": 7, "note": "sorry"}
    person = Person([edit, {"approve": False, "reason": "too much"}, "decline", "cancel"])
    async with connect(target, era, person) as client:
        edited = await client.call_tool("refund_order", {"order_id": "a1"})
        assert edited.structured_content == {"order_id": "A1", "amount": 7, "note": "sorry"}
        denied = await client.call_tool("refund_order", {"order_id": "a2"}, raise_on_error=False)
        assert denied.is_error
        assert "ApprovalDenied: refund was denied: too much" in said(denied)
        declined = await client.call_tool("refund_order", {"order_id": "a3"}, raise_on_error=False)
        assert declined.is_error
        left = await client.call_tool("refund_order", {"order_id": "a4"})
        assert left.structured_content is not None
        assert left.structured_content["status"] == "awaiting_approval"
    assert [line for line in world() if line.startswith("refund")] == ["refund A1 7 sorry"]
    assert len(person.asked) == 4
    assert 'order_id = "A1"' in person.asked[0].message
    assert person.asked[0].requested_schema["required"] == ["approve"]
    assert person.asked[0].requested_schema["properties"]["amount"]["default"] == 5


async def test_nobody_is_asked_who_cannot_show_a_form(
    target: Any, era: str, world: Callable[[], list[str]]
) -> None:
    """A client without forms gets the ways to the inbox and the terminal, and can await the run."""
    async with connect(target, era) as client:
        asked = await client.call_tool("refund_order", {"order_id": "a1"})
        status: dict[str, Any] = asked.structured_content or {}
        assert status["status"] == "awaiting_approval"
        assert status["waiting_for"][0]["arguments"] == {"order_id": "A1", "amount": 5, "note": ""}
        assert status["approval_id"] in status["cli"]
        again = await client.call_tool("await_run", {"run_id": status["run_id"], "timeout_seconds": 0})
        assert (again.structured_content or {})["status"] == "awaiting_approval"
    assert world() == ["find a1"]
