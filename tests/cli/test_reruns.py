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


def test_forking_a_run(shell: Shell) -> None:
    """The new run reuses what came before the step, lists what the other one did, and asks before each effect."""
    shell.open_the_gate()
    source = shell("run", f"{FLOWS}:paid_twice", "--json").json()["run_id"]
    assert shell.world == ["double 1", "free 2 to ann", "double 3", "free 3 to bob"]
    made = shell("runs", "fork", source[-8:], "--from", "double#2", "--param", "to=cid", "--json")
    assert (made.code, shell.world[4:]) == (3, ["double 3"])
    assert f"forked from {source} at double" in made.err
    assert '  free(to="bob", amount=3): done' in made.err
    run = made.json()["run_id"]
    [wait] = made.json()["waiting_for"]
    shown = shell.look("approvals", "show", wait["id"])
    assert f"the run that it was forked from ({source}) did from double on" in shown.out
    assert shell.look("runs", "show", run, "--json").json()["forked_from"]["run_id"] == source
    shell("approvals", "approve", wait["id"], "--code", wait_code(shell, wait["id"]))
    assert shell("runs", "resume", run).out == "free 3 to cid\n"
    assert shell.world[5:] == ["free 3 to cid"]


def wait_code(shell: Shell, wait: str) -> str:
    return shell.look("approvals", "show", wait, "--json").json()["code"]


def test_a_fork_must_make_sense(shell: Shell) -> None:
    """No such step, several of that name, parameters that do not fit: one line, and no run is made."""
    source = shell("run", f"{FLOWS}:doubled", "-p", "numbers=[1, 2]", "--json").json()["run_id"]
    for wrong, why in (
        (("--from", "nothing"), "has no step 'nothing'"),
        (("--from", "double"), "say which: double#1 to double#2"),
        (("--from", "double#1", "-p", "numbers=x"), "numbers"),
        (("--from", "double#1", "-p", "number=1"), "has no parameter 'number'"),
    ):
        refused = shell("runs", "fork", source, *wrong)
        assert (refused.code, why in one_line(refused)) == (2, True), refused.err
    assert len(shell.look("runs", "ls", "--json").json()) == 1


def test_ids_of_steps_are_shown_short(shell: Shell) -> None:
    """What `runs show` prints beside a step is what --from takes."""
    source = shell("run", f"{FLOWS}:checked", "--json").json()["run_id"]
    line = next(line for line in shell.look("runs", "show", source).out.splitlines() if "check " in line)
    short = line.split()[2 if line.split()[0] in "├└" else 1]
    made = shell(
        "runs", "fork", source, "--from", next(word for word in line.split() if len(word) == 8), "--json"
    )
    assert made.code == 1, short
    assert shell.world == ["double 1", "check 2", "check 2"]
