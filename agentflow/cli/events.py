"""``agentflow events``: tell a waiting run what has happened outside."""

from __future__ import annotations

from cyclopts import App

from agentflow.cli.finding import find_run
from agentflow.cli.output import COMPLETED, print_json, print_line, say
from agentflow.cli.parameters import read_json
from agentflow.cli.run import Flag
from agentflow.journal.opening import open_journal
from agentflow.run_context import send_event

app = App(name="events", help="Send events to runs.")


@app.command
def send(run: str, name: str, /, *, payload: str = "null", json: Flag = False) -> int:
    """Send an event to a run: to its first `wait_for_event` of that name, else kept for the next one.

    Args:
        run: Id of the run, or an end of it.
        name: Name of the event.
        payload: What it carries, as JSON; default: null.
        json: Print a JSON object.
    """
    journal = open_journal()
    value = read_json(payload, "--payload")
    found = find_run(journal, run)
    taken = send_event(found.id, name, value, journal=journal)
    owned = journal.is_owned(found)
    if json:
        print_json({"run_id": found.id, "name": name, "taken": taken, "owned": owned})
        return COMPLETED
    say(f"sent {name!r} to run {found.id}" + ("" if taken else "; nobody waits for it yet, it is kept"))
    if taken and not owned:
        print_line(f"agentflow runs resume {found.id}")
    return COMPLETED
