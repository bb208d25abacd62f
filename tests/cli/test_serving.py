"""`agentflow serve` and `agentflow mcp`: what they put together."""

import json
import signal
import subprocess
from pathlib import Path

import httpx2

from tests.cli.conftest import FLOWS, PATIENCE, Shell, command, ended


def test_serve_puts_everything_together(shell: Shell) -> None:
    """One process: pages, MCP and a worker that goes on with a run as soon as its question is answered elsewhere."""
    waiting = shell("run", f"{FLOWS}:payment", "--json").json()
    server = shell.start("serve", f"{FLOWS}:payment", "--port", "0")
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    try:
        with httpx2.Client(base_url=url) as client:
            page = client.get(
                f"/approvals/{waiting['waiting_for'][0]['id']}", headers={"accept": "text/html"}
            )
            assert page.status_code == 200
            hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
            answer = client.post(
                "/mcp", json=hello, headers={"accept": "application/json, text/event-stream"}
            )
            assert answer.status_code == 200
            assert "agentflow" in answer.text
        approved = shell("approvals", "approve", waiting["waiting_for"][0]["id"])
        assert approved.code == 0
        watched = shell("runs", "watch", waiting["run_id"])
        shell.until_world("pay 6 to bob", server)
        assert watched.code in (0, 3)
    finally:
        server.send_signal(signal.SIGTERM)
        done = ended(server)
    assert done.code == 0
    assert f"{url}/mcp" in done.err
    assert "flows    payment" in done.err


INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


def test_mcp_on_standard_input_and_output(shell: Shell) -> None:
    """`mcp FILE` speaks the protocol on stdout and nothing else; at the end of its input it ends."""
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
    ran = subprocess.run(
        command(["mcp", FLOWS]),
        input=json.dumps(hello) + "\n",
        capture_output=True,
        check=False,
        env=shell.environment,
        text=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 0
    [answer] = map(json.loads, ran.stdout.splitlines())
    assert answer["result"]["serverInfo"]["name"] == "agentflow"


def test_mcp_install(shell: Shell) -> None:
    """`mcp install` writes the server into the client's file and prints the line that adds it."""
    shell.environment["PATH"] = ""
    done = shell("mcp", "install", "claude-code", FLOWS)
    assert done.code == 0
    assert done.out.startswith("claude mcp add agentflow-command_line_flows -- ")
    assert done.out.endswith(f" mcp {FLOWS}\n")
    written = json.loads(Path(shell.folder / ".mcp.json").read_text())
    entry = written["mcpServers"]["agentflow-command_line_flows"]
    assert entry["args"] == ["mcp", str(FLOWS)]
    assert entry["env"] == {"AGENTFLOW_HOME": shell.environment["AGENTFLOW_HOME"]}
