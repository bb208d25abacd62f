"""The command line on a PostgreSQL journal: a run with steps, a wait, an approval and an effect, killed on the way."""

import select
import signal
import time

import pytest

from tests.cli.conftest import FLOWS, PATIENCE, Shell, ended
from tests.journal.postgres_server import PostgresServer


@pytest.fixture
def shared(shell: Shell, postgres: PostgresServer) -> Shell:
    """A shell whose journal is on the server; a process that is not heard of for a second counts as dead."""
    shell.environment |= {"AGENTFLOW_DATABASE_URL": postgres.url(), "AGENTFLOW_LEASE": "1"}
    return shell


def until_due(shell: Shell, run_id: str) -> None:
    """Wait until nobody owns the run any more."""
    deadline = time.monotonic() + PATIENCE
    while shell.look("runs", "show", run_id, "--json").json()["owned"]:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.05)


def test_a_run_is_killed_waits_is_signed_and_goes_on_in_other_processes(shared: Shell) -> None:
    """Each step runs once, the effect once, after the signature."""
    process = shared.start("run", f"{FLOWS}:errand", "--json")
    shared.until_world("hold 2", process)
    [run] = shared.look("runs", "ls", "--json").json()
    refused = shared("runs", "resume", run["run_id"])
    assert (refused.code, "is owned by" in refused.err) == (2, True)
    process.send_signal(signal.SIGKILL)
    ended(process)
    until_due(shared, run["run_id"])
    shared.open_the_gate()
    waiting = shared("runs", "resume", run["run_id"], "--json")
    assert waiting.code == 3, waiting.err
    answered = shared(
        "approvals",
        "answer",
        waiting.json()["waiting_for"][0]["id"],
        '{"town": "Bern"}',
        "--resume",
        "--json",
    )
    assert answered.code == 3, answered.err
    signed = shared("approvals", "approve", answered.json()["waiting_for"][0]["id"], "--resume", "--json")
    done = signed.json()
    assert (done["state"], done["result"]) == ("COMPLETED", "paid 5 to Bern")
    assert shared.world == ["double 1", "hold 2", "hold 2", "pay 5 to Bern"]
    ends = [life["end"] for life in shared.look("runs", "show", run["run_id"], "--json").json()["lives"]]
    assert ends == ["crashed", "suspended", "suspended", "completed"]


def test_a_check_says_nothing_of_free_space_where_nobody_knows_it(shared: Shell) -> None:
    """A PostgreSQL server keeps that to itself."""
    checked = shared("db", "check")
    assert (checked.code, "size" in checked.out, "free" in checked.out) == (0, True, False)


def test_doctor_shows_the_journal_without_its_password(shared: Shell, postgres: PostgresServer) -> None:
    """And what is wrong with an address is one line, with exit code 2."""
    url = shared.environment["AGENTFLOW_DATABASE_URL"].replace("postgres@", "postgres:horse-battery@")
    shared.environment["AGENTFLOW_DATABASE_URL"] = url
    found = shared.look("doctor", "--json").out
    assert f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres" in found
    assert "horse-battery" not in found
    shared.environment["AGENTFLOW_DATABASE_URL"] = "postgresql://ann:horse-battery@127.0.0.1:1/db"
    refused = shared("runs", "ls")
    assert refused.code == 2
    assert "see that the server runs there" in refused.err
    assert "horse-battery" not in refused.err
    assert "Traceback" not in refused.err
