"""Global limits in code: `concurrency` holds slots for a block, `rate_limit` uses them up. Across all processes.

A limit is defined outside of the code (``agentflow limits set NAME N``); a name without one does not limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Iterable, Sequence
from contextvars import ContextVar
from threading import get_ident
from types import TracebackType
from typing import Any

from agentflow.engine.away import ABROAD, refusal
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.policy import StepPolicy
from agentflow.engine.records import Record
from agentflow.engine.runtime import INLINE, LOOP, Extras, Runtime, drive, running_loop
from agentflow.engine.slots import claim_of, give_back, keeper_of, take
from agentflow.engine.step import Call, body_frame, end_row, recall, start_rows
from agentflow.errors import (
    AcquireConcurrencySlotTimeoutError,
    ColourError,
    LimitNotFoundError,
    MissingContextError,
    ParameterError,
    SlotDeadlockError,
    UsageError,
)
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.limits import MOST_SLOTS, Claim, ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from agentflow.model.steps import StepKind
from agentflow.payloads.digests import canonical
from agentflow.payloads.failures import encode_failure
from agentflow.settings import Settings
from agentflow.waits import Waiting

__all__ = [
    "AcquireConcurrencySlotTimeoutError",
    "ConcurrencyLimitConfig",
    "ConcurrencyLimitStrategy",
    "LimitNotFoundError",
    "SlotDeadlockError",
    "concurrency",
    "rate_limit",
]


_Held = tuple[object, tuple[str, ...]]
_NOTHING: _Held = (None, ())
#: The claims that blocks hold around the running code, and the branch of code in which they do.
_HELD: ContextVar[_Held] = ContextVar("agentflow_held", default=_NOTHING)


def _branch() -> object:
    """The asyncio task or the thread: code that runs in it one thing after the other."""
    return get_ident() if running_loop() is None else asyncio.current_task()


class _Wish:
    """What is wanted of which limits."""

    def __init__(
        self,
        names: str | Iterable[str],
        occupy: int,
        timeout: float | None,
        lease: float | None,
        *,
        strict: bool,
    ) -> None:
        self.names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
        self.occupy, self.timeout, self.lease, self.strict = occupy, timeout, lease, strict
        problem = ""
        if not self.names or not all(self.names):
            problem = "name at least one limit"
        elif not 1 <= occupy <= MOST_SLOTS:
            problem = f"occupy must be at least 1 and at most {MOST_SLOTS:,}, not {occupy}"
        elif timeout is not None and not 0 <= timeout < float("inf"):
            problem = f"timeout_seconds must be a finite number of seconds, not negative; got {timeout!r}"
        elif lease is not None and not 0 < lease < float("inf"):
            problem = f"lease_duration must be a positive number of seconds; got {lease!r}"
        if problem:
            raise ParameterError(problem)

    @property
    def title(self) -> str:
        """The names, for people."""
        return ", ".join(self.names)

    def journal(self, frame: Frame | None) -> tuple[Journal, Settings]:
        """Where the limits are."""
        if frame is not None:
            return frame.run.journal, frame.run.options.settings
        settings = Settings.from_environment()
        return open_journal(settings), settings

    async def taken(
        self, frame: Frame | None, rt: Runtime, *, around: Sequence[str] = (), spends: bool = False
    ) -> str:
        """Take the slots; returns the claim, "" where nothing is held. `around`: claims of the blocks around."""
        journal, settings = self.journal(frame)
        step = "" if frame is None else frame.policy.name
        claim: Claim = claim_of(
            journal,
            settings,
            self.names,
            frame=frame,
            step=step,
            slots=self.occupy,
            lease=self.lease,
            around=around,
        )._replace(spends=spends, strict=self.strict)
        held = await take(journal, settings, claim, rt, frame=frame, patience=self.timeout)
        return claim.id if held and not spends else ""


class concurrency:  # noqa: N801 - Prefect's name
    """Hold slots of limits while a block runs: ``with concurrency("db"):``, in async code ``async with``.

    Slots of several limits are taken together, all or none; who comes first is served first, over all processes of the
    journal. When the holder dies, its slots are free again. A block whose steps are all recorded takes no slot when the
    run is replayed, except where the code has changed.

    Args:
        names: One limit or several. A name that is not defined does not limit.
        occupy: How many slots of each.
        timeout_seconds: How long to wait for them; default: for ever.
        strict: Raise where a limit is not defined.
        lease_duration: Seconds after which the slots of a holder that is not heard of any more are free again, where
            the journal cannot know whether it lives; default: the setting ``lease``.

    Raises:
        AcquireConcurrencySlotTimeoutError: on entering, when `timeout_seconds` have passed. Inside a flow this is
            recorded, as a task's failure is.
        LimitNotFoundError: on entering, if `strict`.
        SlotDeadlockError: on entering inside of another block, where the two limits' holders would wait for each other
            for ever. Recorded, too; with retries of the task around it the others go on meanwhile.
        ColourError: on entering with ``with`` on a thread whose event loop runs.
        MissingContextError: on entering in a body that a task runner has sent to another process. Limit the task by a
            tag, or hold the slot around its call.
    """

    def __init__(
        self,
        names: str | Iterable[str],
        occupy: int = 1,
        timeout_seconds: float | None = None,
        *,
        strict: bool = False,
        lease_duration: float | None = None,
    ) -> None:
        self._wish = _Wish(names, occupy, timeout_seconds, lease_duration, strict=strict)
        self._block: _Block | None = None

    def _begin(self) -> _Block:
        if self._block is not None:
            message = f"one concurrency({self._wish.title!r}) is for one block; call concurrency() for each"
            raise UsageError(message)
        self._block = _Block(self._wish, _here(f"concurrency({self._wish.title!r})"))
        return self._block

    def _end(self) -> _Block:
        block = self._block
        if block is None:
            message = "a concurrency() block was left that nobody had entered"
            raise UsageError(message)
        self._block = None
        return block

    def __enter__(self) -> None:
        if running_loop() is not None:
            message = (
                f"concurrency({self._wish.title!r}) would block this thread's event loop; use `async with`, "
                "or call the task through `.submit(...)` and await that"
            )
            raise ColourError(message)
        drive(self._begin().enter(INLINE))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        drive(self._end().leave(INLINE, error))

    async def __aenter__(self) -> None:
        await self._begin().enter(LOOP)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end().leave(LOOP, error)


class _Block:
    """One block that holds slots."""

    def __init__(self, wish: _Wish, frame: Frame | None) -> None:
        self._wish, self._frame = wish, frame
        self._claim = ""
        self._call: Call | None = None
        self._child: Frame | None = None
        #: How many different calls the branch had made when the block began.
        self._calls = 0
        #: What was held around it.
        self._before: _Held = _NOTHING

    async def enter(self, rt: Runtime) -> None:
        """Take the slots, unless an earlier life has left the block behind."""
        frame = self._frame
        if frame is not None:
            frame.run.check(frame)
            if rt.is_inline(frame) and not frame.in_effect:
                record = self._placed(frame)
                if record is not None and record.end:
                    self._call = None
                    if record.event == "failed":
                        await rt.deliver(frame.run, record)
                        recall(frame.run, record, frame.scope)
                    record.claimed = Record.DELIVERED
                    if not frame.run.changed:
                        return
        try:
            around = self._around()
            self._claim = await self._wish.taken(frame, rt, around=around)
        except (AcquireConcurrencySlotTimeoutError, SlotDeadlockError) as error:
            await self._record(rt, "failed", error)
            raise
        if self._claim:
            self._before = _HELD.get()
            _HELD.set((_branch(), (*around, self._claim)))

    def _around(self) -> tuple[str, ...]:
        """The claims that are held until this block has ended: those of blocks, and of a task, that run this code."""
        branch, claims = _HELD.get()
        claims = claims if branch == _branch() else ()
        own = "" if self._frame is None else self._frame.root.claim
        return (own, *claims) if own and own not in claims else claims

    def _placed(self, frame: Frame) -> Record | None:
        """Settle the block's place among the calls of its branch; returns what is recorded of it."""
        run = frame.run
        data, _ = canonical(["concurrency", list(self._wish.names), self._wish.occupy])
        base = run.hasher.digest(data)
        blocks = frame.blocks = {} if frame.blocks is None else frame.blocks
        count = blocks.get(base, 0)
        blocks[base] = count + 1
        policy = StepPolicy(name=f"concurrency:{self._wish.title}", kind=StepKind.LIMIT, plain=True)
        key = run.hasher.digest(b"%b|%d" % (base, count))
        self._call = call = Call(frame, policy, key, _nothing, (), {}, dict, lambda _: ((), {}))
        del frame.occurrences[
            key
        ]  # there is only one, and it is no call that a block around it could have made
        self._child = body_frame(call, call.place(), None)
        self._calls = len(frame.occurrences) + len(frame.kids)
        records = frame.records()
        return None if records is None else records.index.get(call.place())

    async def leave(self, rt: Runtime, error: BaseException | None) -> None:
        """Give the slots back; where steps were made in the block, record that it is over."""
        claim, frame = self._claim, self._frame
        if not claim:
            return
        _HELD.set(self._before)
        journal, _ = self._wish.journal(frame)
        interrupted = error is not None and not isinstance(error, Exception)
        if interrupted or frame is None or self._call is None or not self._has_calls(frame):
            await give_back(journal, claim, rt, error)
            return
        try:
            await self._record(rt, "completed", None)
        except BaseException:
            keeper_of(journal).drop(claim)
            raise
        keeper_of(journal).forget(claim)

    def _has_calls(self, frame: Frame) -> bool:
        """Whether a call was made in the block that the branch had not made before."""
        return len(frame.occurrences) + len(frame.kids) > self._calls

    async def _record(self, rt: Runtime, event: str, error: BaseException | None) -> None:
        call, child = self._call, self._child
        if call is None or child is None:
            return
        run = call.run
        value = None if error is None else encode_failure(run.codec, error)[0]
        await rt.settled(run)
        run.check(call.frame)
        rows = [*start_rows(call.frame), end_row(call, child, event, value)]
        await rt.commit(run, rows, Extras(released=(self._claim,) if self._claim else ()))


