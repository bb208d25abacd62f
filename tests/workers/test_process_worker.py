"""Runs in processes of their own: started, watched, ended where they do not stop, started again where they died."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentflow.errors import UsageError
from agentflow.flows import default_options, flow
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.opening import close_all, open_journal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.loading import load_flows
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.run_context import cancel_run
from agentflow.settings import Settings
from agentflow.views import in_doubt
from agentflow.workers.process import ProcessWorker

FLOWS = Path(__file__).with_name("worked_flows.py")
PATIENCE = 60.0
_ALL = RunFilter()
GRACE = 1.0


class Works:
    """A worker in a home of its own, and the world in which its flows act."""

    def __init__(self, folder: Path, flows: Any) -> None:
        self.world = folder / "world"
        self.said: list[str] = []
        self.journal: Journal = open_journal(Settings.from_environment())
        options = default_options(Settings.from_environment().suspend_after)
        self.worker = ProcessWorker(self.journal, flows, options=options, on_error=self.said.append)

    def start(self, name: str, **arguments: Any) -> Run:
        return self.worker.start_run(name, arguments, origin=Origin.PERSON)

    def run(self, run_id: str) -> Run:
        found = self.journal.get_run(run_id)
        assert found is not None
        return found

    def ended(self, run_id: str) -> Run:
        run = self.worker.await_run(run_id, PATIENCE)
        assert run.state.is_final, (run, self.said, self.log(run_id))
        return run

    @property
    def done(self) -> list[list[str]]:
        """What was really executed, by words; the last one of each line is the process."""
        return [line.split() for line in self.world.read_text().splitlines()] if self.world.exists() else []

    def until_done(self, word: str, times: int = 1) -> int:
        """Wait until something was executed so often; returns the process that did it last."""
        until(lambda: sum(line[0] == word for line in self.done) >= times)
        return int([line for line in self.done if line[0] == word][-1][-1])

    def open_the_gate(self) -> None:
        self.world.with_suffix(".open").touch()

    def log(self, run_id: str) -> list[str]:
        return [row.text for _, row in self.journal.logs(self.run(run_id).number)]


def until(is_so: Callable[[], bool]) -> None:
    """Wait for a fact that another process brings about."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(params=[""])
def works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Works]:
    """A worker that is at work, with little patience."""
    for name, value in {
        "AGENTFLOW_HOME": str(tmp_path / "home"),
        "AGENTFLOW_CANCEL_GRACE": str(GRACE),
        "AGENTFLOW_LEASE": "3",
        "AGENTFLOW_POLL_INTERVAL": "0.05",
        "WORLD": str(tmp_path / "world"),
    }.items():
        monkeypatch.setenv(name, value)
    if request.param:
        monkeypatch.setenv("AGENTFLOW_DATABASE_URL", request.getfixturevalue(request.param).url())
    monkeypatch.setattr(sys, "path", [str(FLOWS.parent), *sys.path])
    made = Works(tmp_path, load_flows([str(FLOWS)]))
    made.worker.start()
    yield made
    made.worker.stop(patience=0.0)
    close_all()


@pytest.mark.parametrize("works", ["postgres"], indirect=True)
def test_processes_may_share_a_postgres_journal(works: Works) -> None:
    """They find it by its whole address; a run whose process was killed is free after its lease."""
    assert works.ended(works.start("simple").id).result == b"3"
    run = works.start("deaf_with_hooks")
    process = works.until_done("deaf")
    cancel_run(run.id, actor="ann", journal=works.journal)
    assert works.ended(run.id).state is StateType.CANCELLED
    assert not is_alive(process)
    assert works.until_done("tidied") != process


