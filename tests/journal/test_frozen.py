"""A PostgreSQL server that freezes, a network that swallows: who waits is told in time; nothing is lost or twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from agentflow.errors import Fenced, JournalOpenError, JournalUnavailable
from agentflow.journal.postgres import PostgresJournal
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.steps import sequence_of
from tests.faults import Measured
from tests.journal.partition import Network, network_to
from tests.journal.postgres_driver import KEY, new, row
from tests.journal.postgres_server import PostgresServer, running_server
from tests.journal.test_outages import Load

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]
LEASE = 3.0
#: Seconds within which a verb is answered: one silence, one attempt to reach the server anew, and a busy machine.
PROMISED = LEASE + 2.0 + 3.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that these tests may freeze."""
    with running_server() as running:
        yield running


@pytest.fixture
def network(server: PostgresServer) -> Iterator[Network]:
    """Between that server and its clients."""
    with network_to(server.port) as made:
        yield made


def told_in_time(verb: Callable[[], object]) -> float:
    """How long a verb took to say that it cannot be done."""
    began = time.monotonic()
    with pytest.raises(JournalUnavailable, match="resume the run"):
        verb()
    took = time.monotonic() - began
    assert took < PROMISED
    return took


def write_again(journal: PostgresJournal, run: Run, sequence: int) -> None:
    """Write what nobody could say of whether it was written: the server may have done it when it went on."""
    with suppress(ValueError):
        journal.append(run.number, run.epoch, [row(run, sequence)], durable=True)


def measure(fault: Measured, points: int, journal: PostgresJournal, run: Run, expected: list[int]) -> None:
    """Tell what was written, and what is there of it."""
    found = sequences(journal, run.number)
    fault(points, lost=len(set(expected) - set(found)), doubled=len(found) - len(set(found)))
    assert found == expected


def sequences(journal: PostgresJournal, number: int) -> list[int]:
    return [sequence_of(found.id) for found in journal.steps(number)]


@pytest.mark.fault(19, "PostgreSQL frozen")
def test_a_frozen_server_is_told_of_in_time(server: PostgresServer, fault: Measured) -> None:
    """By every kind of verb; after it goes on the same journal does, with every row once, and owns what it owned."""
    journal = PostgresJournal(server.url(), KEY, lease=LEASE, patience=LEASE)
    run = journal.create_run(new("run"))
    journal.append(run.number, run.epoch, [row(run, 1)])
    server.freeze()
    try:
        began = time.monotonic()
        assert not journal.try_append(run.number, run.epoch, [row(run, 2)])
        assert time.monotonic() - began < LEASE, "an event loop stands still only for a moment"
        told_in_time(lambda: journal.append(run.number, run.epoch, [row(run, 2)], durable=True))
        told_in_time(lambda: journal.set_state(run.number, run.epoch, StateType.PAUSED))
        told_in_time(lambda: journal.get_run("run"))
        with pytest.raises(JournalOpenError, match="cannot open the journal"):
            PostgresJournal(journal.address, KEY)
    finally:
        server.thaw()
    write_again(journal, run, 2)
    journal.append(run.number, run.epoch, [row(run, 3)])
    measure(fault, 4, journal, run, [1, 2, 3])
    assert journal.is_owned(run)
    journal.close()


@pytest.mark.nightly
@pytest.mark.fault(19, "PostgreSQL frozen")
def test_a_freeze_under_load_loses_nothing(server: PostgresServer, fault: Measured) -> None:
    """Writers that are patient enough see nothing of it; what they were told is there, once."""
    journal = PostgresJournal(server.url(), KEY, lease=LEASE)
    load = Load(journal, 4)
    for _ in range(3):
        load.progress(30)
        server.freeze()
        threading.Event().wait(LEASE * 1.2)
        server.thaw()
    load.progress(30)
    load.end()
    fault(3, lost=load.lost, doubled=load.doubled)
    journal.close()


@pytest.mark.fault(19, "network parted, and healed")
@pytest.mark.parametrize(
    "ways",
    [
        "both",
        pytest.param("there", marks=pytest.mark.nightly),
        pytest.param("back", marks=pytest.mark.nightly),
    ],
)
def test_a_network_that_swallows_is_told_of_in_time(
    server: PostgresServer, network: Network, ways: str, fault: Measured
) -> None:
    """In both directions or in one; after it heals the same journal goes on, with every row once."""
    journal = PostgresJournal(network.url(server.url(), server.port), KEY, lease=LEASE, patience=LEASE)
    run = journal.create_run(new("run"))
    network.there.black, network.back.black = ways != "back", ways != "there"
    told_in_time(lambda: journal.append(run.number, run.epoch, [row(run, 1)], durable=True))
    told_in_time(lambda: journal.steps(run.number))
    network.heal()
    write_again(journal, run, 1)
    measure(fault, 1, journal, run, [1])
    journal.close()


@pytest.mark.fault(19, "network parted, and healed")
def test_who_is_cut_off_for_longer_than_a_lease_is_refused_afterwards(
    server: PostgresServer, network: Network, fault: Measured
) -> None:
    """Meanwhile somebody else goes on with its run; nothing that it still writes gets in."""
    url = server.url()
    journal = PostgresJournal(network.url(url, server.port), KEY, lease=LEASE, patience=LEASE)
    other = PostgresJournal(url, KEY, lease=LEASE)
    run = journal.create_run(new("run"))
    journal.append(run.number, run.epoch, [row(run, 1)])
    network.part()
    deadline = time.monotonic() + 10 * LEASE
    while not other.due_runs(9.0):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    taken = other.claim_run("run")
    other.append(taken.number, taken.epoch, [row(taken, 2)])
    network.heal()
    with pytest.raises(Fenced):
        journal.append(run.number, run.epoch, [row(run, 2)])
    with pytest.raises(Fenced):
        journal.set_state(run.number, run.epoch, StateType.COMPLETED, release=True)
    measure(fault, 1, other, run, [1, 2])
    other.set_state(taken.number, taken.epoch, StateType.COMPLETED, release=True)
    journal.close()
    other.close()


@pytest.mark.fault(7, "reply lost after the commit")
def test_a_reply_that_is_lost_after_the_commit_changes_nothing(
    server: PostgresServer, network: Network, fault: Measured
) -> None:
    """The connection is cut when the server has committed: each write is there once, each number given out once."""
    journal = PostgresJournal(network.url(server.url(), server.port), KEY, lease=LEASE)
    run = journal.create_run(new("run"))
    for sequence in range(1, 21):
        network.cut_after = b"COMMIT" if sequence % 2 else b"INSERT INTO step"
        journal.append(run.number, run.epoch, [row(run, sequence)], durable=bool(sequence % 2))
    made: list[int] = []
    for count in range(10):
        network.cut_after = b"COMMIT"
        made.append(journal.create_run(new(f"run-{count}")).number)
    assert network.cuts >= 10  # a statement that is prepared goes by its name, in which nothing is found
    measure(fault, network.cuts, journal, run, list(range(1, 21)))
    assert made == sorted(set(made))
    journal.close()


def test_a_slow_network_is_no_dead_one(server: PostgresServer, network: Network) -> None:
    """Answers that are late are waited for."""
    journal = PostgresJournal(network.url(server.url(), server.port), KEY, lease=LEASE)
    run = journal.create_run(new("run"))
    network.there.delay = network.back.delay = 0.2
    for sequence in range(1, 4):
        journal.append(run.number, run.epoch, [row(run, sequence)], durable=True)
    assert sequences(journal, run.number) == [1, 2, 3]
    assert journal.is_owned(run)
    network.there.delay = network.back.delay = 0.0
    journal.close()
