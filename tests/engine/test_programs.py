"""Signals that a program of a user's gets while it runs flows: runs are given back, its own handler is called."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentflow.journal.protocol import RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.run_context import cancel_run

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
SYNC = ["in_task", "in_sub_flow", "in_thread", "in_delay", "in_wait"]
ASYNC = ["in_async_task", "in_async_wait"]


class Program:
    """A program at work, and what it leaves behind."""

    def __init__(self, folder: Path, *arguments: str, patience: float = 0.2) -> None:
        self.folder = folder
        self.gate = folder / "gate"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.program", *arguments],
            cwd=ROOT,
            env=os.environ
            | {
                "AGENTFLOW_HOME": str(folder / "home"),
                "AGENTFLOW_DRAIN_PATIENCE": str(patience),
                "GATE": str(self.gate),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=allow_interrupts,  # noqa: PLW1509 - the only thing that it does
        )
        assert self._process.stdout is not None
        self._said = self._process.stdout
        assert self._said.readline() == "holding\n"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end; returns its exit code and what it said."""
        said = self._said.read().split("\n")
        code = self._process.wait(PATIENCE)
        self._said.close()
        return code, [word for word in said if word not in ("", "holding")]

    # -- what it leaves
    def journal(self) -> SqliteJournal:
        return SqliteJournal(self.folder / "home" / "agentflow.db", b"k" * 32)

    def runs(self) -> list[Run]:
        """Its runs, which nobody owns."""
        journal = self.journal()
        try:
            runs = journal.list_runs(RunFilter())
            assert [run.id for run in runs if journal.is_owned(run)] == []
            assert [run.owner for run in runs if not run.state.is_final and run.owner] == []
            return runs
        finally:
            journal.close()

    def events(self, *events: str) -> list[str]:
        """The names of the steps of its first run that have come to so many events."""
        journal = self.journal()
        try:
            return [row.name for row in journal.steps(1) if row.event in events]
        finally:
            journal.close()

    def assert_resumable(self) -> None:
        """Nobody owns its run, what was done is recorded, what was under way is not, and nothing has crashed."""
        (run,) = self.runs()
        assert run.state in (StateType.RUNNING, StateType.PAUSED)
        assert run.crashes == 0
        assert self.events("completed", "failed") == ["first"]


def allow_interrupts() -> None:
    """Whoever runs the tests in the background ignores SIGINT, and so would their children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def until(is_so: Callable[[], bool]) -> None:
    """Wait for a fact that another process brings about."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


def started(folder: Path, where: str, *arguments: str, patience: float = 0.2) -> Program:
    """A program whose flow has come to the place in question."""
    program = Program(folder, where, *arguments, patience=patience)
    if where.endswith(("delay", "wait")):
        journal = program.journal()
        until(lambda: bool(journal.list_waits()) or any(row.event == "attempt" for row in journal.steps(1)))
        journal.close()
    return program


