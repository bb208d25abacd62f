"""``agentflow runs retry`` and ``fork``: an ended run goes on; a new run begins where another one stood."""

from __future__ import annotations

from agentflow.cli import persons
from agentflow.cli.execution import execute, present
from agentflow.cli.finding import find_run
from agentflow.cli.output import result_stream
from agentflow.cli.run import Flag
from agentflow.cli.runs import load_recorded
from agentflow.journal.opening import open_journal
from agentflow.model.runs import Origin


def retry(run: str, /, *, json: Flag = False) -> int:
    """Have a run that failed, crashed or was cancelled go on. Output and exit codes are those of `run`.

    The steps through which it failed run again, and what follows them; everything else is reused. Side effects that
    happened stay; one that certainly did not happen runs again; you are asked about one in doubt.

    Args:
        run: Id of the run, or an end of it.
        json: Print one JSON object on stdout instead of the result.
    """
    journal = open_journal()
    found = find_run(journal, run)
    with result_stream(alone=json) as stream:
        flow = load_recorded(found, "retry")
        who = persons.origin()
        flow.reopen(found.id, journal, origin=None if who is Origin.PERSON else who)
        return present(execute(journal, flow, found.id), json=json, stream=stream)
