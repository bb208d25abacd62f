"""Transactions: a block whose steps hold together, or are undone by their hooks in reverse order.

A transaction is a step whose code runs in every life, so what is recorded in it is found although it has ended. Its
end is recorded; that it is to be rolled back, and with which hooks, is recorded durably before the first hook runs.
From then on nothing new begins in it, in whatever life: a killed rollback is completed, and ends with the same error.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import get_ident
from typing import TYPE_CHECKING, Any

from agentflow.engine import branches
from agentflow.engine.context import CURRENT, Frame, current_frame
from agentflow.engine.futures import unlooked
from agentflow.engine.handing_on import record_failure
from agentflow.engine.policy import StepPolicy
from agentflow.engine.records import Place, Record
from agentflow.engine.runtime import Extras, running_loop
from agentflow.engine.staging import left_staged, stage
from agentflow.engine.step import Call, execute_now, recorded
from agentflow.engine.step_rows import end_row, start_rows
from agentflow.engine.transaction_hooks import (
    COMMIT,
    ROLLBACK,
    Done,
    HookCall,
    calls_of,
    left_over,
    open_around,
    run_hooks,
)
from agentflow.engine.transaction_values import Transaction
from agentflow.errors import Cancelling, RollingBack, RunCancelled, TransactionRolledBack, Unwinding
from agentflow.journal.protocol import CacheRow
from agentflow.model.steps import StepKind, StepRow
from agentflow.model.transactions import CommitMode, TransactionState
from agentflow.payloads.digests import canonical
from agentflow.payloads.failures import decode_failure, encode_failure

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.runtime import Runtime

#: How a rollback ends, as the journal keeps it.
_RAISE, _CANCELLED, _STOPPED, _QUIET = "raise", "cancelled", "stopped", "quiet"


class TransactionFrame(Frame):
    """The frame of a transaction's block."""

    def __init__(self, opened: OpenTransaction, call: Call, place: Place, record: Record | None) -> None:
        super().__init__(call.run, call.frame, call.policy, place)
        self.opened = opened
        self._record, self._call_frame = record, call.frame
        self.transaction = opened.transaction
        self.t0 = call.run.clock()
        self.task, self.thread = call.frame.task, call.frame.thread or get_ident()
        self.detached, self.before = call.own, call.effects
        if record is not None:
            self.started = bool(record.identity)
            if record.effect:
                call.frame.count_effect(place)
                self.counted = True

    def _identities(self) -> tuple[bytes, bytes]:
        run, record = self.run, self._record
        around, stable = self._call_frame.scope, self._call_frame.stable
        identity = run.identify(around if record is None else record.scope, self.place)
        base = run.identify(stable, self.place) if record is None or not record.stable else record.stable
        return identity, run.transactions.standing.enter(identity, base)


