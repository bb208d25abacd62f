"""Sagas for crash tests: what they book in the world, in both colours, and a life that ends at a chosen write."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentflow import flow, task, transaction
from agentflow.engine.active import Options
from agentflow.engine.flow_run import Outcome
from agentflow.engine.transaction_values import Transaction
from agentflow.flows import Flow
from agentflow.model.states import StateType
from agentflow.model.waits import Channel, Decision, Verdict, WaitKind, binding
from agentflow.settings import Settings
from agentflow.transactions import CommitMode, get_transaction
from tests.engine.crashing import Crash, CrashingJournal

SETTINGS = Settings(quiet_grace=0.0, poll_interval=0.005)


@dataclass
class World:
    """What lies outside of the journal."""

    #: What is booked now.
    booked: set[str] = field(default_factory=set[str])
    #: How often each was booked.
    bookings: collections.Counter[str] = field(default_factory=collections.Counter[str])
    #: What hooks were called with, in their order.
    hooks: list[str] = field(default_factory=list[str])
    #: The code of later lives takes another way.
    changed: bool = False


class Universe:
    """The world of the trial that runs now."""

    now: World = World()


class NoRoomError(Exception):
    """What makes the sagas fail."""


def book(what: str) -> str:
    """Change the world."""
    Universe.now.booked.add(what)
    Universe.now.bookings[what] += 1
    txn = get_transaction()
    assert txn is not None
    txn.set("token", f"token of {what}")
    return what


def undo(txn: Transaction, what: str) -> None:
    """Change it back."""
    assert txn.is_rolled_back()
    assert txn.get("customer") == "ann"
    # what its body had set is lost where the process died before the end of that was recorded
    assert txn.get("token", None) in (f"token of {what}", None)
    Universe.now.hooks.append(f"undo {what}")
    Universe.now.booked.discard(what)


def _undo_of(what: str) -> Callable[[Transaction], None]:
    def undo_it(txn: Transaction) -> None:
        undo(txn, what)

    undo_it.__qualname__ = f"undo_{what}"
    return undo_it


def _told_of(what: str) -> Callable[[Transaction], None]:
    def tell(txn: Transaction) -> None:
        assert txn.is_committed()
        Universe.now.hooks.append(f"tell {what}")

    tell.__qualname__ = f"tell_{what}"
    return tell


def _effects(what: str) -> tuple[Any, Any]:
    options: dict[str, Any] = {
        "side_effect": True,
        "on_rollback": [_undo_of(what)],
        "on_commit": [_told_of(what)],
    }

    @task(name=f"book {what}", **options)
    def sync() -> str:
        return book(what)

    @task(name=f"book {what}", **options)
    async def later() -> str:
        await asyncio.sleep(0)
        return book(what)

    return sync, later


hotel, hotel_async = _effects("hotel")
car, car_async = _effects("car")
flight, flight_async = _effects("flight")


@task(side_effect=True, idempotent=True)
def refund(what: str) -> None:
    """A compensation that is an effect itself."""
    Universe.now.booked.discard(what)


@task(name="book tour", on_rollback=[lambda txn: refund(txn.get("token"))])
def tour() -> str:
    """Not a side effect for the engine, as tasks of old code are not; undone by an effect."""
    Universe.now.booked.add("tour")
    txn = get_transaction()
    assert txn is not None
    txn.set("token", "tour")
    return "tour"


@task
def package() -> str:
    """A step that contains others with hooks: a later life does not run its code again."""
    return hotel() + car()


@task
def fails() -> None:
    """A step that fails, and books nothing."""
    raise NoRoomError


@flow
def three(fail: bool) -> str:
    """Three steps, and one that fails or does not."""
    with transaction() as txn:
        txn.set("customer", "ann")
        hotel()
        car()
        if not (Universe.now.changed and fail):
            flight()
            if fail:
                fails()
        elif Universe.now.changed:
            return "changed"
    return "booked"


@flow
async def three_async(fail: bool) -> str:
    """The same, in the other colour, two of them at once."""
    async with transaction() as txn:
        txn.set("customer", "ann")
        await asyncio.gather(hotel_async(), car_async())
        if not (Universe.now.changed and fail):
            await flight_async()
            if fail:
                fails()
        elif Universe.now.changed:
            return "changed"
    return "booked"


@flow
def nested(fail: bool) -> str:
    """One transaction is undone and caught, another holds, a third is committed early."""
    with transaction("all") as txn:
        txn.set("customer", "ann")
        try:
            with transaction("first"):
                hotel()
                raise NoRoomError
        except NoRoomError:
            tour()
        with transaction("second"):
            car()
        with transaction("early", CommitMode.EAGER):
            flight()
        if fail:
            raise NoRoomError
    return "booked"


@flow
def inside(fail: bool) -> str:
    """Hooks of steps inside of another step."""
    with transaction() as txn:
        txn.set("customer", "ann")
        package()
        tour()
        if fail:
            raise NoRoomError
    return "booked"


@flow
def submitted(fail: bool) -> str:
    """Submitted and mapped steps."""
    with transaction() as txn:
        txn.set("customer", "ann")
        first, second = hotel.submit(), car.submit()
        if fail:
            fails.submit()
        first.result()
        second.result()
    return "booked"


@flow(retries=1)
def retried(fail: bool) -> str:
    """A flow's second attempt asks anew for what was undone, and keeps what holds."""
    with transaction("holds") as txn:
        txn.set("customer", "ann")
        car()
    with transaction("undone") as txn:
        txn.set("customer", "ann")
        hotel()
        tour()
        if fail:
            fails()
    return "booked"