def test_each_run_has_a_process_of_its_own(works: Works) -> None:
    """Its results are in the journal as those of any run; what it prints is in its log, once."""
    first, second = works.start("simple"), works.start("simple", number=5)
    assert works.ended(first.id).result == b"3"
    assert works.ended(second.id).result == b"11"
    processes = {line[-1] for line in works.done}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert works.log(first.id) == ["printed by the flow"]
    talked = works.ended(works.start("talkative").id)
    until(lambda: len(works.log(talked.id)) > 1)  # a pipe may be read to its end after the run has ended
    assert sorted(works.log(talked.id)) == ["complained", "recorded once"]


def test_a_run_that_waits_leaves_its_process(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gets another one when what it waits for has come."""
    monkeypatch.setenv("AGENTFLOW_SUSPEND_AFTER", "0")
    works.worker.options = default_options(0.0)
    run = works.start("waits")
    until(
        lambda: works.run(run.id).state is StateType.PAUSED and not works.journal.is_owned(works.run(run.id))
    )
    works.journal.send_event(run.id, "word", b'"hello"', time.time())
    assert works.ended(run.id).result == b'"hello"'


def test_a_cancelled_run_stops_by_itself_at_its_next_step(works: Works) -> None:
    """Nobody has to be killed for it."""
    run = works.start("waits")
    until(lambda: bool(works.journal.list_waits(number=works.run(run.id).number)))
    cancel_run(run.id, actor="ann", reason="enough", journal=works.journal)
    assert works.ended(run.id).message == "cancelled by ann: enough"
    assert works.log(run.id) == []


@pytest.mark.parametrize("name", ["deaf", "stuck_in_c"])
def test_a_process_that_does_not_stop_is_killed(works: Works, name: str) -> None:
    """One that ignores SIGTERM, one that is stuck in C: after the grace it is gone, and the run is CANCELLED."""
    run = works.start(name)
    process = works.until_done({"deaf": "deaf", "stuck_in_c": "stuck"}[name])
    begun = time.monotonic()
    cancel_run(run.id, actor="ann", journal=works.journal)
    ended = works.ended(run.id)
    took = time.monotonic() - begun
    assert (ended.state, ended.message) == (StateType.CANCELLED, "cancelled by ann")
    assert took < GRACE + 5 * works.worker.options.settings.poll_interval + 2.0  # the machine is busy
    until(lambda: not is_alive(process))
    assert not works.journal.is_owned(ended)
    assert any("ended by SIGKILL" in line for line in works.log(run.id))
    if name == "deaf":
        grandchild = int(next(line[1] for line in works.done if line[0] == "deaf"))
        until(lambda: not is_alive(grandchild))


def test_hooks_of_a_killed_run_are_told_by_another_process(works: Works) -> None:
    """They run once it is gone, and nothing else of the flow does."""
    run = works.start("deaf_with_hooks")
    process = works.until_done("deaf")
    cancel_run(run.id, actor="ann", journal=works.journal)
    ended = works.ended(run.id)
    assert (ended.state, ended.message) == (StateType.CANCELLED, "cancelled by ann")
    assert works.until_done("tidied") != process
    assert [line[0] for line in works.done if line[0] != "interrupted"] == ["deaf", "tidied"]


def test_a_side_effect_under_way_in_a_killed_process_is_in_doubt(works: Works) -> None:
    """It is listed with the run for as long as there is one, and nobody runs it again."""
    run = works.start("paying")
    works.until_done("pay")
    cancel_run(run.id, actor="ann", journal=works.journal)
    ended = works.ended(run.id)
    assert ended.state is StateType.CANCELLED
    assert [doubt["name"] for doubt in in_doubt(works.journal, ended)] == ["pay"]
    assert works.worker.recover() == []


def test_a_run_whose_process_died_is_run_again(works: Works) -> None:
    """By another process, with what was done reused; the run tells how often it has crashed, and of what."""
    run = works.start("crashing_once")
    ended = works.ended(run.id)
    assert (ended.state, ended.result, ended.crashes) == (StateType.COMPLETED, b"1", 1)
    assert [line[0] for line in works.done] == ["step"]
    assert any("ended by SIGKILL" in line for line in works.log(run.id))


def test_a_run_that_takes_its_process_down_again_and_again_is_parked(works: Works) -> None:
    """It ends as CRASHED, its hooks are told, its worker says how it can go on; nobody takes it up again."""
    few = replace(works.worker.options.settings, max_crashes=2)
    works.worker.options = replace(works.worker.options, settings=few)
    run = works.start("poison", how="SIGSEGV")
    stored = works.ended(run.id)
    assert stored.state is StateType.CRASHED
    assert f"agentflow runs retry {run.id}" in stored.message
    until(lambda: any(f"run {run.id} is parked" in said for said in works.said))
    # the first life got somewhere
    assert [life.end.value for life in works.journal.lives(stored.number)] == ["crashed"] * 4
    assert [line[:2] for line in works.done] == [["step", "7"], ["told-of", "CRASHED"]]
    assert sum("ended by SIGSEGV" in line for line in works.log(run.id)) == 3
    assert works.worker.recover() == []
    works.open_the_gate()
    works.worker.retry_run(run.id, origin=Origin.PERSON)
    assert works.ended(run.id).result == b'"lived"'
    assert [line[0] for line in works.done].count("step") == 1


def test_the_next_run_has_the_code_as_it_is_by_then(works: Works, tmp_path: Path) -> None:
    """A file that is edited while its worker runs is what the next run executes."""
    source = tmp_path / "edited.py"
    text = "from agentflow import flow\n@flow\ndef edited() -> int:\n    return {}\n"
    source.write_text(text.format(1))
    works.worker.flows |= load_flows([str(source)])
    assert works.ended(works.start("edited").id).result == b"1"
    source.write_text(text.format(22))
    assert works.ended(works.start("edited").id).result == b"22"
    del sys.modules["edited"]


def test_a_worker_that_stops_lets_steps_end_and_gives_runs_back(works: Works) -> None:
    """The process is told to end: what has begun is recorded, the rest is for the next one."""
    run = works.start("held")
    process = works.until_done("hold")
    works.worker.drain()
    works.open_the_gate()
    until(lambda: not is_alive(process))
    works.worker.stop()
    assert not is_alive(process)
    stored = works.run(run.id)
    assert (stored.state, stored.owner) == (StateType.RUNNING, "") or stored.result == b"2"
    assert stored.crashes == 0
    steps = [row.name for row in works.journal.steps(stored.number) if row.event == "completed"]
    assert steps == ["step", "hold"]


def test_a_killed_worker_leaves_no_owner_behind(works: Works) -> None:
    """The processes of its runs see that it is gone and let their runs go; another worker goes on with them."""
    program = [sys.executable, "-m", "tests.workers.work_forever", str(FLOWS), "held"]
    environment = os.environ | {"AGENTFLOW_DRAIN_PATIENCE": "0.2"}
    flows, works.worker.flows = works.worker.flows, {}  # the run is for the other worker
    with subprocess.Popen(program, env=environment, cwd=Path(__file__).parents[2]) as worker:
        process = works.until_done("hold")
        (run,) = works.journal.list_runs(_ALL)
        assert works.journal.is_owned(run)
        works.worker.flows = flows
        assert works.worker.recover() == []  # never two owners
        worker.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(process))
    works.open_the_gate()
    ended = works.ended(run.id)
    assert (ended.state, ended.result) == (StateType.COMPLETED, b"2")
    assert [line[0] for line in works.done].count("step") == 1


def test_only_what_another_process_can_find_is_run_in_one(works: Works) -> None:
    """Flows without a file, and journals in memory, are refused when the worker is made."""

    @flow
    def inner() -> None: ...

    with pytest.raises(UsageError, match="process of its own"):
        ProcessWorker(works.journal, {"inner": inner})
    with pytest.raises(UsageError, match="journal"):
        ProcessWorker(MemoryJournal(), {})