class OpenTransaction:
    """One block of one life."""

    def __init__(
        self, key: str | None, mode: CommitMode | None, *, overwrite: bool = False, write: bool = True
    ) -> None:
        frame = current_frame("transaction()")
        self.run: ActiveRun = frame.run
        self.around = frame
        outer = open_around(frame)
        self.outer = outer[0] if outer else None
        inherited = self.outer.transaction.commit_mode if self.outer is not None else CommitMode.LAZY
        name = "transaction" if key is None else f"transaction {key}"
        parent = next((body.transaction for body in frame.enclosing() if body.transaction is not None), None)
        self.transaction = Transaction(name, self.run.codec, parent, key=key, commit_mode=mode or inherited)
        self._overwrite, self._write = overwrite, write
        self._known_before = False
        #: Steps with hooks that have happened in it, by the position of their rows.
        self.done: dict[int, Done] = {}
        #: Steps with hooks that are under way in it.
        self.running: set[Future[None]] = set()
        #: Transactions in its block that commit with it.
        self.inner: list[OpenTransaction] = []
        self.record: Record | None = None
        #: It has ended, or is being ended.
        self.is_over = False

    # -- in
    def enter(self, rt: Runtime) -> Transaction:
        """Begin the block."""
        run, around, transaction = self.run, self.around, self.transaction
        policy = StepPolicy(name=transaction.name, kind=StepKind.TRANSACTION, plain=True)
        digest = run.hasher.digest(b"transaction\0" + canonical([transaction.key])[0])
        self.call = Call(around, policy, digest, _nothing, (), {}, dict, lambda _: ((), {}))
        self.call.own = not rt.is_inline(around)
        place = self.call.place()
        # a block is nothing new by itself, only what begins in it is
        self.record = None if run.records is None else recorded(self.call, place)
        if self.record is not None:
            place = self.record.place
            if self._is_inner():
                self.record.claimed = Record.DELIVERED
        self.frame = TransactionFrame(self, self.call, place, self.record)
        if self._rolls_back():
            run.close(self.frame)
        if transaction.key is not None:
            transaction.look = self._look
        transaction.state = TransactionState.ACTIVE
        run.transactions.open.append(self)
        CURRENT.set(self.frame)
        return transaction

    def _rolls_back(self) -> bool:
        """Whether an earlier life has recorded that it is (by itself) to be rolled back."""
        record = self.record
        return record is not None and record.is_rolled_back and "outer" not in record.details()

    def _is_inner(self) -> bool:
        """Whether it commits with the one around it."""
        return self.outer is not None and self.transaction.commit_mode is not CommitMode.EAGER

    def _look(self) -> bool:
        """Whether an earlier run has committed its key; recorded."""
        policy = StepPolicy(name="is_committed", kind=StepKind.RECORDED, plain=True)
        frame = CURRENT.get() or self.frame
        call = Call(
            frame,
            policy,
            self.run.hasher.digest(b"is_committed"),
            self._stored,
            (),
            {},
            dict,
            lambda _: ((), {}),
        )
        self._known_before = execute_now(call)
        return self._known_before

    def _stored(self) -> bool:
        return not self._overwrite and self.run.journal.cached(self._key()) is not None

    def _key(self) -> bytes:
        return self.run.hasher.digest(b"committed\0" + canonical([self.transaction.key])[0])

    # -- out
    async def leave(self, error: BaseException | None, rt: Runtime) -> None:
        """End the block. Raises what it ends with, if that is not `error` itself."""
        if CURRENT.get() is self.frame:
            CURRENT.set(self.around)
        if self.is_over or self._is_lost(error):
            self._forget()
            if error is None:
                self.run.check(self.frame)
            return
        mine: Future[None] = Future()
        opens = open_around(self.around)
        for opened in opens:
            opened.running.add(mine)
        try:
            ending = await rt.protected(self.run, self.end, error, rt)
        finally:
            self._forget()
            for opened in opens:
                opened.running.discard(mine)
            mine.set_result(None)
        if ending is None or ending is error:
            return
        raise ending from (None if error is None or isinstance(error, Unwinding) else error.__cause__)

    def _forget(self) -> None:
        if self in self.run.transactions.open:
            self.run.transactions.open.remove(self)

    def _is_lost(self, error: BaseException | None) -> bool:
        """Whether this is no outcome of the block: the run leaves memory or was taken over, the process is stopped."""
        fence = self.run.fence
        if fence is not None and not isinstance(fence, Cancelling):
            return True
        if any(around.revoked for around in self.frame.enclosing()):
            return True
        if isinstance(error, asyncio.CancelledError):
            return self.run.interrupted
        return error is not None and not isinstance(error, (Exception, Cancelling, RollingBack))

    async def end(self, error: BaseException | None, rt: Runtime) -> BaseException | None:
        """What the block ends with."""
        record = self.record
        if error is None and self.frame.children is not None:
            submitted = list(self.frame.children)
            await rt.join(submitted)
            error = unlooked(submitted)
        if self._rolls_back():
            return await self._roll_back(error, rt)
        if self.outer is not None and any(around.closed for around in self.around.enclosing()):
            return error  # it is rolled back with the one around it
        if record is not None and record.event == "completed":
            if self._is_inner() and error is None and self.outer is not None:
                self.hand_up(self.outer)
            elif not self._is_inner():
                await self._drain(rt)
                await rt.deliver(self.run, record)
                await self._committed(_calls(record), rt)
            return error  # whatever this life makes of it: it has committed
        if error is None and self.transaction.commit_mode is CommitMode.OFF and self.outer is None:
            error = None if self.transaction.wanted else _Unwanted(self.transaction.name)
        if error is not None:
            return await self._roll_back(error, rt)
        await self._drain(rt)
        if self._is_inner() and self.outer is not None and not self.outer.is_over:
            self.hand_up(self.outer)
            return None
        return await self._commit(rt)

    async def _drain(self, rt: Runtime) -> None:
        """Return when the steps with hooks that are under way have ended: they may still happen."""
        blocks_the_loop = (
            not rt.awaits and running_loop() is not None
        )  # `with` in an async flow: see `too_late`
        while self.running and not blocks_the_loop:
            await rt.over(next(iter(self.running)))

    def hand_up(self, outer: OpenTransaction) -> None:
        """Let the one around it take over what has happened in it, to commit it or to undo it."""
        self._keep_key()
        outer.inner += [self, *self.inner]
        outer.done |= self.done
        outer.frame.staged += self.frame.staged
        self.transaction.state = TransactionState.STAGED
        self.frame.opened = outer  # what still runs in its block belongs to that one

    def _keep_key(self) -> None:
        if self.transaction.key is not None and self._write and not self._known_before:
            run, key = self.run, self._key()
            self.frame.staged += (
                CacheRow(
                    key, b"null", run.options.clock(), None, run.number, run.run.id, "", self.transaction.name
                ),
            )

    # -- commit
    async def _commit(self, rt: Runtime) -> None:
        run = self.run
        self._keep_key()
        await rt.settled(run)
        run.check(self.frame)
        calls = calls_of(self._entries(), COMMIT, self.transaction)
        rows = start_rows(self.around)
        rows += [opened.row("completed", None, {"outer": True}) for opened in self.inner]
        rows.append(self.row("completed", None, self._detail(calls)))
        durable = self.frame.counted or bool(self.done)
        entries = {entry.key: entry for entry in self._staged_before()}
        entries |= {entry.key: entry for entry in self.frame.staged}
        visible = stage(self.around, tuple(entries.values()))
        if durable or visible:
            await rt.commit(run, rows, Extras(durable=durable, cache=visible))
        else:
            await rt.commit(run, rows)
        await self._committed(calls, rt)

    def _staged_before(self) -> list[CacheRow]:
        records = [opened.record for opened in (self, *self.inner)]
        return [entry for item in records if item is not None for entry in left_staged(self.run, item)]

    async def _committed(self, calls: list[HookCall], rt: Runtime) -> None:
        self._over(TransactionState.COMMITTED)
        if calls:
            await run_hooks(self.frame, COMMIT, calls, self.transaction, self.done, rt)

    def _over(self, state: TransactionState) -> None:
        self.run.transactions.hooks_over |= self.done.keys()
        for opened in (self, *self.inner):
            opened.is_over = True
            opened.transaction.state = state

    # -- rollback
    async def _roll_back(self, error: BaseException | None, rt: Runtime) -> BaseException | None:
        run, record = self.run, self.record
        run.close(self.frame)
        await self._drain(rt)
        for opened in run.transactions.open:
            if opened is not self and any(around is self.frame for around in opened.frame.enclosing()):
                opened.hand_up(self)  # its block runs in another branch, and ends with this one
        rows = start_rows(self.around)
        if record is not None and record.is_rolled_back:
            calls, failure = _calls(record), record.value or b""
            self.transaction.restore(record.details().get("values", {}))
            shown, how = decode_failure(run.codec, failure), record.details().get("how", _RAISE)
        else:
            await rt.settled(run)
            how, cause = _how(error, run)
            failure, shown = encode_failure(run.codec, cause)
            calls = calls_of(self._entries(), ROLLBACK, self.transaction)
            if calls:
                rows.append(self.row("rolling_back", failure, self._detail(calls) | {"how": how}))
                await rt.commit(run, rows, Extras(durable=True))
                rows = []
        self._over(TransactionState.ROLLED_BACK)
        answered = await run_hooks(self.frame, ROLLBACK, calls, self.transaction, self.done, rt)
        if record is not None and record.end:
            await rt.deliver(run, record)
            row_id = record.row.id
        else:
            rows += [opened.row("rolled_back", None, {"outer": True}) for opened in self.inner]
            row = self.row("rolled_back", failure, None if calls else {"how": how})
            durable = self.frame.counted or bool(calls)
            await rt.commit(run, [*rows, row], Extras(durable=durable, consumed=answered))
            row_id = row.id
        run.transactions.standing.rolled_back(self.frame.scope)
        record_failure(shown, row_id, self.around.scope)
        return await self._outcome(error, shown, how, rt)

    async def _outcome(
        self, error: BaseException | None, shown: BaseException, how: str, rt: Runtime
    ) -> BaseException | None:
        run = self.run
        if how == _QUIET and (error is None or isinstance(error, _Unwanted)):
            return None
        if how == _STOPPED:
            run.stop(Cancelling(str(shown)))
            return (
                error if isinstance(error, (Cancelling, asyncio.CancelledError)) else Cancelling(str(shown))
            )
        if how == _CANCELLED:
            if isinstance(error, asyncio.CancelledError):
                return error
            await rt.settled(run)  # whatever cancelled it then has its chance to do it again
        return shown

    async def too_late(self, entry: Done, rt: Runtime) -> None:
        """A step has happened although the transaction had ended: its hooks follow."""
        phase = COMMIT if self.transaction.state is TransactionState.COMMITTED else ROLLBACK
        calls = calls_of([entry], phase, self.transaction)
        await run_hooks(self.frame, phase, calls, self.transaction, self.done, rt)

    async def give_up(self, error: BaseException, rt: Runtime) -> None:
        """Roll it back from outside: the thread that runs its block was abandoned."""
        self._forget()
        if not self.is_over:
            await self._roll_back(error, rt)

    # -- rows
    def _entries(self) -> list[Done]:
        entries = list(self.done.values())
        for opened in (self, *self.inner):
            if opened.record is not None:
                entries += left_over(self.run, opened.record, {item.seq: item for item in entries})
        return entries

    def _detail(self, calls: list[HookCall]) -> dict[str, Any]:
        if not calls:
            return {}
        return {"plan": [list(item) for item in calls], "values": self.transaction.seen()}

    def row(self, event: str, value: bytes | None, detail: dict[str, Any] | None) -> StepRow:
        """A row of the transaction itself."""
        return end_row(self.call, self.frame, event, value, detail or None)


class _Unwanted(Exception):
    """Nobody committed a transaction that does not commit by itself."""


def _calls(record: Record) -> list[HookCall]:
    return [HookCall(*item) for item in record.details().get("plan", ())]


def _how(error: BaseException | None, run: ActiveRun) -> tuple[str, BaseException]:
    """How the rollback ends, and the exception that is recorded for it."""
    if isinstance(run.fence, Cancelling):
        return _STOPPED, RunCancelled(str(run.fence))
    if isinstance(error, asyncio.CancelledError):
        return _CANCELLED, TransactionRolledBack("its branch was cancelled, and it was rolled back")
    if isinstance(error, _Unwanted) or error is None:
        return _QUIET, TransactionRolledBack("nobody committed it")
    return _RAISE, error


async def roll_back_below(run: ActiveRun, frame: Frame, error: BaseException, rt: Runtime) -> None:
    """Roll back the transactions that are open in an attempt whose thread was abandoned."""
    for opened in reversed(run.transactions.open[:]):
        if any(around is frame.root for around in opened.frame.enclosing()):
            await opened.give_up(error, rt)


def _nothing() -> None:
    return


branches.own_coroutine(OpenTransaction.end)
