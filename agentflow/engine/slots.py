"""Slots of limits: taken, waited for, renewed and given back.

One thread per journal renews the leases of what this process holds and sees whose turn it is. Who gets a slot is
decided by the journal; nothing is remembered here that would have to survive.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from agentflow.engine.deadlocks import claim_id, is_nested, to_give_up
from agentflow.engine.draining import hold
from agentflow.engine.queueing import may_go_on
from agentflow.engine.waiting import Wakeup, alive
from agentflow.errors import AcquireConcurrencySlotTimeoutError, SlotDeadlockError, Unwinding
from agentflow.journal.protocol import Journal
from agentflow.model.ids import new_id
from agentflow.model.limits import Claim, Grant

if TYPE_CHECKING:
    from agentflow.engine.context import Frame
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.submission import Work
    from agentflow.settings import Settings

_logger = logging.getLogger("agentflow.limits")
#: How often in the course of a lease it is renewed.
_RENEWALS = 3
#: Seconds after which a thread that has nothing to do ends.
_IDLE = 1.0
_SHORTEST = 0.001
#: Seconds between two looks at whether any process has committed something, while a claim waits.
_GLANCE = 0.02
#: Seconds between two looks at whether blocks wait for each other, while a claim inside of a block waits.
_DEADLOCK_LOOK = 0.5


class Turn(Wakeup):
    """A claim that waits for its slots."""

    lends = False

    def __init__(
        self,
        claim: Claim,
        settings: Settings,
        *,
        due: float | None = None,
        clock: Callable[[], float] = time.time,
        then: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(None, f"a slot of {', '.join(claim.names)}")
        self.claim = claim
        self.poll_interval = settings.poll_interval
        #: When waiting for it is given up, by `clock`.
        self.due = due
        self.clock = clock
        self.granted = False
        #: Others can go on only if it waits no longer.
        self.stuck = False
        #: Called when it is granted, by the keeper's thread.
        self.then = then

    def serve(self) -> None:
        """The claim has its slots."""
        self.granted = True
        self.wake()
        if self.then is not None:
            self.then()


class Keeper:
    """What this process holds, and waits for, in one journal."""

    def __init__(self, journal: Journal) -> None:
        self.id = new_id()
        self._reference = ref(journal)  # for as long as it lives, there is one of us
        self._turns: dict[str, Turn] = {}
        #: Leases of what is held, by claim.
        self._held: dict[str, float] = {}
        #: Claims to be given back by the thread.
        self._dropped: list[str] = []
        self._renewed = time.monotonic()
        #: When, and at which version of the journal, those who wait were served last.
        self._served = 0.0
        self._version: int = -1
        self._searched = time.monotonic()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        journal.subscribe(self._changed)

    @property
    def _journal(self) -> Journal:
        return alive(self._reference)

    # -- asking
    def ask(self, claim: Claim) -> Grant:
        """Claim slots; what is held is renewed until it is given back."""
        granted = self._journal.claim_slots(claim)
        if granted is Grant.WAITING or (granted is Grant.HELD and not claim.spends):
            with self._lock:
                self._held[claim.id] = claim.lease
                self._need_thread()
        return granted

    def expect(self, turn: Turn) -> None:
        """Wake `turn` when its claim is granted, or when it is due."""
        with self._lock:
            self._turns[turn.claim.id] = turn
            self._need_thread()
        self._wake.set()

    def give_back(self, claim: str) -> None:
        """Give back what a claim holds, now."""
        self.forget(claim)
        self._journal.release_slots([claim])

    def drop(self, claim: str) -> None:
        """Give back what a claim holds, or may hold, soon; does not block and does not fail."""
        with self._lock:
            self._turns.pop(claim, None)
            self._held.pop(claim, None)
            self._dropped.append(claim)
            self._need_thread()
        self._wake.set()

    def forget(self, claim: str) -> None:
        """Somebody else gives it back."""
        with self._lock:
            self._turns.pop(claim, None)
            self._held.pop(claim, None)

    # -- the thread
    def _need_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="agentflow-limits", daemon=True)
            self._thread.start()

    def _changed(self) -> None:
        if self._turns:
            self._wake.set()

    def _patience(self) -> float:
        with self._lock:
            if self._turns:
                dues = [turn.due - turn.clock() for turn in self._turns.values() if turn.due is not None]
                return max(_SHORTEST, min([_GLANCE, *dues]))
            return min(self._held.values(), default=_IDLE * _RENEWALS) / _RENEWALS

    def _work(self) -> None:
        while True:
            told = self._wake.wait(self._patience())
            self._wake.clear()
            with self._lock:
                if not (told or self._turns or self._held or self._dropped):
                    self._thread = None
                    return
            try:
                self._look(told=told)
            except (
                Unwinding
            ):  # the disk is full: whoever writes next hears of it, and the next look tries again
                continue
            except Exception:
                _logger.exception("slots of limits could not be looked after")

    def _look(self, *, told: bool) -> None:
        with self._lock:
            dropped = list(self._dropped)
            lease = min(self._held.values(), default=0.0)
        if dropped:
            self._journal.release_slots(dropped)
            with self._lock:
                del self._dropped[: len(dropped)]
        now = time.monotonic()
        if lease and now >= self._renewed + lease / _RENEWALS:
            self._renewed = now
            self._journal.renew_slots(self.id)
        if self._turns:
            self._serve(told=told, now=now)

    def _serve(self, *, told: bool, now: float) -> None:
        """Wake whose turn it is. That somebody died, or that slots have come back with time, nobody tells."""
        version = self._journal.version()
        with self._lock:
            due = self._served + min([turn.poll_interval for turn in self._turns.values()], default=0.0)
        granted: list[str] = []
        if told or version != self._version or now >= due:
            granted = self._journal.granted_claims(self.id)
            self._version, self._served = version, now
        with self._lock:
            served = [self._turns.pop(claim) for claim in granted if claim in self._turns]
            late = [
                turn for turn in self._turns.values() if turn.due is not None and turn.due <= turn.clock()
            ]
        for turn in served:
            turn.serve()
        for turn in late:
            turn.wake()
        if now >= self._searched + _DEADLOCK_LOOK:
            self._searched = now
            self._break_deadlock()

    def _break_deadlock(self) -> None:
        """Have a claim of this process give up that keeps others, and itself, waiting for ever."""
        with self._lock:
            nested = any(is_nested(claim) for claim in self._turns)
        if nested:
            claim = to_give_up(self._journal.list_limits(), self._journal.list_slots())
            with self._lock:
                turn = self._turns.pop(claim, None)
            if turn is not None:
                turn.stuck = True
                turn.wake()


_keepers: WeakKeyDictionary[Journal, Keeper] = WeakKeyDictionary()
_keepers_lock = threading.Lock()


def keeper_of(journal: Journal) -> Keeper:
    """The keeper of a journal; made at first use."""
    with _keepers_lock:
        found = _keepers.get(journal)
        if found is None:
            found = _keepers[journal] = Keeper(journal)
        return found


def claim_of(
    journal: Journal,
    settings: Settings,
    names: Iterable[str],
    *,
    frame: Frame | None = None,
    step: str = "",
    slots: int = 1,
    lease: float | None = None,
    around: Sequence[str] = (),
) -> Claim:
    """A new claim of the run in which `frame` stands, or of this process; `around`: see `claim_id`."""
    run = None if frame is None else frame.run
    return Claim(
        id=claim_id(around),
        names=tuple(dict.fromkeys(names)),
        slots=slots,
        run=0 if run is None else run.number,
        epoch=0 if run is None else run.epoch,
        run_id="" if run is None else run.run.id,
        step=step,
        keeper=keeper_of(journal).id,
        lease=settings.lease if lease is None else lease,
    )


async def take(
    journal: Journal,
    settings: Settings,
    claim: Claim,
    rt: Runtime,
    *,
    frame: Frame | None = None,
    work: Work | None = None,
    patience: float | None = None,
    on_wait: Callable[[], None] | None = None,
) -> bool:
    """Return when the claim has its slots; False where none of its names is a limit.

    `work`: what was submitted, if it is for that; `on_wait` is called when it has to wait.

    Raises `AcquireConcurrencySlotTimeoutError` after `patience` seconds, `SlotDeadlockError`, what stops the run, and
    what the journal refuses. Then nothing is held.
    """
    keeper = keeper_of(journal)
    clock = time.time if frame is None else frame.run.clock
    due = None if patience is None else clock() + patience
    if frame is not None:
        may_go_on(frame)
    try:
        granted = await rt.blocking(
            partial(keeper.ask, claim._replace(waits=patience is None or patience > 0))
        )
        if granted is Grant.WAITING:
            if on_wait is not None:
                on_wait()
            turn = Turn(claim, settings, due=due, clock=clock)
            await _wait(keeper, turn, rt, frame, work)
            granted = Grant.HELD if turn.granted else Grant.REFUSED
            if granted is Grant.HELD and claim.spends:
                keeper.drop(claim.id)
            if turn.stuck and not turn.granted:
                raise SlotDeadlockError(claim.names)
        if granted is Grant.REFUSED:
            raise AcquireConcurrencySlotTimeoutError(claim.names, patience or 0.0)
    except asyncio.CancelledError:  # by its exact class, which asyncio.timeout wants
        keeper.drop(claim.id)
        raise asyncio.CancelledError from None
    except BaseException:
        keeper.drop(claim.id)
        raise
    return granted is Grant.HELD


async def _wait(keeper: Keeper, turn: Turn, rt: Runtime, frame: Frame | None, work: Work | None) -> None:
    if frame is None:
        keeper.expect(turn)
        await rt.park(turn)
        return
    run = frame.run
    run.turns[turn] = frame
    try:
        may_go_on(frame)
        keeper.expect(turn)
        if not run.draining or frame.in_effect:
            await rt.park(turn)
        if run.draining and not turn.granted and not frame.in_effect:
            keeper.drop(turn.claim.id)
            del run.turns[turn]
            await hold(run, frame, rt, inline=rt.is_inline(frame), work=work)
        may_go_on(frame)
    finally:
        run.turns.pop(turn, None)


async def give_back(journal: Journal, claim: str, rt: Runtime, error: BaseException | None = None) -> None:
    """Give back what a claim holds. Where `error` is no outcome but an interruption, without getting into its way."""
    keeper = keeper_of(journal)
    if error is not None and not isinstance(error, Exception):
        keeper.drop(claim)
        return
    try:
        await rt.blocking(partial(keeper.give_back, claim))
    except asyncio.CancelledError:
        raise
    except (Exception, Unwinding):  # whoever writes next hears of what is wrong with the journal
        keeper.drop(claim)
