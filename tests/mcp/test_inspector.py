"""A client that we have not written, of each protocol era: the MCP inspector, and its companion that answers forms."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.mcp.conftest import ROOT, environment, http_process

pytestmark = pytest.mark.inspector

Inspect = Callable[..., Any]
World = Callable[[], list[str]]
ERAS = ["modern", "legacy"]
STDIO = [sys.executable, "-m", "tests.mcp.serve", "stdio"]


#: How mcpdo says that a tool's result was an error.
TOOL_ERROR = 5


def run(home: Path, *command: str, status: int = 0, **more: str) -> str:
    """What a program says; its complaints where it ends in another way than expected."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment(home, HOME=str(home), **more),
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(params=["http", "stdio"])
def inspect(request: pytest.FixtureRequest, home: Path) -> Generator[Inspect]:
    """Let the inspector call a method of a server of its own."""

    def over_http(url: str) -> Inspect:
        def call(era: str, *options: str) -> Any:
            words = ["--server-url", url, "--transport", "http", "--protocol-era", era, *options]
            return json.loads(run(home, "mcp-inspector", "--cli", *words))

        return call

    def over_stdio(era: str, *options: str) -> Any:
        variables = [
            word
            for name in ("AGENTFLOW_HOME", "WORLD", "PYTHONPATH")
            for word in ("-e", f"{name}={environment(home)[name]}")
        ]
        return json.loads(
            run(home, "mcp-inspector", "--cli", *STDIO, "--cwd", str(ROOT), *variables, "--transport", "stdio",
                "--protocol-era", era, *options)
        )  # fmt: skip

    if request.param == "stdio":
        yield over_stdio
        return
    with http_process(home) as (address, _):
        yield over_http(f"{address}/mcp")


@pytest.mark.parametrize("era", ERAS)
def test_the_inspector_lists_and_calls(inspect: Inspect, era: str) -> None:
    """It lists our tools, finds no error in their schemas, and calls flows and control tools."""
    tools = {tool["name"]: tool for tool in inspect(era, "--method", "tools/list", "--strict")["tools"]}
    assert tools["refund_order"]["inputSchema"]["required"] == ["order_id"]
    call = ("--method", "tools/call", "--tool-name")
    counted = inspect(era, *call, "count", "--tool-arg", "steps=3")
    assert counted["structuredContent"] == {"total": 3}
    runs = inspect(era, *call, "list_runs")["structuredContent"]["runs"]
    assert [run["flow"] for run in runs] == ["count"]


def test_the_inspector_without_forms(inspect: Inspect) -> None:
    """A client that cannot show forms is told where a person can answer."""
    asked = inspect(
        "legacy", "--method", "tools/call", "--tool-name", "refund_order", "--tool-arg", "order_id=a1"
    )
    assert asked["structuredContent"]["status"] == "awaiting_approval"


@pytest.fixture
def mcpdo(home: Path) -> Generator[Inspect]:
    """The inspector's companion, which keeps a connection and lets a person answer forms."""
    text = run(home, "mcpdo", "private")
    private = dict(re.findall(r"export (\w+)='([^']*)'", text))

    def command(*words: str, status: int = 0) -> Any:
        return json.loads(run(home, "mcpdo", "--format", "json", *words, status=status, **private))

    yield command
    run(home, "mcpdo", "daemon", "stop", **private)


@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("era", ERAS)
def test_a_form_is_answered(home: Path, mcpdo: Inspect, world: World, era: str, transport: str) -> None:
    """Our form is shown - as a task's question in the modern era, as a request in the legacy one - and decides."""
    with http_process(home) as (address, _):
        target = [f"{address}/mcp"]
        if transport == "stdio":
            names = ("AGENTFLOW_HOME", "WORLD", "PYTHONPATH")
            variables = [word for name in names for word in ("-e", f"{name}={environment(home)[name]}")]
            target = [*variables, "--cwd", str(ROOT), "--transport", "stdio", "--", *STDIO]
        mcpdo("connect", "--connection", "us", "--era", era, *target)
        pending = mcpdo("@us", "tools/call", "refund_order", 'order_id:="a1"')["elicitationPending"]
        assert pending["requestedSchema"]["properties"]["amount"]["default"] == 5
        assert 'order_id = "A1"' in pending["message"]
        assert pending["origin"] == ("task-input-required" if era == "modern" else "server-request")
        done = mcpdo("@us", "elicitation/respond", pending["elicitationId"], "approve:=true", "amount:=3")
        assert '"amount": 3' in json.dumps(done)
        denied = mcpdo("@us", "tools/call", "refund_order", 'order_id:="b2"')["elicitationPending"]
        answer = mcpdo("@us", "elicitation/respond", denied["elicitationId"], "--decline", status=TOOL_ERROR)
        assert "ApprovalDenied" in json.dumps(answer)
    assert world() == ["find a1", "refund A1 3", "find b2"]
