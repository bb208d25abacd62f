"""Starting and stopping, and apps mounted beside the pages."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from agentflow.mcp.server import http_app
from agentflow.server.app import create_app
from agentflow.workers.inline import InlineWorker
from tests.server.conftest import Running, Serve

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def start_program(home: Path) -> tuple[subprocess.Popen[str], str]:
    """The serving program and its URL."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.server.serve_forever"],
        cwd=ROOT,
        env={**os.environ, "AGENTFLOW_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    return program, program.stdout.readline().strip()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_server(tmp_path: Path, stop: signal.Signals) -> None:
    """A signal ends open streams and the program, quietly; the run that waited is finished by the next server."""
    program, url = start_program(tmp_path)
    with httpx2.Client(base_url=url, timeout=PATIENCE) as client:
        run_id = client.post("/api/runs", json={"flow": "parcel"}).json()["run_id"]
        with client.stream("GET", f"/api/events/stream?run={run_id}") as answer:
            lines = answer.iter_lines()
            assert next(lines)
            program.send_signal(stop)
            for _ in lines:  # the stream comes to its end
                pass
    said, complained = program.communicate(timeout=PATIENCE)
    assert (program.returncode, said.strip(), complained.strip()) == (0, "stopped", "")
    program, url = start_program(tmp_path)
    with httpx2.Client(base_url=url, timeout=PATIENCE) as client:
        client.post(f"/api/runs/{run_id}/events", json={"name": "delivered", "payload": 5})
        with client.stream("GET", f"/api/events/stream?run={run_id}") as answer:
            assert any('"COMPLETED"' in line for line in answer.iter_lines())
        assert client.get(f"/api/runs/{run_id}").json()["result"] == 5
    program.send_signal(stop)
    program.communicate(timeout=PATIENCE)
    assert program.returncode == 0


def test_the_mcp_app_lives_at_its_path(serve: Serve) -> None:
    """The real MCP app, mounted, has its lifespan run and answers at exactly its path; its own checks stay in force."""
    running = serve(mcp=mcp_app)
    headers = {"accept": "application/json, text/event-stream"}
    answer = running.client().post("/mcp", json=INITIALIZE, headers=headers)
    assert answer.status_code == 200, answer.text
    assert '"serverInfo"' in answer.text
    evil = {**headers, "origin": "https://evil.example"}
    assert running.client().post("/mcp", json=INITIALIZE, headers=evil).status_code == 403
    assert "without the MCP endpoint" not in running.person().open("/connect").text


def mcp_app(worker: InlineWorker, url: str) -> ASGIApp:
    return http_app(worker, base_url=url)


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that is never called."""


def test_an_app_is_mounted_at_a_path_of_its_own(running: Running) -> None:
    """A mount path that would shadow the pages is refused when the app is made."""
    for path in ("/", "mcp", "/mcp/"):
        with pytest.raises(ValueError, match="mount an app at a path like"):
            create_app(running.worker, mount={path: nothing}, allowed_hosts=[], token=None)
