"""Durable waits: a question in the journal, a branch that blocks on it, and one thread that sees the answers.

A quiet run may leave memory (eviction). That equals a crash: the run is fenced first, so that nothing its unwinding
code does or returns counts, and whoever sees the answer claims the run and replays it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakKeyDictionary, ref

from agentflow.engine.awakening import wait_until_set
from agentflow.engine.records import Place
from agentflow.errors import (
    AgentflowError,
    Cancelling,
    DecisionRefusedError,
    Fenced,
    JournalUnavailable,
    Unwinding,
)
from agentflow.journal.protocol import Journal
from agentflow.model.limits import tag_limits
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS, Decision, Verdict, Wait, WaitKind

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.context import Frame
    from agentflow.engine.runtime import Runtime

#: How often in a row nothing may move before a run counts as quiet.
_LOOKS = 2
_PREFIX = {WaitKind.IN_DOUBT: "doubt", WaitKind.DIVERGENCE: "divergence"}


def wait_id(run: ActiveRun, kind: WaitKind, scope: bytes, place: Place, count: int = 0) -> str:
    """The id of a wait: the same in every life of the run, so that an answer is never asked for twice."""
    where = run.identify(scope, place)
    digest = run.hasher.digest(b"%b|%d|%b|%d" % (kind.value.encode(), run.number, where, count))
    return f"{_PREFIX.get(kind, kind.value)}-{digest.hex()[:16]}"


def alive(reference: ReferenceType[Journal]) -> Journal:
    """The journal, for those who are there as long as it is. Raises `JournalUnavailable` where it is gone."""
    journal = reference()
    if journal is None:
        message = "the journal is closed"
        raise JournalUnavailable(message)
    return journal


class Wakeup:
    """A branch that blocks, in a thread or on a loop, until somebody else wakes it."""

    #: Whether a thread of the run's pool leaves its place to others meanwhile.
    lends = True

    def __init__(self, run: ActiveRun | None, name: str) -> None:
        self.run = run
        #: What it waits for, for people.
        self.name = name
        self._event = threading.Event()
        self._turn: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_over(self) -> bool:
        """Whether its branch has been told to go on."""
        return self._event.is_set()

    def wake(self) -> None:
        """Let the branch look again; from any thread."""
        self._event.set()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def block(self, seconds: float | None = None) -> None:
        """Block this thread, for so many seconds at the most."""
        wait_until_set(self._event, seconds)

    async def arrive(self, seconds: float | None = None) -> None:
        """Block this asyncio task, for so many seconds at the most."""
        self._loop = asyncio.get_running_loop()
        self._turn = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self._resolve)
        try:
            if not self._event.is_set():
                await self._turn
        finally:
            if timer is not None:
                timer.cancel()


class Pending(Wakeup):
    """A branch of a running run that blocks on a wait."""

    def __init__(self, run: ActiveRun, wait: Wait, since: float, frame: Frame) -> None:
        super().__init__(run, wait.name)
        self.frame = frame
        self.wait = wait
        self.since = since

    def answer(self, wait: Wait) -> None:
        """Let the branch go on with the decided wait."""
        self.wait = wait
        self.wake()


async def wait_durably(run: ActiveRun, frame: Frame, wait: Wait, rt: Runtime, *, inline: bool = True) -> Wait:
    """Open `wait` (or find it as it stands), block this branch until it is decided, and return it decided.

    `inline`: what blocks is the code of `frame` itself, not a thread or task of its own below it.
    """
    run.check(frame)
    if frame.in_effect and wait.kind not in (WaitKind.IN_DOUBT, WaitKind.DIVERGENCE):
        message = (
            f"{wait.name!r}: a durable wait inside a side effect would leave its end unknown; wait before it"
        )
        raise AgentflowError(message)
    try:
        opened = await rt.blocking(partial(run.journal.open_wait, run.epoch, wait))
        if opened.decision is not None:
            return opened
        pending = Pending(run, opened, run.options.clock(), frame)
        run.pendings[wait.id] = pending
        waker_of(run.journal).poke()
        with waiting_in(frame, inline=inline):
            await rt.park(pending)
    except asyncio.CancelledError:
        if (
            run.fence is None and not run.interrupted
        ):  # the flow has lost interest: nobody shall be asked in vain
            await rt.blocking(partial(run.journal.withdraw_wait, run.epoch, wait))
        raise
    finally:
        run.pendings.pop(wait.id, None)
    run.check(frame)
    if run.guarded and pending.wait.decision is None:
        run.admit(frame)
    return pending.wait


@contextmanager
def waiting_in(frame: Frame, *, inline: bool) -> Generator[None, None, None]:
    """Count a wait in the bodies around it, so that it shows when nothing of the run moves any more."""
    around = list(frame.enclosing())
    blocked = list(frame.in_this_thread()) if inline else []
    for body in around:
        if not body.waits and body.lane is not None:
            body.lane.lend()
        body.waits += 1
    for body in blocked:
        body.blocked += 1
    try:
        yield
    finally:
        for body in blocked:
            body.blocked -= 1
        for body in around:
            body.waits -= 1
            if not body.waits and body.lane is not None:
                body.lane.take_back()


class Waker:
    """One thread per journal: sees decisions, elapsed timers, cancellations and quiet runs."""

    def __init__(self, journal: Journal) -> None:
        self._reference = ref(journal)  # for as long as it lives, there is one of us
        self._runs: dict[ActiveRun, _Quiet] = {}
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._version = -1
        journal.subscribe(self._changed)

    @property
    def _journal(self) -> Journal:
        return alive(self._reference)

    def add(self, run: ActiveRun) -> None:
        """Watch a run."""
        with self._lock:
            self._runs[run] = _Quiet()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="agentflow-waker", daemon=True)
                self._thread.start()

    def remove(self, run: ActiveRun) -> None:
        """Watch it no longer."""
        with self._lock:
            self._runs.pop(run, None)

    def life_of(self, number: int) -> ActiveRun | None:
        """The run of that number, if this process is running it."""
        return next((run for run in tuple(self._runs) if run.number == number), None)

    def poke(self) -> None:
        """Look now."""
        self._wake.set()

    def _changed(self) -> None:
        """Something was committed here: look now if anybody waits for it (cancelling can wait for the poll)."""
        if any(run.pendings or run.queued for run in tuple(self._runs)):
            self._wake.set()

    def _work(self) -> None:
        while True:
            with self._lock:
                patience = self._patience()
            told = self._wake.wait(patience)
            self._wake.clear()
            with self._lock:
                if not told and not self._runs:
                    self._thread = None
                    return
                runs = dict(self._runs)
            try:
                self._look(runs)
            except (Exception, Unwinding):  # one run was taken over, the disk is full: others still wait
                self._version = -1  # so that the next look sees everything anew
            del runs  # nothing is kept alive while this waits

    def _patience(self) -> float | None:
        waits = [
            run.options.settings.quiet_grace
            if (run.pendings or run.blocked.held) and not quiet.said
            else run.options.settings.poll_interval
            for run, quiet in self._runs.items()
        ]
        return min(waits, default=1.0)

    def _look(self, runs: dict[ActiveRun, _Quiet]) -> None:
        version = self._journal.version()
        fresh, self._version = version != self._version, version
        if fresh:
            limits = tag_limits(self._journal.list_limits())
            for run in runs:
                run.tag_limits = limits
        for run, quiet in runs.items():
            if fresh or self._wake.is_set() or run.pendings:
                self._answers(run)
            for queued in tuple(run.queued):
                queued.look()
            self._timers(run)
            self._quiet(run, quiet)

    def _answers(self, run: ActiveRun) -> None:
        stored = self._journal.get_run(run.run.id)
        if stored is not None and stored.epoch != run.epoch:
            run.stop(Fenced("another process has taken this run over"))
            return
        if stored is not None and stored.state is StateType.CANCELLING and run.fence is None:
            run.stop(Cancelling(stored.message or "cancelled"))
            return
        if run.pendings:
            for wait in self._journal.unread_answers(run.number):
                pending = run.pendings.get(wait.id)
                if pending is not None and not pending.is_over:
                    pending.answer(wait)

    def _timers(self, run: ActiveRun) -> None:
        now = run.options.clock()
        for pending in list(run.pendings.values()):
            wait = pending.wait
            if wait.due is not None and wait.due <= now and not pending.is_over:
                try:
                    pending.answer(self._journal.decide(wait.id, Decision(Verdict.ELAPSED), now=now))
                except DecisionRefusedError:  # somebody was faster; seen at the next look
                    self._wake.set()

    def _quiet(self, run: ActiveRun, quiet: _Quiet) -> None:
        """Twice in a row nothing moved: say so in the run's state, and evict it when its time has come."""
        if not run.is_quiet():
            if quiet.said and run.fence is None and not run.pendings:
                self._say(run, StateType.RUNNING, "")
            quiet.looks, quiet.said = 0, quiet.said and bool(run.pendings)
            return
        quiet.looks += 1
        if quiet.looks < _LOOKS:
            return
        now = run.options.clock()
        if not quiet.said:
            quiet.said, quiet.since = True, now
            if not run.blocked.held:  # else it does not wait, it is about to be given back
                waits = [pending.wait for pending in run.pendings.values()]
                self._say(run, StateType.PAUSED, waiting_message(waits))
        patience = run.options.suspend_after
        if patience is not None and now - quiet.since >= patience:
            run.evict()

    def _say(self, run: ActiveRun, state: StateType, message: str) -> None:
        try:
            self._journal.set_state(run.number, run.epoch, state, message=message, durable=False)
        except ValueError:  # it has just ended
            return


class _Quiet:
    """How long a run has been quiet."""

    __slots__ = ("looks", "said", "since")

    def __init__(self) -> None:
        self.looks = 0
        self.said = False
        self.since = 0.0


def waiting_message(waits: list[Wait]) -> str:
    """One line on what a run waits for."""
    persons = [wait for wait in waits if wait.kind in PERSON_KINDS]
    if persons:
        return "waits for a person: " + ", ".join(f"{wait.kind} of {wait.name}" for wait in persons[:3])
    return "waits for " + ", ".join(f"{wait.kind} {wait.name}".strip() for wait in waits[:3])


_wakers: WeakKeyDictionary[Journal, Waker] = WeakKeyDictionary()
_wakers_lock = threading.Lock()


def waker_of(journal: Journal) -> Waker:
    """The waker of a journal; made at first use."""
    with _wakers_lock:
        found = _wakers.get(journal)
        if found is None:
            found = _wakers[journal] = Waker(journal)
        return found
