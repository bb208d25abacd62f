"""Standard output belongs to the protocol, whatever flows print."""

import json
import subprocess
import sys
from pathlib import Path

from tests.mcp.conftest import ROOT, environment

NOISY = '''
import os, subprocess, sys
print("loading")
from agentflow import flow

@flow
def noisy() -> str:
    """Print everywhere."""
    print("from the flow")
    sys.stdout.flush()
    os.write(1, b"from the descriptor\\n")
    subprocess.run(["echo", "from a child"], check=True)
    return "quiet"
'''
SERVE = """
import sys
from agentflow.mcp.stdio import stdout_kept_clean
from agentflow.loading import load_flows
with stdout_kept_clean():
    flows = load_flows([sys.argv[1]])
from agentflow.journal.opening import open_journal
from agentflow.mcp.server import run_stdio
from agentflow.workers.inline import InlineWorker
run_stdio(InlineWorker(open_journal(), flows))
"""


def message(number: int | None, method: str, **params: object) -> str:
    numbered = {} if number is None else {"id": number}
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **numbered}) + "\n"


def test_only_the_protocol_is_written_to_stdout(home: Path) -> None:
    """Prints of a module that is loaded, of flows, of children and to the bare descriptor go to stderr."""
    path = home / "noisy_flows.py"
    path.write_text(NOISY, encoding="utf-8")
    client = {"name": "test", "version": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home),
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(
        message(1, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
    )
    process.stdin.write(message(None, "notifications/initialized"))
    process.stdin.write(message(2, "tools/call", name="noisy", arguments={}))
    process.stdin.flush()
    lines = [process.stdout.readline(), process.stdout.readline()]
    rest, errors = process.communicate(timeout=60)
    assert [json.loads(line)["id"] for line in lines] == [1, 2]
    assert json.loads(lines[1])["result"]["structuredContent"] == {"result": "quiet"}
    assert rest == ""
    for text in ("loading", "from the flow", "from the descriptor", "from a child"):
        assert text in errors
    assert process.returncode == 0
