"""The program of a process that runs one life of a run, for a `ProcessWorker`: ``python -m agentflow.workers.child``.

It ends with 0 where the run has ended or left memory, with another code where it could not be run. On SIGTERM, and when
the worker that started it is gone, it drains: what has begun may end, then it lets the run go. So no process goes on as
a run's owner for longer than ``drain_patience`` after its worker's death, and no run ever has two.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

from agentflow.beginning import leaving
from agentflow.engine import termination
from agentflow.engine.logs import keep_prints
from agentflow.errors import AgentflowError, Unwinding
from agentflow.flows import default_options
from agentflow.journal.opening import open_journal
from agentflow.loading import load_flow_of

ENDED, FAILED = 0, 1


def main(arguments: Sequence[str]) -> int:
    """Run a life of the run (its id) by the flow of an entry point."""
    run_id, entrypoint = arguments
    _watch_worker()
    keep_prints()
    options = leaving(default_options())
    journal = open_journal(options.settings)
    run = journal.get_run(run_id)
    try:
        flow = load_flow_of(entrypoint, run.flow if run is not None else "")
        if run is not None and not run.state.is_final and flow.parked(run, journal=journal, options=options):
            return ENDED
        active, arguments_of_run = flow.claim(run_id, journal=journal, options=options)
        termination.live(active, flow.body(arguments_of_run), ours=True, exits=True)
    except (AgentflowError, Unwinding) as error:
        sys.stderr.write(f"agentflow: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    return ENDED


def _watch_worker() -> None:
    """Standard input is the worker's: it ends when the worker does. Flows read nothing from it."""
    worker = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        while os.read(worker, 1024):
            pass
        termination.tell()

    threading.Thread(target=watch, name="agentflow-worker-watch", daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
