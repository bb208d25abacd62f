"""What runs in a worker of a cluster, and what it sends back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from agentflow.engine.away import Line
from agentflow.engine.logs import record_prints
from agentflow.task_runners.transport import perform


def run_there(data: bytes, folders: Sequence[str] = ()) -> tuple[bytes, list[Line]]:
    """Run a body: what came of it, and its lines, which arrive when it is over.

    `folders`: where the sender finds its modules; those of them that are here are looked into last.
    """
    sys.path += [folder for folder in folders if folder not in sys.path and Path(folder).exists()]
    record_prints()
    lines: list[Line] = []
    return perform(data, lines.append), lines
