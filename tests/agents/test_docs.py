"""The page on agents: its code runs as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from agentflow.testing.models import ModelRequest, Reply, ScriptedModelServer, ToolCall

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"

#: What a person does on the page's last flow, after the page's own code.
SIGNING = """
import json
from agentflow.approvals.decisions import decide
from agentflow.flows import default_options
from agentflow.journal.opening import open_journal
from agentflow.model.waits import Channel, Verdict

outcome = settle.run({"complaint": "the kettle leaks"}, options=default_options(0))
answers = {"refund": (Verdict.APPROVED, {"cents": 5}), "close_account": (Verdict.DENIED, None)}
while outcome.waiting_for:
    for wait in outcome.waiting_for:
        verdict, edited = answers.get(wait.name, (Verdict.APPROVED, None))
        decide(open_journal(), wait.id, verdict, answer=edited, channel=Channel.CODE)
    outcome = settle.resume(outcome.run_id, options=default_options(0))
print(json.dumps([outcome.state, outcome.value]))
"""


def script(request: ModelRequest) -> Reply:
    if request.turn > 0:
        return Reply(" / ".join(message.text for message in request.tool_results))
    names = {tool.name for tool in request.tools}
    if "find_order" in names:
        return Reply(tool_calls=[ToolCall("find_order", {"order_id": "A-17"})])
    if names:
        return Reply(
            tool_calls=[
                ToolCall("refund_order", {"order_id": "A-17", "cents": 4990}),
                ToolCall("close_account", {"owner": "ann"}),
                ToolCall("send_letter", {"to": "ann", "text": "sorry"}),
            ]
        )
    return Reply("rain on the rooftop")


def test_the_pages_code_runs(tmp_path: Path) -> None:
    """All blocks of the page make one program; its last flow goes on when it has its three signatures."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks) + SIGNING)
    with ScriptedModelServer(script) as server:
        environment = os.environ | {
            "AGENTFLOW_HOME": str(tmp_path / "home"),
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": server.openai_url,
        }
        ran = subprocess.run(
            [sys.executable, program],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert ran.returncode == 0, ran.stderr
    haiku, order, settled = ran.stdout.splitlines()
    assert haiku == "rain on the rooftop"
    assert order == "order A-17: one kettle, 49.90 EUR, delivered"
    state, value = json.loads(settled)
    assert state == "COMPLETED"
    assert value == (
        "refunded 5 cents for order A-17 / close_account was denied. Nothing was executed. / sent to ann: sorry"
    )
