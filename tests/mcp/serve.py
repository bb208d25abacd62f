"""A real server process for the tests: ``python -m tests.mcp.serve stdio`` or ``http``, which prints its address."""

import os
import socket
import sys
from pathlib import Path

import uvicorn

from agentflow.journal.opening import open_journal
from agentflow.mcp.server import http_app, run_stdio
from agentflow.workers.inline import InlineWorker
from tests.mcp.sample_flows import FLOWS


def main(transport: str) -> None:
    """Serve the sample flows until somebody ends the process."""
    if "PIDFILE" in os.environ:
        Path(os.environ["PIDFILE"]).write_text(str(os.getpid()), encoding="utf-8")
    worker = InlineWorker(open_journal(), FLOWS)
    if transport == "stdio":
        run_stdio(worker)
        return
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    sys.stdout.write(base_url + "\n")
    sys.stdout.flush()
    config = uvicorn.Config(http_app(worker, base_url=base_url), log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
