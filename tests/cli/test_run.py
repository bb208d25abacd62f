"""`agentflow run` and `runs resume`: results, exit codes, interruption, recovery."""

import signal

import pytest

from tests.cli.conftest import FLOWS, Ended, Shell, ended
from tests.faults import Measured

PRINTED = {"run_id", "state", "result", "error", "steps", "reused", "waiting_for", "elapsed_s"}


def test_result_goes_to_stdout_and_progress_to_stderr(shell: Shell) -> None:
    """Without --json, stdout holds what the flow prints and its result; stderr tells people of the steps."""
    done = shell("run", f"{FLOWS}:doubled", "-p", "numbers=[1, 2]")
    assert done.code == 0
    assert done.out == "printed by the flow\n6\n"
    assert "double" in done.err
    assert "COMPLETED" in done.err


def test_json_prints_one_object(shell: Shell) -> None:
    """With --json, stdout holds one object and nothing that the flow prints."""
    to = '{"numbers": [1], "to": {"town": "Bern"}}'
    done = shell("run", f"{FLOWS}:doubled", "--params", to, "-p", "numbers=4", "-p", "numbers=5", "--json")
    found = done.json()
    assert done.code == 0
    assert set(found) == PRINTED
    assert (found["state"], found["result"], found["steps"], found["reused"]) == ("COMPLETED", 18, 2, 0)
    assert (found["error"], found["waiting_for"]) == (None, [])
    assert found["elapsed_s"] >= 0
    assert "printed by the flow" in done.err


def test_failure_of_the_flow_is_exit_code_1(shell: Shell) -> None:
    """A flow's own exception ends with 1: type and text at once, the traceback on demand."""
    done = shell("run", f"{FLOWS}:broken", "--json")
    found = done.json()
    assert done.code == 1
    assert (found["state"], found["error"]) == ("FAILED", {"type": "ValueError", "text": "no\nway"})
    assert "Traceback (" not in done.err
    shown = shell.look("runs", "show", found["run_id"][-8:])
    assert "Traceback (most recent call last)" in shown.out
    assert "ValueError: no\nway" in shown.out


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("payment", 3, "approval"),
        ("careful", 3, "input"),
        ("waits_for_event", 4, "event"),
        ("waits_for_long", 4, "timer"),
    ],
)
def test_waiting_run_leaves_the_process(shell: Shell, name: str, code: int, kind: str) -> None:
    """A run that waits for a person ends with 3, for an event or a timer with 4, and says for what."""
    done = shell("run", f"{FLOWS}:{name}", "--json")
    found = done.json()
    assert (done.code, found["state"]) == (code, "PAUSED")
    [waiting] = found["waiting_for"]
    assert waiting["kind"] == kind
    assert waiting["id"].startswith(f"{kind}-")
    assert waiting["url"].endswith(f"/approvals/{waiting['id']}")
    assert f"agentflow runs resume {found['run_id']}" in done.err


def test_what_a_run_waits_for_is_told_in_a_few_lines(shell: Shell) -> None:
    """Of a run that waits for hundreds of things it says the first few, and how to see all of them."""
    done = shell("run", f"{FLOWS}:waits_for_much")
    told = [line for line in done.err.splitlines() if line.startswith(("Waits", "and for"))]
    assert [line.split(":")[0] for line in told[:2]] == [
        "Waits for the event 'event 0', several times",
        "Waits for the event 'event 1', several times",
    ]
    assert told[-1].startswith("and for more: agentflow approvals ls --run")
    assert len(told) == 6


def test_event_lets_a_run_go_on(shell: Shell) -> None:
    """An event sent from another process is what the resumed run gets; before it, resuming waits again."""
    run = shell("run", f"{FLOWS}:waits_for_event", "--json").json()["run_id"]
    assert shell("runs", "resume", run).code == 4
    sent = shell.look("events", "send", run[-6:], "word", "--payload", '"hello"', "--json")
    assert sent.json() == {"run_id": run, "name": "word", "taken": True, "owned": False}
    assert shell("runs", "resume", run[-6:]).out == "hello\n"


