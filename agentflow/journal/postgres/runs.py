"""Verbs of runs: made, claimed, moved from state to state, listed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from agentflow.errors import RunFinishedError, RunOwnedError
from agentflow.journal import rules
from agentflow.journal.postgres.base import PostgresBase, check_epoch, executing, locked_run
from agentflow.journal.postgres.cache import forget_run
from agentflow.journal.postgres.commits import Append, End
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.protocol import RunClaim, RunFilter
from agentflow.journal.rows import new_run, new_run_values, run_from
from agentflow.journal.sql.filters import runs_listed
from agentflow.journal.sql.lives import EndOfLife, end_lives
from agentflow.model.lives import LifeEnd, end_of, last_words
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import SEQUENCE_BITS, StepRow

_STOPPED = b"UPDATE run SET state = $1, ended = $2 WHERE number = $3"


class Ended(NamedTuple):
    """How a run ends."""

    state: str
    message: str
    #: None: by the database's clock.
    now: float | None
    result: bytes | None
    error: bytes | None
    life: str
    account: bytes | None


class PostgresRuns(PostgresBase):
    """See `agentflow.journal.protocol.runs.RunVerbs`."""

    def create_run(
        self, new: NewRun, *, state: StateType = StateType.RUNNING, owned: bool | None = None
    ) -> Run:
        owned = state is StateType.RUNNING if owned is None else owned
        owner = self.owner if owned else ""
        values = new_run_values(new, state, owner)
        number = None if new.parent or new.deployment else self._create_at_once(values, owned=owned)
        if number is None:
            number = self._create(new, values, owned=owned)
        self._notify()
        return new_run(new, state, owner, number)

    def _create_at_once(self, values: Sequence[Any], *, owned: bool) -> int | None:
        """Its number, where nothing stands against it and it needs none above it."""
        keeper = self._keeper.registered() if owned else None
        found = (SQL["number_of_run"], values[:1])
        row = self._committer.at_once(SQL["create_run_at_once"], (*values, keeper), found)
        return None if row is None else int(row[0])

    def _create(self, new: NewRun, values: Sequence[Any], *, owned: bool) -> int:
        def work(db: Session) -> int:
            if new.parent:
                above = db.one(SQL["parent_locked"], (new.parent,))
                if above is not None:
                    rules.check_parent(StateType(above[0]), above[1])
            if new.deployment:
                row = db.one(SQL["deployment_is_paused"], (new.deployment,))
                rules.check_deployment(new.deployment, None if row is None else int(row[0]))
            if db.one(SQL["state_of"], (new.id,)) is not None:  # before it has taken a number
                raise ValueError(f"the journal holds this already (run {new.id})")
            return int(db.value(SQL["create_run"], values))

        def start(db: Session, keeper: int) -> int:
            number = work(db)
            db.do(SQL["keep_run"], (keeper, number))
            return number

        return self._commit_claim(start) if owned else self._commit(work)

    def claim_run(
        self,
        run_id: str,
        *,
        take_over: bool = False,
        start: bool = True,
        fingerprint: str = "",
        origin: Origin | None = None,
    ) -> Run:
        def work(db: Session, keeper: int) -> Run:
            run, held = locked_run(db, run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            if held and not take_over:
                raise RunOwnedError(run_id, run.owner or "another process")
            crashed = 1 if run.state is StateType.RUNNING and run.owner else 0
            now = self._now(db)
            lost = LifeEnd.TAKEN_OVER if held else LifeEnd.CRASHED
            asked = "" if origin is None else origin.value
            end_lives(
                executing(db), [EndOfLife(run.number, run.epoch, run.owner, now, lost, last_words(run.state))]
            )
            with db.in_one_go():
                db.do(SQL["claim_run"], (self.owner, now, crashed, run.number, int(start)))
                db.do(SQL["keep_run"], (keeper, run.number))
                life = (run.number, run.epoch + 1, now, self.owner, asked, fingerprint)
                db.do(SQL["begin_life"], life)
                claimed = db.all(SQL["run_by_id"], (run_id,))
            return run_from(claimed[0])

        self._bury_the_dead()
        run = self._commit_claim(work)
        self._notify()
        return run

    def claim_runs(self, wanted: Sequence[RunClaim]) -> list[Run]:
        if not wanted:
            return []
        ids, fingerprints, starts = map(list, zip(*wanted, strict=True))

        def work(db: Session, keeper: int) -> list[Run]:
            free = [row[0] for row in db.all(SQL["lock_free_runs"], (ids,))]
            values = (ids, fingerprints, list(map(int, starts)), free, self.owner, keeper, self._now(db))
            return [run_from(row) for row in sorted(db.all(SQL["claim_runs"], values))] if free else []

        self._bury_the_dead()
        claimed = self._commit_claim(work)
        if claimed:
            self._notify()
        return claimed

    def bind_run(
        self, number: int, epoch: int, parameters: bytes, *, name: str = "", on_cancellation: bool = False
    ) -> None:
        def work(db: Session) -> None:
            check_epoch(db, number, epoch)
            db.do(SQL["bind_run"], (parameters, name, name, int(on_cancellation), number, epoch))

        self._commit(work)
        self._notify()

    def release_run(self, run: Run) -> None:
        def work(db: Session) -> None:
            now = self._now(db)
            state = db.value(SQL["release_run"], (run.number, run.epoch))
            if state is None:
                return
            end = LifeEnd.INTERRUPTED
            stored = run_from(db.all(SQL["run_by_id"], (run.id,))[0])
            if state == StateType.CANCELLING and _is_over(db, stored):
                state = StateType.CANCELLED.value
                db.do(_STOPPED, (state, now, run.number))
            if StateType(state).is_final:
                end = end_of(StateType(state))
                forget_run(db, run.number)
            db.do(SQL["let_go_of_run"], (run.number, run.epoch, self._keeper.number))
            end_lives(executing(db), [EndOfLife(run.number, run.epoch, self.owner, now, end)])

        self._commit(work)
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
        if release and state.is_final:
            ended = Ended(
                state.value,
                message,
                None if self._clock is None else self._clock(),
                result,
                error,
                end_of(state).value,
                account,
            )
            if self._end(number, epoch, ended):
                self._notify()
                return

        def work(db: Session) -> None:
            check_epoch(db, number, epoch)
            row = db.one(b"SELECT state, epoch, message FROM run WHERE number = $1", (number,))
            over = release and row is not None and row[0] == StateType.CANCELLING and _is_undone(db, number)
            stored, why = rules.next_state(row, epoch, state, message, over=over)
            now = self._now(db)
            ended = now if stored.is_final else None
            values = (stored.value, why, ended, result, error, int(release), number, epoch, now)
            with db.in_one_go():
                db.do(SQL["set_state"], values)
                if release:
                    db.do(SQL["let_go_of_run"], (number, epoch, self._keeper.number))
                if stored.is_final:
                    forget_run(db, number)
            if release or stored.is_final:
                end_lives(
                    executing(db), [EndOfLife(number, epoch, self.owner, now, end_of(stored), why, account)]
                )

        self._commit(work, durable=durable or release)
        self._notify()

    def _end(self, number: int, epoch: int, ended: Ended) -> bool:
        """End a run together with others that end now; False where it does not just run, which is to be looked at."""
        end = End((number, epoch, self._keeper.number, *ended), (number, epoch, ended.state))
        request = Append(number, epoch, (), durable=True, end=end)
        self._committer.append(request)
        return request.took

    def add_origin(self, run_id: str, origin: Origin) -> None:
        def work(db: Session) -> None:
            run, _ = locked_run(db, run_id)
            if origin not in run.origins:
                db.do(SQL["add_origin"], (",".join((*run.origins, origin)), run.number))

        self._commit(work)

    def request_cancel(self, run_id: str, message: str) -> Run:
        def work(db: Session) -> Run:
            run, held = locked_run(db, run_id)
            if run.state.is_final:
                raise RunFinishedError(run_id, run.state.value)
            self._cancel(db, run, message, held=held)
            seen: set[str] = set()
            # once more after each round: another process may just have started a run below one of them
            while ids := [row[1] for row in db.all(SQL["live_descendants"], (run_id,)) if row[1] not in seen]:
                for child_id in ids:
                    child, child_held = locked_run(db, child_id)
                    if not child.state.is_final:
                        self._cancel(db, child, rules.with_parent(run_id, message), held=child_held)
                seen.update(ids)
            return run_from(db.all(SQL["run_by_id"], (run_id,))[0])

        self._bury_the_dead()
        run = self._commit(work)
        self._notify()
        return run

    def _cancel(self, db: Session, run: Run, message: str, *, held: bool) -> None:
        over = not held and _is_over(db, run)
        state, why = rules.cancelled_state(run.state, run.message, message, over=over)
        ended = self._now(db) if state.is_final else None
        db.do(SQL["cancel"], (state.value, why, ended, run.number))
        if state.is_final:
            forget_run(db, run.number)

    def get_run(self, run_id: str) -> Run | None:
        row = self._one(SQL["run_by_id"], (run_id,))
        return None if row is None else run_from(row)

    def list_runs(self, wanted: RunFilter) -> list[Run]:
        return [run_from(row) for row in self._find(*runs_listed(wanted))]

    def due_runs(
        self, now: float, *, after: int = 0, limit: int | None = None, without: Collection[str] = ()
    ) -> list[Run]:
        return [run_from(row) for row in self._all(SQL["due_runs"], (after, list(without), now, limit))]

    def is_owned(self, run: Run) -> bool:
        return self._one(SQL["run_is_owned"], (run.number,)) is not None


def _is_over(db: Session, run: Run) -> bool:
    return rules.is_over(run, undone=_is_undone(db, run.number))


def _is_undone(db: Session, number: int) -> bool:
    span: tuple[Any, ...] = (number << SEQUENCE_BITS, (number + 1) << SEQUENCE_BITS)
    return rules.is_undone(StepRow(*row) for row in db.all(SQL["transactions"], span))