def _nothing() -> None:
    return


def _here(what: str) -> Frame | None:
    """The frame of the running step; None outside of a flow. Raises `MissingContextError` in another process."""
    frame = CURRENT.get()
    if frame is None and ABROAD.get() is not None:
        raise MissingContextError(refusal(what))
    return frame


def rate_limit(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    *,
    strict: bool = False,
) -> Awaitable[None]:
    """Use up slots of limits, which come back by their decay: so many a second. ``await`` it in async code.

    Without a running loop it blocks until it is through, and there is nothing to await. Inside a flow it is a recorded
    step: a replay uses nothing up again.

    Args:
        names: One limit or several, each with a ``slot_decay_per_second``. A name that is not defined does not limit.
        occupy: How many slots of each.
        timeout_seconds: How long to wait for them; default: for ever.
        strict: Raise where a limit is not defined.

    Raises:
        AcquireConcurrencySlotTimeoutError: when `timeout_seconds` have passed.
        LimitNotFoundError: if `strict`.
        UsageError: where slots of a limit do not come back by themselves.
        MissingContextError: in a body that a task runner has sent to another process.
    """
    wish = _Wish(names, occupy, timeout_seconds, None, strict=strict)
    frame, blocking = _here(f"rate_limit({wish.title!r})"), running_loop() is None
    if frame is not None:
        waiting = _Spending.start(wish, frame)
        if not blocking:
            return waiting
        waiting.result()
    elif not blocking:
        return _spent(wish, LOOP)
    else:
        drive(_spent(wish, INLINE))
    return _Done()


async def _spent(wish: _Wish, rt: Runtime) -> None:
    await wish.taken(None, rt, spends=True)


class _Done(Awaitable[None]):
    """What there is to await when it is done already: nothing."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class _Spending:
    """The body of a rate limit's step."""

    def __init__(self, wish: _Wish) -> None:
        self._wish = wish
        self.runtime: Runtime = LOOP

    @classmethod
    def start(cls, wish: _Wish, frame: Frame) -> Waiting[None]:
        """The step, to be awaited or blocked on."""
        body = cls(wish)
        policy = StepPolicy(name=f"rate_limit:{wish.title}", kind=StepKind.RECORDED, plain=True)
        data, _ = canonical(["rate_limit", list(wish.names), wish.occupy])
        key = frame.run.hasher.digest(data)
        return Waiting(Call(frame, policy, key, body.run, (), {}, dict, lambda _: ((), {})), body)

    async def spent(self) -> None:
        """Use the slots up."""
        await self._wish.taken(CURRENT.get(), self.runtime, spends=True)

    def run(self) -> Any:
        """The step's function, in the colour of the caller."""
        return self.spent() if self.runtime is LOOP else drive(self.spent())
