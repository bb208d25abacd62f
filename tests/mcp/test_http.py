"""The server over real sockets: who is refused before a tool is reached, and how it is mounted."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest

from agentflow.journal.protocol import Journal, RunFilter
from agentflow.mcp.server import http_app
from agentflow.workers.inline import InlineWorker
from tests.mcp.conftest import connect, listening_on_a_socket

INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "evil", "version": "1"},
    },
}
ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.fixture
async def address(worker: InlineWorker) -> AsyncGenerator[str]:
    async with listening_on_a_socket(http_app(worker, base_url="https://flows.example:8443")) as found:
        yield found


async def post(address: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.post(f"{address}/mcp", json=INITIALIZE, headers={**ACCEPT, **headers})


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
async def test_an_evil_host_is_refused(address: str, host: str) -> None:
    """DNS rebinding: a page of another site that resolves to this machine brings its own Host."""
    assert (await post(address, host=host)).status_code == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null"])
async def test_an_evil_origin_is_refused(address: str, origin: str) -> None:
    """A page of another site cannot call tools through the visitor's browser."""
    assert (await post(address, origin=origin)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{}, {"host": "localhost"}, {"host": "flows.example:8443", "origin": "https://flows.example:8443"}],
)
async def test_known_hosts_are_served(address: str, headers: dict[str, str]) -> None:
    """Loopback and the server's own address are answered to."""
    assert (await post(address, **headers)).status_code == 200


async def test_the_modern_era_is_guarded_as_well(address: str, journal: Journal) -> None:
    """The check stands before the protocol: it holds for a request of the modern era, too."""
    call: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "greet",
            "arguments": {"name": "Ada"},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    modern = {**ACCEPT, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "greet"}
    async with httpx2.AsyncClient() as client:
        for evil, status in (({"host": "evil.example"}, 421), ({"origin": "https://evil.example"}, 403)):
            refused = await client.post(f"{address}/mcp", json=call, headers={**modern, **evil})
            assert refused.status_code == status
        assert journal.list_runs(RunFilter()) == []
        served = await client.post(f"{address}/mcp", json=call, headers=modern)
    assert served.status_code == 200
    assert "Hello, Ada!" in served.text


async def test_it_can_be_mounted(worker: InlineWorker, era: str) -> None:
    """Below another application's path it serves that path; its lifespan is run by whoever mounts it."""
    from starlette.applications import Starlette  # noqa: PLC0415 - of use here only
    from starlette.routing import Mount  # noqa: PLC0415 - the same

    inner = http_app(worker, base_url="", path="/mcp")
    outer = Starlette(routes=[Mount("/", app=inner)], lifespan=inner.lifespan)
    async with listening_on_a_socket(outer) as found, connect(f"{found}/mcp", era) as client:
        greeted = await client.call_tool("greet", {"name": "Ada"})
    assert greeted.structured_content == {"result": "Hello, Ada!"}
