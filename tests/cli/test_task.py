"""`agentflow task serve`, and tasks in the background of `agentflow serve`: asked for here, run elsewhere."""

import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import FLOWS, PATIENCE, Shell, ended

TASKS = Path(__file__).with_name("background_tasks.py")
OTHER = "from agentflow import flow, task\n\n@task\ndef part(): pass\n\n@flow\ndef idle(): pass\n"


def program(shell: Shell, *arguments: str) -> str:
    """What the program prints that asks for tasks and reads results; it is no command of ours."""
    ran = subprocess.run(
        [sys.executable, str(TASKS), *arguments],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return ran.stdout.strip()


def until_recorded(shell: Shell, run_id: str, name: str, count: int) -> None:
    """Wait until so many steps of that name are in the journal: what has run is recorded a moment later."""
    deadline = time.monotonic() + PATIENCE
    while True:
        steps = shell.look("runs", "show", run_id, "--json").json()["steps"]
        if sum(step["name"] == name and step["event"] == "completed" for step in steps) >= count:
            return
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


@pytest.mark.parametrize("command", [["task", "serve", str(TASKS)], ["serve", str(TASKS), "--port", "0"]])
def test_a_killed_server_leaves_its_runs_to_the_next_one(shell: Shell, command: list[str]) -> None:
    """Kill -9 in the middle of a task: the next server finishes its run, and no finished step runs twice."""
    run_id = program(shell, "ask", "total", "3")
    assert shell.look("runs", "show", run_id, "--json").json()["state"] == "PENDING"
    server = shell.start(*command)
    shell.until_world("part 1", server)
    until_recorded(shell, run_id, "part", 2)
    server.kill()
    ended(server)
    shell.open_the_gate()
    server = shell.start(*command)
    try:
        assert program(shell, "read", run_id) == "5"
    finally:
        server.send_signal(signal.SIGTERM)
        done = ended(server)
    assert done.code == 0
    assert "tasks    Shop.price, part, pay, total" in done.err
    assert shell.world == ["part 0", "part 1", "part 2"]
    shown = shell.look("runs", "show", run_id, "--json").json()
    assert (shown["flow"], shown["state"], shown["crashes"]) == ("task:total", "COMPLETED", 1)


def test_whoever_insists_does_not_wait_for_tasks_to_end(shell: Shell) -> None:
    """A second signal gives back what is under way, at once; that is no crash."""
    run_id = program(shell, "ask", "total", "3")
    server = shell.start("task", "serve", str(TASKS), AGENTFLOW_DRAIN_PATIENCE="3600")
    shell.until_world("part 1", server)
    shell.insist(server)
    assert ended(server).code in (
        0,
        -signal.SIGTERM,
    )  # the last one may have come when nothing was left to do
    shown = shell.look("runs", "show", run_id, "--json").json()
    assert (shown["state"], shown["crashes"]) == ("RUNNING", 0)
    shell.open_the_gate()
    assert shell("runs", "resume", run_id, "--json").json()["result"] == 5


def test_each_task_has_a_process_of_its_own_where_that_is_wanted(shell: Shell) -> None:
    """`serve --isolate`; a name that two tasks have is nobody's, which is said, and flows are served all the same."""
    (shell.folder / "other_tasks.py").write_text(OTHER)
    shell.open_the_gate()
    run_id = program(shell, "ask", "total", "2")
    server = shell.start("serve", str(TASKS), "other_tasks.py", "--port", "0", "--isolate")
    try:
        assert program(shell, "read", run_id) == "1"
    finally:
        server.send_signal(signal.SIGTERM)
        done = ended(server)
    assert done.code == 0
    assert "several tasks are named part: not served" in done.err
    assert "tasks    pay, total" in done.err
    assert "flows    idle" in done.err
    assert shell.world == ["part 0", "part 1"]


def test_a_method_is_served_by_its_name(shell: Shell) -> None:
    """`FILE.py:Class.method`; the object it belongs to is stored with the run."""
    run_id = program(shell, "ask", "price", "4")
    server = shell.start("task", "serve", f"{TASKS}:Shop.price", "--limit", "0")
    try:
        assert program(shell, "read", run_id) == "12"
    finally:
        server.send_signal(signal.SIGTERM)
        assert ended(server).code == 0


def test_a_side_effect_in_the_background_is_signed(shell: Shell) -> None:
    """It waits for a person; decided at the terminal, it is run by the server."""
    run_id = program(shell, "ask", "pay", "5")
    server = shell.start("task", "serve", f"{TASKS}:pay")
    try:
        wait = until_asked(shell)
        assert shell.world == []
        assert shell("approvals", "approve", wait).code == 0
        assert program(shell, "read", run_id) == "paid 5"
    finally:
        server.send_signal(signal.SIGINT)
        ended(server)
    assert shell.world == ["pay 5"]


def until_asked(shell: Shell) -> str:
    while True:
        asked: list[Any] = shell.look("approvals", "ls", "--json").json()
        if asked:
            return asked[0]["id"]


def test_a_run_in_the_background_can_be_resumed_by_hand(shell: Shell) -> None:
    """`runs resume` finds the task by the run's entry point."""
    run_id = program(shell, "ask", "total", "1")
    shell.open_the_gate()
    resumed = shell("runs", "resume", run_id, "--json").json()
    assert (resumed["state"], resumed["result"]) == ("COMPLETED", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], "name at least one file", id="nothing"),
        pytest.param(
            [f"{TASKS}:nothing"],
            "has no task 'nothing'; it has: Shop.price, part, pay, total",
            id="no such task",
        ),
        pytest.param(["missing.py"], "no such file", id="no such file"),
        pytest.param([str(TASKS), "other_tasks.py"], "two tasks are named 'part'", id="two of one name"),
        pytest.param([str(TASKS), "--limit", "-1"], "--limit wants a number of runs, not -1", id="no places"),
        pytest.param([str(TASKS), "--limit", "few"], "Invalid value for --limit", id="no number"),
    ],
)
def test_wrong_use_is_one_line(shell: Shell, arguments: list[str], words: str) -> None:
    """Exit code 2, and what to do."""
    (shell.folder / "other_tasks.py").write_text(OTHER)
    done = shell.look("task", "serve", *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1


def test_runs_are_listed_by_tag_and_shown_with_their_names(shell: Shell) -> None:
    """`runs ls --tag` lists those that have all of the tags; `show` says what the calls are named."""
    shell.look("run", f"{FLOWS}:labelled", "-p", "number=4")
    shell.look("run", f"{FLOWS}:doubled", "-p", "numbers=[1]")
    (run,) = shell.look("runs", "ls", "--tag", "red", "--tag", "big", "--json").json()
    assert (run["name"], run["tags"]) == ("labelled 4", ["big", "red"])
    assert shell.look("runs", "ls", "--tag", "blue", "--json").json() == []
    assert "labelled 4" in shell.look("runs", "ls").out
    shown = shell.look("runs", "show", run["run_id"]).out
    assert "number four" in shown
    assert "#extra" in shown
    assert "big, red" in shown
