"""A program that serves until it is told to stop, as ``agentflow serve`` does; run by tests."""

from agentflow.journal.opening import open_journal
from agentflow.server.serving import serve
from agentflow.workers.inline import InlineWorker
from tests.server.flows_under_test import FLOWS

if __name__ == "__main__":
    worker = InlineWorker(open_journal(), FLOWS)
    serve(worker, port=0, on_ready=lambda url: print(url, flush=True))
    print("stopped", flush=True)
