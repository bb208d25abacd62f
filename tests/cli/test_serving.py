"""`agentflow serve` and `agentflow mcp`: what they put together."""

import json
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from agentflow.journal.protocol import RunFilter
from agentflow.model.runs import Run
from agentflow.model.states import StateType
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


def test_a_server_and_a_program_elsewhere_share_a_journal(shell: Shell, tmp_path: Path) -> None:
    """The server runs nothing; who has its address and a key runs flows, and people see them at the server."""
    server = shell.start("server", "--port", "0")
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    try:
        key = shell("keys", "create", "elsewhere").out.strip()
        there = {
            "AGENTFLOW_HOME": str(tmp_path / "elsewhere"),
            "AGENTFLOW_API_URL": url,
            "AGENTFLOW_API_KEY": key,
        }
        done = shell("run", f"{FLOWS}:doubled", "-p", "numbers=[1, 2]", "--json", **there)
        assert (done.code, done.json()["result"]) == (0, 6), done.err
        seen = httpx2.get(f"{url}/api/runs/{done.json()['run_id']}")
        assert seen.json()["state"] == "COMPLETED"
    finally:
        server.send_signal(signal.SIGTERM)
        stopped = ended(server)
    assert (stopped.code, "flows    none" in stopped.err) == (0, True)


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


def calling(shell: Shell, *names: str, **variables: str) -> "subprocess.Popen[str]":
    """`agentflow mcp`, whose client has called tools and stays connected."""
    server = subprocess.Popen(
        command(["mcp", FLOWS]),
        cwd=shell.folder,
        env=shell.environment | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    messages: list[dict[str, object]] = [
        {"id": 0, "method": "initialize", "params": INITIALIZE},
        {"method": "notifications/initialized"},
        *({"id": name, "method": "tools/call", "params": {"name": name, "arguments": {}}} for name in names),
    ]
    assert server.stdin is not None
    for message in messages:
        server.stdin.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
    server.stdin.flush()
    return server


def until(is_so: Callable[[], bool], server: "subprocess.Popen[str]") -> None:
    """Wait for what a server brings about."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert server.poll() is None, server.communicate()
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


def at_work(shell: Shell, server: "subprocess.Popen[str]") -> tuple[Run, Run]:
    """The runs of `held_half_way` and `waits_for_event`, once the one is half-way and the other waits."""
    shell.until_world("hold 2", server)
    shell.look("runs", "ls")
    journal = shell.journal
    assert journal is not None
    until(lambda: bool(journal.list_waits()), server)
    runs = {run.flow: run for run in journal.list_runs(RunFilter())}
    return runs["held_half_way"], runs["waits_for_event"]


def drains(shell: Shell, server: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Tell a server to end while a step of a run is at work; see that it ends, recorded, and that no other begins."""
    held, waiting = at_work(shell, server)
    journal = shell.journal
    assert journal is not None
    server.send_signal(number)
    until(lambda: not journal.is_owned(waiting), server)  # by now it drains
    shell.open_the_gate()
    assert server.wait(PATIENCE) == 0  # without its client's help
    server.communicate()
    stored = journal.get_run(held.id)
    assert stored is not None
    assert (stored.state, stored.owner, stored.crashes) == (StateType.RUNNING, "", 0)
    assert not journal.is_owned(stored)
    resumed = shell("runs", "resume", held.id, "--json").json()
    assert (resumed["state"], resumed["reused"]) == ("COMPLETED", 2)
    assert shell.world == ["double 1", "hold 2", "double 3"]


def ends_at_once(shell: Shell, server: "subprocess.Popen[str]") -> None:
    """Tell a server to end again and again, while a step does not end."""
    held, _ = at_work(shell, server)
    shell.insist(server)
    assert server.wait() in (
        0,
        -signal.SIGTERM,
    )  # the last one may have come when there was nothing left to do
    server.communicate()
    journal = shell.journal
    assert journal is not None
    stored = journal.get_run(held.id)
    assert stored is not None
    assert (stored.state, stored.owner, stored.crashes) == (StateType.RUNNING, "", 0)
    assert not journal.is_owned(stored)


def serving(shell: Shell, *options: str, **variables: str) -> "subprocess.Popen[str]":
    """`agentflow serve`, with a run of each of two flows."""
    server = shell.start("serve", str(FLOWS), "--port", "0", *options, **variables)
    assert server.stdout is not None
    with httpx2.Client(base_url=server.stdout.readline().strip()) as client:
        for name in ("held_half_way", "waits_for_event"):
            assert client.post("/api/runs", json={"flow": name}).status_code == 201
    return server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_mcp_drains_when_it_is_told_to_end(shell: Shell, number: signal.Signals) -> None:
    """What has begun is recorded, the run is given back, and the process does not wait for its client."""
    server = calling(shell, "held_half_way", "waits_for_event", AGENTFLOW_DRAIN_PATIENCE="60")
    drains(shell, server, number)


def test_mcp_ends_at_once_where_somebody_insists(shell: Shell) -> None:
    """A second signal does not wait for steps to end."""
    ends_at_once(shell, calling(shell, "held_half_way", "waits_for_event", AGENTFLOW_DRAIN_PATIENCE="3600"))


@pytest.mark.parametrize("options", [(), ("--isolate",)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_when_it_is_told_to_end(
    shell: Shell, options: tuple[str, ...], number: signal.Signals
) -> None:
    """What has begun is recorded and the run is given back, in the server's process or in one of its own."""
    drains(shell, serving(shell, *options, AGENTFLOW_DRAIN_PATIENCE="60"), number)


@pytest.mark.parametrize("options", [(), ("--isolate",)])
def test_serve_ends_at_once_where_somebody_insists(shell: Shell, options: tuple[str, ...]) -> None:
    """A second signal does not wait for steps to end."""
    ends_at_once(shell, serving(shell, *options, AGENTFLOW_DRAIN_PATIENCE="3600"))


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
