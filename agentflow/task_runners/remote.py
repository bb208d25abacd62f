"""What runs in a worker of a cluster, and what it sends back."""

from __future__ import annotations

from agentflow.engine.away import Line
from agentflow.engine.logs import record_prints
from agentflow.task_runners.transport import perform


def run_there(data: bytes) -> tuple[bytes, list[Line]]:
    """Run a body: what came of it, and its lines, which arrive when it is over."""
    record_prints()
    lines: list[Line] = []
    return perform(data, lines.append), lines
