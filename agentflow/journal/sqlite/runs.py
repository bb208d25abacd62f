"""Verbs of runs: made, claimed, moved from state to state, listed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import apsw
import orjson

from agentflow.errors import (
    AgentflowError,
    JournalUnavailable,
    RunFinishedError,
    RunNotFoundError,
    RunOwnedError,
    Unwinding,
)
from agentflow.journal import rules
from agentflow.journal.protocol import RunClaim, RunEnd, RunFilter
from agentflow.journal.rows import EPOCH, new_run, new_run_values, run_from
from agentflow.journal.sql.filters import runs_listed
from agentflow.journal.sql.lives import EndOfLife, end_lives
from agentflow.journal.sqlite.base import SQL, SqliteBase, check_epoch, executing
from agentflow.journal.sqlite.cache import forget_runs
from agentflow.model.lives import LifeEnd, end_of, last_words
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import SEQUENCE_BITS, StepRow

T = TypeVar("T")
#: What is looked at before runs are claimed, and before they change their states.
_CLAIMABLE = "SELECT id, number, epoch, owner, state FROM run WHERE id = ?"
_MOVABLE = "SELECT number, state, epoch, message FROM run WHERE number = ?"
#: How many runs that can move are read at once.
_PAGE = 200


class SqliteRuns(SqliteBase):
    """See `agentflow.journal.protocol.runs.RunVerbs`."""

    def create_run(
        self, new: NewRun, *, state: StateType = StateType.RUNNING, owned: bool | None = None
    ) -> Run:
        owned = state is StateType.RUNNING if owned is None else owned
        owner = self.owner if owned else ""
        values = new_run_values(new, state, owner)
        if not (owned or new.parent or new.deployment):
            number = self._committer.try_execute(SQL["create_run"], values)
            if number is not None:
                self._count(1)
                self._notify()
                return new_run(new, state, owner, number)
        taken: list[tuple[int, int]] = []

        def work(db: apsw.Connection) -> int:
            if new.parent:
                above = db.execute(SQL["state_of"], (new.parent,)).fetchone()
                if above is not None:
                    rules.check_parent(StateType(above[0]), above[1])
            if new.deployment:
                paused = db.execute(SQL["deployment_is_paused"], (new.deployment,)).get
                rules.check_deployment(new.deployment, paused)
            number: int = db.execute(SQL["create_run"], values).get
            if owned:
                self._own(taken, number, 1, new.id, "another process")
            return number

        number = self._commit_claim(work, taken)
        self._notify()
        return new_run(new, state, owner, number)

    def claim_run(
        self,
        run_id: str,
        *,
        take_over: bool = False,
        start: bool = True,
        fingerprint: str = "",
        origin: Origin | None = None,
    ) -> Run:
        taken: list[tuple[int, int]] = []
        claim, asked = RunClaim(run_id, fingerprint, start), "" if origin is None else origin.value

        def work(db: apsw.Connection) -> Run:
            refusals: list[AgentflowError] = []
            claimed = self._claim(db, taken, [claim], refusals, asked, take_over=take_over)
            if refusals:
                raise refusals[0]
            return claimed[0]

        run = self._commit_claim(work, taken)
        self._notify()
        return run

    def claim_runs(self, wanted: Sequence[RunClaim]) -> list[Run]:
        if not wanted:
            return []
        taken: list[tuple[int, int]] = []
        claimed = self._commit_claim(lambda db: self._claim(db, taken, wanted, []), taken)
        if claimed:
            self._notify()
        return sorted(claimed, key=lambda run: run.number)

    def _claim(
        self,
        db: apsw.Connection,
        taken: list[tuple[int, int]],
        wanted: Sequence[RunClaim],
        refusals: list[AgentflowError],
        asked: str = "",
        *,
        take_over: bool = False,
    ) -> list[Run]:
        """Claim those of `wanted` that may be, and say with what the others were refused."""
        claims = {claim.run_id: claim for claim in wanted}
        lives: list[tuple[Any, ...]] = []
        owned: list[tuple[Any, ...]] = []
        now = self._clock()
        rows: list[Any] = db.executemany(_CLAIMABLE, [(run_id,) for run_id in claims]).fetchall()
        found = {row[0]: row for row in rows}
        for run_id, claim in claims.items():
            try:
                if run_id not in found:
                    raise RunNotFoundError(run_id)
                _, number, epoch, owner, state = *found[run_id][:4], StateType(found[run_id][4])
                if state.is_final:
                    raise RunFinishedError(run_id, state.value)
                held = self._ownership.is_held(number, epoch)
                if held and not take_over:
                    raise RunOwnedError(run_id, owner or "another process")
                self._own(taken, number, epoch + 1, run_id, owner)
            except (RunNotFoundError, RunFinishedError, RunOwnedError) as error:
                refusals.append(error)
                continue
            crashed = 1 if state is StateType.RUNNING and owner else 0
            lost = LifeEnd.TAKEN_OVER if held else LifeEnd.CRASHED
            if epoch:
                end_lives(executing(db), [EndOfLife(number, epoch, owner, now, lost, last_words(state))])
            lives.append((number, epoch + 1, now, self.owner, asked, claim.fingerprint))
            owned.append((self.owner, now, crashed, number, int(claim.start)))
        db.executemany(SQL["begin_life"], lives)
        return [run_from(row) for row in db.executemany(SQL["claim_run"], owned).fetchall()]

    def _own(self, taken: list[tuple[int, int]], number: int, epoch: int, run_id: str, owner: str) -> None:
        if (number, epoch) in taken:  # the work is done once more after an interruption
            return
        taken.append((number, epoch))
        if not self._ownership.acquire(number, epoch):
            taken.remove((number, epoch))
            raise RunOwnedError(run_id, owner or "another process")

    def _commit_claim(self, work: Callable[[apsw.Connection], T], taken: list[tuple[int, int]]) -> T:
        try:
            return self._commit(work)
        except BaseException:
            for number, epoch in taken:
                self._ownership.release(number, epoch)
            raise

    def bind_run(
        self, number: int, epoch: int, parameters: bytes, *, name: str = "", on_cancellation: bool = False
    ) -> None:
        def work(db: apsw.Connection) -> None:
            check_epoch(db, number, epoch)
            db.execute(SQL["bind_run"], (parameters, name, name, int(on_cancellation), number, epoch))

        self._commit(work)
        self._notify()

    def release_run(self, run: Run) -> None:
        now = self._clock()

        def work(db: apsw.Connection) -> None:
            state = db.execute(SQL["release_run"], (run.number, run.epoch)).get
            if state is None:
                return
            end = LifeEnd.INTERRUPTED
            if state == StateType.CANCELLING and self._is_over(db, self._need_run(db, run.id)):
                stopped = (StateType.CANCELLED.value, now, run.number)
                db.execute("UPDATE run SET state = ?, ended = ? WHERE number = ?", stopped)
                state = StateType.CANCELLED.value
            if StateType(state).is_final:
                end = end_of(StateType(state))
                forget_runs(db, [run.number])
            end_lives(executing(db), [EndOfLife(run.number, run.epoch, self.owner, now, end)])

        try:
            self._commit(work)
        finally:  # what cannot be written down is still let go of
            self._ownership.release(run.number, run.epoch)
        self._notify()

    def set_state(
        self,
        number: int,
        epoch: int,
        state: StateType,
        *,
        message: str = "",
        result: bytes | None = None,
        error: bytes | None = None,
        durable: bool = True,
        release: bool = False,
        account: bytes | None = None,
    ) -> None:
        now, move = self._clock(), RunEnd(number, epoch, state, message, result, error, account)

        def work(db: apsw.Connection) -> None:
            (refusal,) = self._move(db, [move], now, release=release)
            if refusal is not None:
                raise refusal

        try:
            self._commit(work, durable=durable)
        except JournalUnavailable:
            if release:  # whoever resumes it later must not be told that it is owned
                self._ownership.release(number, epoch)
            raise
        if release:
            self._ownership.release(number, epoch)
        self._notify()

    def end_runs(self, ends: Sequence[RunEnd]) -> list[BaseException | None]:
        """See `agentflow.journal.protocol.EndsRunsTogether`."""
        now = self._clock()
        refusals: list[BaseException | None]
        try:
            refusals = self._commit(lambda db: self._move(db, ends, now, release=True), durable=True)
        except JournalUnavailable as error:
            refusals = [error] * len(ends)
        for end, refusal in zip(ends, refusals, strict=True):
            if refusal is None or isinstance(refusal, JournalUnavailable):
                self._ownership.release(end.number, end.epoch)
        self._notify()
        return refusals

    def _move(
        self, db: apsw.Connection, moves: Sequence[RunEnd], now: float, *, release: bool
    ) -> list[BaseException | None]:
        """Change the states of different runs, of those that may; with what the others were refused with."""
        refusals: list[BaseException | None] = []
        states: list[tuple[RunEnd, StateType, str]] = []
        rows: list[Any] = db.executemany(_MOVABLE, [(move.number,) for move in moves]).fetchall()
        found = {row[0]: row[1:] for row in rows}
        for move in moves:
            refusal, row = None, found.get(move.number)
            over = (
                release and row is not None and row[0] == StateType.CANCELLING and _is_undone(db, move.number)
            )
            try:
                states.append((move, *rules.next_state(row, move.epoch, move.state, move.message, over=over)))
            except (Unwinding, ValueError) as error:
                refusal = error
            refusals.append(refusal)
        values = [
            (state.value, why, now if state.is_final else None, move.result, move.error, int(release), move.number,
             move.epoch, now)
            for move, state, why in states
        ]  # fmt: skip
        db.executemany(SQL["set_state"], values)
        forget_runs(db, [move.number for move, state, _ in states if state.is_final])
        lives = [
            EndOfLife(move.number, move.epoch, self.owner, now, end_of(state), why, move.account)
            for move, state, why in states
            if release or state.is_final
        ]
        end_lives(executing(db), lives)
        return refusals

    def add_origin(self, run_id: str, origin: Origin) -> None:
        def work(db: apsw.Connection) -> None:
            run = self._need_run(db, run_id)
            if origin not in run.origins:
                db.execute(SQL["add_origin"], (",".join((*run.origins, origin)), run.number))

        self._commit(work, durable=True)

    def request_cancel(self, run_id: str, message: str) -> Run:
        def work(db: apsw.Connection) -> Run:
            run = self._need_run(db, run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            self._cancel(db, run, message)
            for child in map(run_from, db.execute(SQL["live_descendants"], (run_id,)).fetchall()):
                self._cancel(db, child, rules.with_parent(run_id, message))
            return self._need_run(db, run_id)

        run = self._commit(work, durable=True)
        self._notify()
        return run

    def _cancel(self, db: apsw.Connection, run: Run, message: str) -> None:
        over = not self._ownership.is_held(run.number, run.epoch) and self._is_over(db, run)
        state, why = rules.cancelled_state(run.state, run.message, message, over=over)
        ended = self._clock() if state.is_final else None
        db.execute(SQL["cancel"], (state.value, why, ended, run.number))
        if state.is_final:
            forget_runs(db, [run.number])

    def _is_over(self, db: apsw.Connection, run: Run) -> bool:
        return rules.is_over(run, undone=_is_undone(db, run.number))

    def get_run(self, run_id: str) -> Run | None:
        row = self._one("SELECT * FROM run WHERE id = ?", (run_id,))
        return None if row is None else run_from(row)

    def list_runs(self, wanted: RunFilter) -> list[Run]:
        return [run_from(row) for row in self._all(*runs_listed(wanted))]

    def due_runs(
        self, now: float, *, after: int = 0, limit: int | None = None, without: Collection[str] = ()
    ) -> list[Run]:
        moving = self._moving_runs(now, after, without, _PAGE if limit is None else min(_PAGE, limit))
        free = (run_from(row) for row in moving if not self._ownership.is_held(row[0], row[EPOCH]))
        return list(islice(free, limit))

    def _moving_runs(
        self, now: float, after: int, without: Collection[str], size: int
    ) -> Iterator[Sequence[Any]]:
        others, own = (orjson.dumps(list(found)).decode() for found in (without, self._ownership.claims()))
        while page := self._all(SQL["due_runs"], (after, size, others, now, own)):
            yield from page
            if len(page) < size:
                return
            after, size = page[-1][0], _PAGE

    def is_owned(self, run: Run) -> bool:
        epoch = self._one(SQL["run_epoch"], (run.number,))
        return epoch is not None and self._ownership.is_held(run.number, epoch[0])


def _is_undone(db: apsw.Connection, number: int) -> bool:
    span = (number << SEQUENCE_BITS, (number + 1) << SEQUENCE_BITS)
    return rules.is_undone(StepRow(*row) for row in db.execute(SQL["transactions"], span))