SHAPES: dict[str, Flow[..., Any]] = {
    "three steps": three,
    "three steps, async": three_async,
    "nested": nested,
    "inside a step": inside,
    "submitted": submitted,
    "retried": retried,
}


def live(which: Flow[..., Any], fail: bool, journal: CrashingJournal, run_id: str = "") -> Outcome:
    """One life."""
    options = Options(settings=SETTINGS, suspend_after=0.0, sleep=lambda _: None, sleep_async=_turn)
    if run_id:
        return which.resume(run_id, journal=journal, options=options, take_over=True)
    return which.run({"fail": fail}, journal=journal, options=options)


async def _turn(_: float) -> None:
    await asyncio.sleep(0)


@dataclass
class Trial:
    """What came of a run that was killed at a write, and resumed."""

    outcome: Outcome
    world: World
    journal: CrashingJournal
    lives: int = 1


def trial(
    which: Flow[..., Any], fail: bool, at: int, *, again: int = 0, changed: bool = False
) -> Trial | None:
    """Kill a run at write `at`, its second life `again` writes later; a person says what is in doubt, truly.

    None where it was killed before there was a run, or after its end.
    """
    Universe.now = World()
    journal = CrashingJournal()
    journal.at = at
    outcome: Outcome | None = None
    with contextlib.suppress(Crash, BaseExceptionGroup):
        outcome = live(which, fail, journal)
    lives = 1
    while outcome is None or outcome.state is StateType.PAUSED:
        journal.revive()
        run_id = journal.get_run_of(1)
        run = None if run_id is None else journal.get_run(run_id)
        if run_id is None or run is None or run.state.is_final:
            return None
        Universe.now.changed = changed and _rolls_back(journal)
        _answer(journal)
        lives += 1
        assert lives < 20
        if lives == 2 and again:
            journal.at = journal.writes + again
        with contextlib.suppress(Crash, BaseExceptionGroup):
            outcome = live(which, fail, journal, run_id)
    return Trial(outcome, Universe.now, journal, lives)


def _rolls_back(journal: CrashingJournal) -> bool:
    return any(row.event == "rolling_back" for row in journal.steps(1))


def _answer(journal: CrashingJournal) -> None:
    for wait in journal.list_waits(number=1):
        assert wait.kind is WaitKind.IN_DOUBT, wait
        what = wait.name.removeprefix("book ")
        known = sum(row.event == "completed" and row.name == wait.name for row in journal.steps(1))
        happened = Universe.now.bookings[what] > known
        decision = Decision(
            Verdict.HAPPENED if happened else Verdict.RUN_AGAIN,
            what if happened else None,
            channel=Channel.CODE,
        )
        digest = binding(wait.name, wait.question["executed"])
        journal.decide(wait.id, decision, now=0.0, allowed_digest=digest)