@pytest.mark.fault(18, "SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["held", "held_async"])
def test_interrupted_run_is_resumable(
    shell: Shell, name: str, number: signal.Signals, fault: Measured
) -> None:
    """Ctrl-C and SIGTERM end with 130 and leave a run that resumes where it was."""
    process = shell.start("run", f"{FLOWS}:{name}", "--json")
    shell.until_world("hold 2", process)
    process.send_signal(number)
    done = ended(process)
    assert (done.code, done.json()["state"]) == (130, "RUNNING")
    shell.open_the_gate()
    resumed = shell("runs", "resume", done.json()["run_id"], "--json").json()
    assert resumed["state"] == "COMPLETED"
    done_before = int(name == "held")
    fault(1, lost=done_before - resumed["reused"], doubled=shell.world.count("double 1") - done_before)
    assert resumed["reused"] == shell.world.count("double 1") == done_before


@pytest.mark.fault(18, "SIGTERM")
def test_sigterm_lets_a_step_end(shell: Shell, fault: Measured) -> None:
    """What has begun is recorded, nothing begins after it, and the run goes on where it was."""
    process = shell.start("run", f"{FLOWS}:held_half_way", "--json", AGENTFLOW_DRAIN_PATIENCE="60")
    shell.until_world("hold 2", process)
    process.send_signal(signal.SIGTERM)
    shell.open_the_gate()
    done = ended(process)
    assert (done.code, done.json()["state"], done.json()["steps"]) == (130, "RUNNING", 2)
    assert shell.world == ["double 1", "hold 2"]
    resumed = shell("runs", "resume", done.json()["run_id"], "--json").json()
    fault(1, lost=2 - resumed["reused"], doubled=len(shell.world) - len(set(shell.world)))
    assert (resumed["result"], resumed["reused"], shell.world) == (10, 2, ["double 1", "hold 2", "double 3"])


@pytest.mark.parametrize("name", ["held", "held_async"])
def test_whoever_insists_does_not_wait_for_steps_to_end(shell: Shell, name: str) -> None:
    """A second SIGTERM cuts off what runs, and the run is given back all the same."""
    process = shell.start("run", f"{FLOWS}:{name}", "--json", AGENTFLOW_DRAIN_PATIENCE="3600")
    shell.until_world("hold 2", process)
    shell.insist(process)
    ended(process)
    [run] = shell.look("runs", "ls", "--json").json()
    shown = shell.look("runs", "show", run["run_id"], "--json").json()
    assert (shown["state"], shown["crashes"]) == ("RUNNING", 0)


def test_a_cancelled_run_that_does_not_stop_is_ended_by_sigterm(shell: Shell) -> None:
    """It is over: exit code 1, and nothing to resume."""
    process = shell.start("run", f"{FLOWS}:held", "--json", AGENTFLOW_DRAIN_PATIENCE="3600")
    shell.until_world("hold 2", process)
    [run] = shell.look("runs", "ls", "--json").json()
    shell.look("runs", "cancel", run["run_id"], "--reason", "too slow")
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert (done.code, done.json()["state"]) == (1, "CANCELLED")


def killed(shell: Shell) -> None:
    """A run whose process was killed half-way."""
    process = shell.start("run", f"{FLOWS}:held")
    shell.until_world("hold 2", process)
    process.kill()
    ended(process)


def test_run_first_recovers_its_own_kind(shell: Shell) -> None:
    """`run` finishes an interrupted run of the same entry point, and says so; other entry points are left alone."""
    killed(shell)
    shell.open_the_gate()
    other = shell("run", f"{FLOWS}:doubled", "-p", "numbers=[]")
    assert "recover" not in other.err
    done = shell("run", f"{FLOWS}:held", "--json")
    assert done.json()["result"] == 4
    assert "recovering run" in done.err
    assert "COMPLETED, 1 step reused" in done.err
    runs = shell.look("runs", "ls", "--flow", "held", "--json").json()
    assert [run["state"] for run in runs] == ["COMPLETED", "COMPLETED"]
    assert shell.world.count("double 1") == 2


def test_recovery_can_be_declined(shell: Shell) -> None:
    """With --no-recover an interrupted run stays as it is."""
    killed(shell)
    shell.open_the_gate()
    assert "recover" not in shell("run", f"{FLOWS}:held", "--no-recover").err
    states = {run["state"] for run in shell.look("runs", "ls", "--json").json()}
    assert states == {"COMPLETED", "RUNNING"}


def test_owned_run_is_not_resumed_twice(shell: Shell) -> None:
    """Who tries to resume a run that a live process owns ends with 2 and is told who; --take-over takes it."""
    process = shell.start("run", f"{FLOWS}:held", "--json")
    shell.until_world("hold 2", process)
    [run] = shell.look("runs", "ls", "--json").json()
    lost = shell("runs", "resume", run["run_id"])
    assert lost.code == 2
    assert f":{process.pid}, which is alive" in one_line(lost)
    taker = shell.start("runs", "resume", run["run_id"], "--take-over", "--json")
    shell.until_world("hold 2", taker, times=2)
    shell.open_the_gate()
    assert ended(taker).json()["result"] == 4
    fenced = ended(process)
    assert fenced.code == 2
    assert "another process has taken this run over" in fenced.err.splitlines()[-1]


def test_resume_goes_to_the_recorded_folder(shell: Shell) -> None:
    """A run is resumed from anywhere: its file is found, and relative paths mean what they meant."""
    (shell.folder / "here.py").write_text(
        "from pathlib import Path\n"
        "from agentflow import flow, request_input\n"
        "@flow\n"
        "def where() -> str:\n"
        "    return request_input('word?').result() + str(Path.cwd())\n"
    )
    waiting = shell("run", "here.py", "--json").json()
    elsewhere = Shell(shell.folder / "other", shell.environment)
    elsewhere.folder.mkdir()
    done = elsewhere("approvals", "answer", waiting["waiting_for"][0]["id"], "at ", "--resume")
    assert (done.code, done.out) == (0, f"at {shell.folder}\n")


def one_line(done: Ended) -> str:
    """The one line that a refused command writes."""
    [line] = done.err.splitlines()
    assert line.startswith("agentflow: ")
    assert done.out == ""
    return line
