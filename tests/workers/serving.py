"""A process that serves the flows of a file until it dies of one: ``python -m tests.workers.serving FILE``."""

from __future__ import annotations

import sys
import threading

from agentflow.journal.opening import open_journal
from agentflow.loading import load_flows
from agentflow.shells import mark_worker
from agentflow.workers.inline import InlineWorker


def say(text: str) -> None:
    """For whoever looks why."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Serve."""
    mark_worker()
    with InlineWorker(open_journal(), load_flows([sys.argv[1]]), on_error=say):
        threading.Event().wait()


if __name__ == "__main__":
    main()
