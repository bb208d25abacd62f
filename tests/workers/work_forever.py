"""A worker that starts a run and then works until it is killed. Usage: ``work_forever FILE FLOW``."""

import sys
import threading

from agentflow.journal.opening import open_journal
from agentflow.loading import load_flows
from agentflow.model.runs import Origin
from agentflow.workers.process import ProcessWorker

if __name__ == "__main__":
    worker = ProcessWorker(open_journal(), load_flows([sys.argv[1]]))
    worker.start()
    worker.start_run(sys.argv[2], {}, origin=Origin.PERSON)
    threading.Event().wait()
