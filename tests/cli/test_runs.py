"""`agentflow runs`: looking at runs, following and cancelling them."""

import re

from tests.cli.conftest import FLOWS, Shell, ended
from tests.cli.test_run import one_line


def test_listing(shell: Shell) -> None:
    """Runs are listed newest first, by state and flow; empty lists are empty."""
    assert shell.look("runs", "ls").out == ""
    assert shell.look("runs", "ls", "--json").json() == []
    for amount in (1, 2):
        shell("run", f"{FLOWS}:payment", "-p", f"amount={amount}")
    shell("run", f"{FLOWS}:broken")
    found = shell.look("runs", "ls", "--json").json()
    assert [run["flow"] for run in found] == ["broken", "payment", "payment"]
    assert len(shell.look("runs", "ls", "--state", "paused", "--limit", "1", "--json").json()) == 1
    lines = shell.look("runs", "ls").out.splitlines()
    assert lines[0].split() == ["run", "name", "flow", "state", "age", "took"]
    assert lines[1].startswith(found[0]["run_id"])
    assert lines[1].endswith("ValueError: no way")
    assert lines[2].endswith("waits for a person: approval of pay")


def test_showing(shell: Shell) -> None:
    """A run is shown with its arguments, its steps and what it waits for."""
    waiting = shell("run", f"{FLOWS}:payment", "--json").json()
    view = shell.look("runs", "show", waiting["run_id"], "--json").json()
    assert view["parameters"] == {"amount": 3, "to": "bob"}
    assert view["entrypoint"] == f"{FLOWS}:payment"
    assert (view["owned"], view["origins"]) == (False, ["person"])
    assert [step["name"] for step in view["steps"]] == ["double"]
    assert view["waiting_for"][0]["kind"] == "approval"
    shown = shell.look("runs", "show", waiting["run_id"])
    assert "double" in shown.out
    assert "agentflow approvals approve approval-" in shown.err


def test_names_that_states_have(shell: Shell) -> None:
    """A state that a flow or a task has returned is shown by its own name, beside what kind of end it is."""
    run_id = shell("run", f"{FLOWS}:enough", "--json").json()["run_id"]
    shown = shell.look("runs", "show", run_id).out
    assert re.search(r"^state +COMPLETED \(Enough\)$", shown, re.MULTILINE)
    assert re.search(r"✓ measured .*Partial: half of it$", shown, re.MULTILINE)
    assert shell.look("runs", "show", run_id, "--json").json()["state_name"] == "Enough"


def test_end_of_an_id_must_fit_one(shell: Shell) -> None:
    """An end of a run's id will do while it fits only one; otherwise the runs are listed."""
    runs = [shell("run", f"{FLOWS}:doubled", "-p", "numbers=[]", "--json").json()["run_id"] for _ in range(2)]
    assert runs[0][-5:] != runs[1][-5:]
    assert shell.look("runs", "show", runs[0][-5:], "--json").json()["run_id"] == runs[0]
    with_end(shell, runs[0], "0000beef")
    with_end(shell, runs[1], "1111beef")
    several = shell.look("runs", "show", "beef")
    assert several.code == 2
    assert "several runs end with 'beef'" in one_line(several)
    assert "0000beef" in several.err
    assert "1111beef" in several.err
    assert shell.look("runs", "show", "0beef").code == 0


def with_end(shell: Shell, run: str, end: str) -> None:
    """Give a run an id with that end; nothing else can make two ids alike."""
    import apsw  # noqa: PLC0415 - only here

    journal = apsw.Connection(str(shell.folder / "home" / "agentflow.db"))
    journal.execute("UPDATE run SET id = ? WHERE id = ?", (run[: -len(end)] + end, run))
    journal.close()


def test_logs(shell: Shell) -> None:
    """What a run has logged is printed, as lines or as JSON."""
    run = shell("run", f"{FLOWS}:doubled", "-p", "numbers=[]", "--json").json()["run_id"]
    assert shell.look("runs", "logs", run).out.endswith("doubled  logged by the flow\n")
    [line] = shell.look("runs", "logs", run, "--json").json()
    assert (line["level"], line["text"]) == (20, "logged by the flow")
    assert shell.look("runs", "logs", run, "--follow", "--json").json()["text"] == "logged by the flow"


