"""R2: side effects of many threads at once - each is found again, whoever looks at the same moment."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from agentflow import flow, task, transaction
from agentflow.engine.context import current_frame
from agentflow.engine.records import Standing
from agentflow.model.states import StateType
from tests.fundamentals.lives import Death, die, memory, options, resume, start

PAID: Counter[int] = Counter()


@pytest.fixture(autouse=True)
def _nothing_paid() -> None:
    PAID.clear()


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@task(side_effect=True)
def pay(what: int) -> int:
    PAID[what] += 1
    return what


class LookedAt(Standing):
    """Says what stands for a transaction while another thread wants to know it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def enter(self, identity: bytes, base: bytes) -> bytes:
        if not self.seen:
            self.seen.append(b"")
            frame = current_frame("this")
            other = threading.Thread(target=lambda: self.seen.append(frame.stable))
            other.start()
            other.join()
        return super().enter(identity, base)


def test_threads_that_open_a_transaction_at_once_look_in_the_same_place() -> None:
    """Never in the run's own scope, where they would find nothing recorded and pay again."""

    @flow
    def run() -> tuple[bytes, list[bytes]]:
        with transaction():
            frame = current_frame("this")
            looked = frame.run.transactions.standing = LookedAt()
            return frame.stable, looked.seen

    stable, seen = start(run).value
    assert seen == [b"", stable]
    assert stable


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("at_once", [2, 16])
def test_what_threads_of_a_transaction_have_paid_is_not_paid_again(at_once: int) -> None:
    """The next life asks for it in threads of its own."""
    alive = False

    @flow
    def run() -> list[int]:
        with transaction():
            futures = [pay.submit(what) for what in range(at_once)]
            paid = [future.result() for future in futures]
        if not alive:
            raise Death
        return paid

    for _ in range(20):
        PAID.clear()
        alive = False
        journal = memory()
        run_id = die(run, journal=journal)
        alive = True
        outcome = resume(run, run_id, journal)
        assert (outcome.value, outcome.unclaimed) == (list(range(at_once)), ())
        assert set(PAID.values()) == {1}


@pytest.mark.usefixtures("restless")
def test_a_retry_finds_what_threads_of_the_attempt_before_have_paid() -> None:
    """All of them are the first to have something recorded."""

    @flow(retries=1)
    def run() -> list[int]:
        futures = [pay.submit(what) for what in range(16)]
        paid = [future.result() for future in futures]
        if len(PAID) == 16 and not failed:
            failed.append(1)
            raise ValueError
        return paid

    for _ in range(20):
        PAID.clear()
        failed: list[int] = []
        outcome = start(run, using=options())
        assert (outcome.state, outcome.value) == (StateType.COMPLETED, list(range(16)))
        assert failed
        assert set(PAID.values()) == {1}