@pytest.mark.parametrize("where", SYNC + ASYNC)
def test_an_interrupt_leaves_a_resumable_run(tmp_path: Path, where: str) -> None:
    """Ctrl-C anywhere below a flow is a KeyboardInterrupt for the program, and the run is given back."""
    program = started(tmp_path, where)
    program.send(signal.SIGINT)
    code, said = program.end()
    assert (code, said[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    program.assert_resumable()


@pytest.mark.parametrize("where", [*SYNC, *ASYNC, "in_blocked_loop"])
def test_sigterm_ends_the_program_and_leaves_a_resumable_run(tmp_path: Path, where: str) -> None:
    """A step that does not end is cut off, the run is given back, and the program dies of the signal as ever."""
    program = started(tmp_path, where)
    program.send(signal.SIGTERM)
    code, said = program.end()
    assert code == -signal.SIGTERM
    assert "began too late" not in said
    program.assert_resumable()


@pytest.mark.parametrize(("where", "name"), [("in_task", "held"), ("in_effect", "pay")])
def test_what_has_begun_may_end_before_the_program_does(tmp_path: Path, where: str, name: str) -> None:
    """A step, and above all a side effect, that ends in time is recorded; nothing begins after it."""
    program = started(tmp_path, where, patience=PATIENCE)
    program.send(signal.SIGTERM)
    program.gate.touch()
    code, said = program.end()
    assert code == -signal.SIGTERM
    assert "began too late" not in said
    assert program.runs()[0].state is StateType.RUNNING
    assert program.events("completed") == ["first", name]


@pytest.mark.parametrize("where", ["in_task", "in_thread", "in_async_task"])
def test_whoever_insists_is_not_kept_waiting(tmp_path: Path, where: str) -> None:
    """A second SIGTERM does not wait for steps to end."""
    begun = time.monotonic()
    program = started(tmp_path, where, patience=3600.0)
    said_at: list[float] = []

    def insists() -> bool:
        """Once a second: one that comes while the run is being given back may cut that short."""
        if not said_at or time.monotonic() > said_at[-1] + 1:
            said_at.append(time.monotonic())
            program.send(signal.SIGTERM)
        return program.has_ended

    until(insists)
    assert program.end()[0] == -signal.SIGTERM
    assert time.monotonic() - begun < PATIENCE
    program.assert_resumable()


@pytest.mark.parametrize("where", ["in_task", "in_async_task"])
def test_sigterm_goes_on_to_the_programs_own_handler(tmp_path: Path, where: str) -> None:
    """Once, after the flow has been unwound; where the program lives on, its call of the flow raises `Stopping`."""
    program = started(tmp_path, where, "mine")
    program.send(signal.SIGTERM)
    code, said = program.end()
    assert said == [*(["unwound"] if where == "in_task" else []), "mine", "Stopping"]
    assert code == 1
    program.assert_resumable()


def test_a_program_that_lives_on_may_run_other_flows(tmp_path: Path) -> None:
    """The signal was for those that ran when it came."""
    program = started(tmp_path, "goes_on", "mine")
    program.send(signal.SIGTERM)
    code, said = program.end()
    assert (code, said) == (0, ["unwound", "mine", "done"])
    assert sorted(run.state for run in program.runs()) == [StateType.COMPLETED, StateType.RUNNING]


def test_a_loop_that_handles_sigterm_goes_on_doing_so(tmp_path: Path) -> None:
    """The program says what is to be done, which is done once: here, its task is cancelled."""
    program = started(tmp_path, "on_a_loop_with_a_handler")
    program.send(signal.SIGTERM)
    code, said = program.end()
    assert (code, said) == (1, ["mine", "CancelledError"])
    program.assert_resumable()


def test_sigterm_reaches_every_flow_of_the_main_thread(tmp_path: Path) -> None:
    """Flows that run beside each other on one loop are all given back."""
    program = Program(tmp_path, "two_at_once")
    until(lambda: len(program_states(program)) == 2)
    program.send(signal.SIGTERM)
    assert program.end()[0] == -signal.SIGTERM
    assert {run.state for run in program.runs()} <= {StateType.RUNNING, StateType.PAUSED}
    assert [run.crashes for run in program.runs()] == [0, 0]


def program_states(program: Program) -> list[StateType]:
    journal = program.journal()
    try:
        return [run.state for run in journal.list_runs(RunFilter())]
    finally:
        journal.close()


@pytest.mark.parametrize("where", ["hooked", "hooked_async"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_was_cancelled_ends_so_whatever_ends_its_program(
    tmp_path: Path, where: str, number: signal.Signals
) -> None:
    """The process is told to end because its run was cancelled: it is CANCELLED, and its hooks have run."""
    program = started(tmp_path, where)
    journal = program.journal()
    (run,) = journal.list_runs(RunFilter())
    cancel_run(run.id, actor="ann", reason="enough", journal=journal)
    journal.close()
    program.send(number)
    code, said = program.end()
    assert "tidied" in said
    (ended,) = program.runs()
    assert (ended.state, ended.message) == (StateType.CANCELLED, "cancelled by ann: enough")
    assert code in ((-signal.SIGTERM,) if number is signal.SIGTERM else (-signal.SIGINT, 1))