def test_watching_another_process(shell: Shell) -> None:
    """A run of another process can be followed to its end; the exit code is the run's."""
    process = shell.start("run", f"{FLOWS}:held")
    shell.until_world("hold 2", process)
    [run] = shell.look("runs", "ls", "--json").json()
    watcher = shell.start("runs", "watch", run["run_id"], "--json")
    shell.open_the_gate()
    found = ended(watcher)
    assert (found.code, found.json()["result"]) == (0, 4)
    assert ended(process).code == 0
    again = shell("runs", "watch", run["run_id"])
    assert (again.code, again.out) == (0, "4\n")


def test_watching_what_waits(shell: Shell) -> None:
    """Watching a run that nobody runs ends at once, with the exit code of what it waits for."""
    run = shell("run", f"{FLOWS}:payment", "--json").json()["run_id"]
    assert shell("runs", "watch", run).code == 3


def test_cancelling(shell: Shell) -> None:
    """A run that nobody runs is cancelled at once, one that runs at its next step."""
    run = shell("run", f"{FLOWS}:payment", "--json").json()["run_id"]
    view = shell.look("runs", "cancel", run, "--reason", "a mistake", "--json").json()
    assert view["state"] == "CANCELLED"
    assert re.fullmatch("cancelled by .+: a mistake", view["message"])
    process = shell.start("run", f"{FLOWS}:held_async", "--json")
    shell.until_world("hold 2", process)
    [running, _] = shell.look("runs", "ls", "--json").json()
    assert "stops at its next step" in shell.look("runs", "cancel", running["run_id"]).err
    done = ended(process)
    assert (done.code, done.json()["state"]) == (1, "CANCELLED")


def test_cancelling_several(shell: Shell) -> None:
    """All of them or, where one has ended already, none; each once, however often it is named."""
    first, second = (shell("run", f"{FLOWS}:payment", "--json").json()["run_id"] for _ in range(2))
    ended_run = shell("run", f"{FLOWS}:broken", "--json").json()["run_id"]
    refused = shell.look("runs", "cancel", first, ended_run, "--json")
    assert refused.code == 2
    assert "has already ended (FAILED)" in one_line(refused)
    views = shell.look("runs", "cancel", first, second[-12:], first, "--json").json()
    assert [(view["run_id"], view["state"]) for view in views] == [
        (first, "CANCELLED"),
        (second, "CANCELLED"),
    ]
    assert "name at least one run" in one_line(shell.look("runs", "cancel"))


def test_a_cancelled_run_lists_what_is_in_doubt(shell: Shell) -> None:
    """A side effect that had begun when the process died is not forgotten because the run was cancelled."""
    assert shell("run", f"{FLOWS}:doubtful").code == 9
    [run] = shell.look("runs", "ls", "--json").json()
    view = shell.look("runs", "cancel", run["run_id"], "--json").json()
    assert (view["state"], [doubt["name"] for doubt in view["in_doubt"]]) == ("CANCELLED", ["risky"])
    shown = shell.look("runs", "show", run["run_id"])
    assert "in doubt: risky" in shown.err
    shown = shell.look("runs", "show", run["run_id"], "--json").json()
    assert shown["in_doubt"][0]["arguments"] == {"to": "bob"}


def test_doctor(shell: Shell) -> None:
    """`doctor` looks at home, journal, SQLite and extras, and is content with a fresh installation."""
    done = shell.look("doctor", "--json")
    assert done.code == 0
    found = {check["name"]: check["status"] for check in done.json()}
    assert {"versions", "home", "sqlite", "journal", "extra openai", "git"} <= set(found)
    assert found["home"] == found["journal"] == found["sqlite"] == "ok"
    assert "ok" in shell.look("doctor").out


def test_version(shell: Shell) -> None:
    """`--version` prints the version of the installed distribution."""
    from agentflow import __version__  # noqa: PLC0415 - only here

    assert shell("--version").out == f"{__version__}\n"
