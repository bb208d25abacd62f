"""`agentflow runs retry` and `agentflow runs fork`."""

import json

from tests.cli.conftest import FLOWS, Shell
from tests.cli.test_run import one_line


def test_retrying_a_failed_run(shell: Shell) -> None:
    """What failed runs again and the rest is reused; output and exit codes are those of `run`."""
    failed = shell("run", f"{FLOWS}:checked", "--json")
    assert (failed.code, shell.world) == (1, ["double 1", "check 2"])
    run = failed.json()["run_id"]
    again = shell("runs", "retry", run, "--json")
    assert (again.code, again.json()["error"]["text"], shell.world[2:]) == (1, "not yet", ["check 2"])
    shell.open_the_gate()
    done = shell("runs", "retry", run[-8:])
    assert (done.code, done.out, shell.world[3:]) == (0, "10\n", ["check 2", "double 3"])
    refused = shell("runs", "retry", run)
    assert (refused.code, "fork it" in one_line(refused)) == (2, True)


def test_a_models_retry_makes_its_effects_ask(shell: Shell) -> None:
    """Whoever started the run: from then on a model is among those who asked for it."""
    run = shell("run", f"{FLOWS}:checked", "--json").json()["run_id"]
    shell("runs", "retry", run, CLAUDECODE="1")
    view = shell.look("runs", "show", run, "--json").json()
    assert view["origins"] == ["person", "model"]


def test_a_cancelled_run_goes_on(shell: Shell) -> None:
    """Where it was cut off, with what it had."""
    waiting = shell("run", f"{FLOWS}:waits_for_event", "--json").json()
    shell.look("runs", "cancel", waiting["run_id"])
    again = shell("runs", "retry", waiting["run_id"], "--json")
    assert (again.code, again.json()["state"]) == (4, "PAUSED")
    shell.look("events", "send", waiting["run_id"], "word", "--payload", json.dumps("hello"))
    assert shell("runs", "resume", waiting["run_id"]).out == "hello\n"
