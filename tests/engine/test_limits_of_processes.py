"""Limits hold among real processes, and what a killed one held is free at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agentflow import flow
from agentflow.deployments import Asked, ask_for_run
from agentflow.engine.active import Options
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.limits import Limit
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker
from tests.engine.limit_driver import CROWD, LEASE, TURNS, deployed, open_in
from tests.journal.postgres_server import PostgresServer

ROOT = Path(__file__).parents[2]
LIMIT, PROCESSES = 3, 5
PATIENCE = 30.0
#: Seconds: a lease, a look at the journal, and a machine that does other things as well.
PROMPT = LEASE + 5.0


class Place:
    """A journal that processes share, and what they have logged."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder, self.url = folder, url or str(folder / "j.db")

    def open(self) -> Journal:
        return open_in(self.url)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """On each store that processes can share."""
    if request.param == "sqlite":
        return Place(tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return Place(tmp_path, server.url())


def process(place: Place, what: str) -> subprocess.Popen[str]:
    """A process that is ready to begin."""
    command = [
        sys.executable,
        "-m",
        "tests.engine.limit_driver",
        place.url,
        str(place.folder / "log"),
        what,
    ]
    made = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n"
    return made


def go(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()


def events(place: Place) -> list[tuple[str, int, int]]:
    """What the processes have logged, in the order of the machine's clock."""
    path = place.folder / "log"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return sorted(((what, int(pid), int(at)) for what, pid, at in lines), key=lambda event: event[2])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["blocks", "tags", "flow", "process"])
def test_never_more_than_the_limit_at_once(place: Place, what: str) -> None:
    """Five processes share three slots: by blocks in tasks, by a tag, by runs of a flow, by blocks without a flow."""
    journal = place.open()
    journal.set_limit(Limit({"tags": "tag:db", "flow": "flow:limited"}.get(what, "db"), LIMIT))
    everybody = [process(place, what) for _ in range(PROCESSES)]
    for one in everybody:
        go(one)
    for one in everybody:
        one.communicate()
        assert one.returncode == 0
    most = most_at_once([(event, at) for event, _, at in events(place)])
    turns = TURNS // 3 if what == "flow" else TURNS
    assert len(events(place)) == 2 * PROCESSES * turns
    assert most <= LIMIT
    assert most > 1, "they never met"
    assert journal.list_slots() == []
    journal.close()


NAMES = {"hold": "db", "hold-tag": "tag:db", "hold-flow": "flow:limited", "hold-process": "db"}


@pytest.mark.parametrize("what", NAMES)
def test_what_a_killed_process_held_is_free_at_once(place: Place, what: str) -> None:
    """Before one lease is over, whoever waits has the slot; nobody had to be told."""
    journal = place.open()
    journal.set_limit(Limit(NAMES[what], 1))
    first, second = process(place, what), process(place, what)
    go(first)
    _until(lambda: len(events(place)) == 1)
    go(second)
    _until(lambda: bool(journal.list_slots(waiting_only=True)))
    assert len(events(place)) == 1
    first.kill()
    first.wait()
    killed = time.monotonic_ns()
    _until(lambda: len(events(place)) == 2)
    (_, holder, _), (_, heir, at) = events(place)
    assert (holder, heir) == (first.pid, second.pid)
    assert (at - killed) / 1e9 < PROMPT
    second.kill()
    second.wait()
    _until(lambda: journal.list_slots() == [])
    for one in (first, second):
        one.communicate()
    journal.close()


def test_a_worker_takes_up_the_runs_that_waited_for_a_killed_holder(place: Place) -> None:
    """It sees that the slot is free though nobody gave it back: for the killed run itself, and for those behind it."""
    journal = place.open()
    journal.set_limit(Limit("flow:limited", 1))
    holder = process(place, "hold-flow")
    go(holder)
    _until(lambda: len(events(place)) == 1)
    (killed,) = journal.list_runs(RunFilter())
    bodies: list[int] = []

    @flow(name="limited")
    def limited(number: int = 0) -> int:
        bodies.append(number)
        return number

    options = Options(settings=Settings(poll_interval=0.02), suspend_after=60.0)
    with InlineWorker(journal, {"limited": limited}, options=options) as worker:
        behind = [worker.start_run("limited", {"number": n}, origin=Origin.PERSON) for n in (1, 2)]
        assert bodies == []
        holder.kill()
        holder.communicate()
        for run in (killed, *behind):
            assert worker.await_run(run.id, PATIENCE).state is StateType.COMPLETED
    assert sorted(bodies) == [0, 1, 2]
    journal.close()


def ask(journal: Journal, times: int) -> list[str]:
    """Runs of the deployment that are asked for."""
    return [ask_for_run(journal, "deployed/a", Asked({})).id for _ in range(times)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("place", "processes", "runs"),
    [
        ("sqlite", 4, 40),
        pytest.param("sqlite", 8, 300, marks=pytest.mark.nightly),
        pytest.param("postgres", 8, 300, marks=pytest.mark.nightly),
    ],
    indirect=["place"],
)
def test_processes_keep_to_the_limit_of_a_deployment_together(
    place: Place, processes: int, runs: int
) -> None:
    """Many execute runs of one deployment, never more than three at once; two of them are killed meanwhile.

    The runs that those were at go on elsewhere, and no slot is lost.
    """
    journal = place.open()
    deployed.to_deployment("a", concurrency_limit=LIMIT).apply(journal)
    everybody = [process(place, "deployed") for _ in range(processes)]
    ask(journal, runs)
    for one in everybody:
        go(one)
    for number, victim in enumerate(everybody[:2], 1):
        _until(lambda number=number: len(events(place)) >= 8 * number)
        victim.kill()
        victim.communicate()
    _until(lambda: len(_completed(journal)) == runs, patience=200)
    for one in everybody[2:]:
        one.communicate()
        assert one.returncode == 0
    killed = {one.pid for one in everybody[:2]}
    mine = [(event, pid, at) for event, pid, at in events(place)]
    begun = {pid: sum(event == "begin" for event, who, _ in mine if who == pid) for pid in killed}
    done = {pid: sum(event == "end" for event, who, _ in mine if who == pid) for pid in killed}
    whole = [(event, at) for event, pid, at in mine if pid not in killed]
    assert most_at_once(whole) <= LIMIT
    assert most_at_once(whole) > 1, "they never met"
    assert all(0 <= begun[pid] - done[pid] <= LIMIT for pid in killed)
    _until(lambda: journal.list_slots() == [])
    assert journal.free_slots("deployment:deployed/a") == LIMIT
    journal.close()


def _completed(journal: Journal) -> list[Run]:
    return journal.list_runs(RunFilter(1000, (StateType.COMPLETED,), deployment="deployed/a"))


def test_what_a_killed_process_held_of_a_deployment_goes_to_the_next_run(place: Place) -> None:
    """The killed run is taken up again, and so are those behind it, one after the other."""
    journal = place.open()
    deployed.to_deployment("a", concurrency_limit=1).apply(journal)
    first = process(place, "hold-deployed")
    ask(journal, 2)
    go(first)
    _until(lambda: len(events(place)) == 1)
    (slot,) = journal.list_slots()
    assert slot.limit == "deployment:deployed/a"
    second = process(place, "deployed")
    go(second)
    first.kill()
    first.communicate()
    killed = time.monotonic_ns()
    _until(lambda: len(_completed(journal)) == 2)
    begun = [(pid, at) for event, pid, at in events(place) if event == "begin"]
    assert [pid for pid, _ in begun] == [first.pid, second.pid, second.pid]
    assert (begun[1][1] - killed) / 1e9 < PROMPT
    second.communicate()
    assert journal.list_slots() == []
    journal.close()


@pytest.mark.parametrize("what", ["hold", "hold-tag", "hold-flow"])
def test_a_stopped_holder_keeps_its_slot_until_its_run_is_taken_over(tmp_path: Path, what: str) -> None:
    """On one machine it is not dead, however long its lease is over; once it has lost its run, the slot is free.

    What it does when it goes on is refused: its side effect does not happen, and it does not give back another's slot.
    """
    place = Place(tmp_path)
    journal = place.open()
    journal.set_limit(Limit(NAMES[what], 1))
    zombie, heir = process(place, what), process(place, what)
    go(zombie)
    _until(lambda: len(events(place)) == 1)
    (slot,) = journal.list_slots()
    go(heir)
    _until(lambda: bool(journal.list_slots(waiting_only=True)))
    zombie.send_signal(signal.SIGSTOP)
    _until(lambda: time.time() > slot.expires + LEASE)
    assert len(events(place)) == 1
    taken = journal.claim_run(slot.run_id, take_over=True)
    _until(lambda: len(events(place)) == 2)
    zombie.send_signal(signal.SIGCONT)
    zombie.communicate()
    assert zombie.returncode != 0
    assert [(event, pid) for event, pid, _ in events(place)] == [
        ("begin", zombie.pid),
        ("begin", heir.pid),
    ]
    (slot,) = journal.list_slots()
    assert slot.owner.endswith(f":{heir.pid}")
    heir.communicate()
    assert [event for event, _, _ in events(place)] == ["begin", "begin", "paid"]
    assert journal.list_slots() == []
    journal.release_run(taken)
    journal.close()


@pytest.mark.parametrize("what", ["hold", "hold-tag", "hold-flow"])
def test_a_stopped_holder_has_lost_its_slot_after_a_lease(
    tmp_path: Path, postgres: PostgresServer, what: str
) -> None:
    """On PostgreSQL nobody can know that it lives: the next one has the slot, and what it still does is refused."""
    place = Place(tmp_path, postgres.url())
    journal = place.open()
    journal.set_limit(Limit(NAMES[what], 1))
    zombie, heir = process(place, what), process(place, what)
    go(zombie)
    _until(lambda: len(events(place)) == 1)
    go(heir)
    _until(lambda: bool(journal.list_slots(waiting_only=True)))
    zombie.send_signal(signal.SIGSTOP)
    stopped = time.monotonic_ns()
    _until(lambda: len(events(place)) == 2)
    assert (events(place)[1][2] - stopped) / 1e9 < PROMPT
    zombie.send_signal(signal.SIGCONT)
    zombie.communicate()
    assert zombie.returncode != 0
    assert [(event, pid) for event, pid, _ in events(place)] == [("begin", zombie.pid), ("begin", heir.pid)]
    (slot,) = journal.list_slots()
    assert slot.owner.endswith(f":{heir.pid}")
    heir.communicate()
    assert [event for event, _, _ in events(place)] == ["begin", "begin", "paid"]
    journal.close()


def test_a_stopped_process_does_not_give_back_what_was_freed_meanwhile(place: Place) -> None:
    """Without a run there is nothing to take over: a person frees the slot, and the next one keeps it."""
    journal = place.open()
    journal.set_limit(Limit("db", 1))
    zombie, heir = process(place, "hold-process"), process(place, "hold-process")
    go(zombie)
    _until(lambda: len(events(place)) == 1)
    go(heir)
    _until(lambda: bool(journal.list_slots(waiting_only=True)))
    zombie.send_signal(signal.SIGSTOP)
    assert journal.reset_limit("db") == 1
    _until(lambda: len(events(place)) == 2)
    zombie.send_signal(signal.SIGCONT)
    zombie.communicate()
    (slot,) = journal.list_slots()
    assert slot.owner.endswith(f":{heir.pid}")
    heir.communicate()
    journal.close()


@pytest.mark.parametrize(
    "place", ["sqlite", pytest.param("postgres", marks=pytest.mark.nightly)], indirect=True
)
@pytest.mark.timeout(600)
def test_two_thousand_waiters_of_eight_processes_share_five_slots(place: Place) -> None:
    """All wait at once: everybody gets a turn, and at no time do more than five have one."""
    journal = place.open()
    journal.set_limit(Limit("tag:db", 0))
    everybody = [process(place, "crowd") for _ in range(8)]
    for one in everybody:
        go(one)
    _until(lambda: len(journal.list_slots(waiting_only=True)) == 8 * CROWD, patience=120)
    journal.set_limit(Limit("tag:db", 5))
    for one in everybody:
        one.communicate()
        assert one.returncode == 0
    assert 1 < most_at_once([(event, at) for event, _, at in events(place)]) <= 5
    recorded: list[tuple[str, float]] = []
    for run in journal.list_runs(RunFilter(limit=100)):
        assert run.state is StateType.COMPLETED
        steps = [row for row in journal.steps(run.number) if row.name == "short"]
        assert len(steps) == CROWD
        recorded += [("begin", row.started) for row in steps]
        recorded += [("end", row.ended or 0.0) for row in steps]
    assert most_at_once(recorded) <= 5
    assert journal.list_slots() == []
    journal.close()


def most_at_once(moments: Sequence[tuple[str, float]]) -> int:
    """How many turns there were at one time at the most; one that ends makes room for one that begins."""
    now = most = 0
    for event, _ in sorted(moments, key=lambda moment: (moment[1], moment[0] == "begin")):
        now += 1 if event == "begin" else -1
        most = max(most, now)
    return most


def _until(condition: Callable[[], bool], *, patience: float = PATIENCE) -> None:
    """Wait for what another process does, which nothing here can be told of."""
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        pause.wait(0.005)
