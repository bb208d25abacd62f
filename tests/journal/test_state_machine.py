"""Random programs of a journal's verbs, on SQLite and on the memory journal as oracle, with a crash around every verb.

Two SQLite journals share one file, like two processes. A fault strikes one statement of a verb: before it (nothing may
be stored), or after it (stored, but the reply is lost).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentflow.errors import JournalUnavailable
from agentflow.journal.protocol import CacheRow, EndsRunsTogether, Journal, RunClaim, RunEnd, RunFilter
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import LogRow, StepRow
from agentflow.model.waits import Decision, Verdict, Wait, WaitKind
from tests.journal.deployment_rules import DeploymentRules
from tests.journal.oracle import KEYS, Failure, Oracle, everything, outcome
from tests.journal.striking import KEY, Fault, StruckJournal

small = st.integers(0, 3)
ages = st.sampled_from([0, 0, 0, 0, -1, 1])
stores = st.integers(0, 1)
names = st.sampled_from(["", "a", "b"])
answers = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3), st.lists, max_leaves=3
)
verdicts = st.sampled_from(sorted(Verdict))
statements = ["BEGIN", "SAVEPOINT", "SELECT", "INSERT", "UPDATE", "WITH", "RELEASE", "COMMIT", "COMMIT"]
faults = st.none() | st.none() | st.none() | st.builds(Fault, st.sampled_from(statements), st.booleans())
repeats = st.sampled_from([False, False, False, True])
states = st.sampled_from(sorted(StateType))
mostly_alive = st.sampled_from([StateType.PAUSED] * 8 + [StateType.RUNNING] * 4 + sorted(StateType))
rarely = st.sampled_from([False, False, False, True])
asked = precondition(lambda self: bool(self.waits))


class Journals(DeploymentRules):
    """Both stores do the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="agentflow-journals-"))
        self.now = 100.0
        self.oracle = Oracle(KEY, clock=self.clock)
        self.stores: list[Any] = [self.opened(), self.opened()]
        self.ids: list[str] = []
        self.waits: list[str] = []
        #: Which store owns a run.
        self.owners: dict[int, int] = {}
        self.rows = 0
        #: Whether the last verb failed for want of a disk.
        self.struck = False

    def clock(self) -> float:
        return self.now

    def opened(self) -> Any:
        return StruckJournal(self.folder / "j.db", self.clock)

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)

    # -- choosing
    def run_of(self, index: int) -> Run:
        run = self.oracle.get_run(self.ids[index % len(self.ids)])
        assert run is not None
        return run

    def looked_at(self) -> Sequence[Any]:
        """Where it is seen what the stores hold."""
        return self.stores

    def owner_of(self, number: int, otherwise: int) -> int:
        """What an owner does, its own store does."""
        return self.owners.get(number, otherwise)

    def wait_of(self, index: int) -> str:
        return self.waits[index % len(self.waits)] if self.waits else "nothing"

    def new_row(self, run: Run, *, again: bool = False) -> StepRow:
        self.rows = max(1, self.rows + (not again))
        return StepRow(
            (run.number << 32) + self.rows, "completed", "task", "step", b"", b"key", b"", 0, 0, 0, 0, 0,
            self.now, None, b"1", None,
        )  # fmt: skip

    # -- comparing
    def both(
        self,
        which: int,
        fault: Fault | None,
        call: Callable[[Journal], object],
        *,
        repeat: bool = False,
        claims: bool = False,
    ) -> object:
        """Let a store and the oracle do the same; what the oracle said, or None if the verb was struck."""
        store = self.stores[which]
        self.arm(which, fault)
        got = outcome(lambda: call(store))
        self.struck, stored = self.struck_at(which, got)
        self.arm(which, None)
        if self.struck and not stored:
            return None
        wanted = outcome(lambda: call(self.oracle))
        if claims:
            self.note_owner(which, wanted)
        if self.struck:
            self.crash(which)
            return None
        assert got == wanted
        return self.both(which, None, call, claims=claims) if repeat else wanted

    def arm(self, which: int, fault: Fault | None) -> None:
        """Have the next verb of a store struck, or none."""
        self.stores[which].struck.arm(fault)

    def struck_at(self, which: int, got: object) -> tuple[bool, bool]:
        """Whether a verb that came to this was struck, and whether all of it was stored then."""
        plan = self.stores[which].struck
        struck = isinstance(got, Failure) and got.kind is JournalUnavailable
        assert plan.fired or not struck
        return struck, plan.stored

    def note_owner(self, which: int, claimed: object) -> None:
        for one in cast("list[object]", claimed) if isinstance(claimed, list) else [claimed]:
            if isinstance(one, dict):
                number = cast("dict[str, Any]", one)["number"]
                if self.oracle.is_taken(number):
                    self.owners[number] = which

    def crash(self, which: int) -> None:
        """The process of a store dies, and comes back."""
        self.oracle.orphan([number for number, owner in self.owners.items() if owner == which])
        self.owners = {number: owner for number, owner in self.owners.items() if owner != which}
        self.stores[which].close()
        self.stores[which] = self.opened()

    @rule(which=stores)
    def reopen(self, which: int) -> None:
        self.crash(which)

    @rule(seconds=st.integers(0, 20))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    # -- verbs
    def create(
        self,
        which: int,
        state: StateType,
        flow: str,
        fault: Fault | None,
        parent: str = "",
        *,
        repeat: bool,
        hooked: bool = False,
    ) -> None:
        run_id = f"run-{len(self.ids) % 7}-{len(self.ids)}"
        new = NewRun(
            run_id,
            flow,
            "f.py:f",
            b"{}",
            "fp",
            Origin.PERSON,
            self.now,
            name="n",
            tags=("t",),
            parent=parent,
            on_cancellation=hooked,
        )
        self.both(which, fault, lambda journal: journal.create_run(new, state=state), claims=True)
        run = self.oracle.get_run(run_id)
        if run is None:
            return
        self.ids.append(run_id)
        if repeat:
            refused = self.both(which, None, lambda journal: journal.create_run(new, state=state))
            assert isinstance(refused, Failure)

    @initialize(which=stores)
    def begin(self, which: int) -> None:
        self.create(which, StateType.RUNNING, "a", None, repeat=False)

    @rule(
        which=stores,
        state=st.sampled_from([StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED]),
        flow=names,
        parent=st.none() | small,
        fault=faults,
        repeat=repeats,
        hooked=st.booleans(),
    )
    def create_run(
        self,
        which: int,
        state: StateType,
        flow: str,
        parent: int | None,
        fault: Fault | None,
        repeat: bool,
        hooked: bool,
    ) -> None:
        above = "" if parent is None else self.run_of(parent).id
        self.create(which, state, flow, fault, above, repeat=repeat, hooked=hooked)

    @rule(which=stores, index=st.integers(0, 4), take_over=st.booleans(), fault=faults, repeat=repeats)
    def claim(self, which: int, index: int, take_over: bool, fault: Fault | None, repeat: bool) -> None:
        run_id = self.run_of(index).id if index < 4 else "nobody"

        def call(journal: Journal) -> Run:
            return journal.claim_run(run_id, take_over=take_over)

        self.both(which, fault, call, repeat=repeat, claims=True)

    @rule(which=stores, indexes=st.lists(st.integers(0, 4), unique=True), fault=faults, repeat=repeats)
    def claim_many(self, which: int, indexes: list[int], fault: Fault | None, repeat: bool) -> None:
        wanted = [RunClaim(self.run_of(index).id if index < 4 else "nobody") for index in indexes]
        wanted = list(dict.fromkeys(wanted))
        self.both(which, fault, lambda journal: journal.claim_runs(wanted), repeat=repeat, claims=True)

    @rule(which=stores, index=small, age=ages, fault=faults)
    def release(self, which: int, index: int, age: int, fault: Fault | None) -> None:
        run = self.run_of(index)
        which = self.owner_of(run.number, which)
        stale = replace(run, epoch=run.epoch + age)
        self.both(which, fault, lambda journal: journal.release_run(stale))
        if age == 0 and self.owners.get(run.number) == which:  # even where it could not be written down
            self.oracle.orphan([run.number])
        if not self.oracle.is_taken(run.number):
            self.owners.pop(run.number, None)

    @rule(
        which=stores, index=small, age=ages, state=mostly_alive, release=st.booleans(), durable=st.booleans(),
        fault=faults, repeat=repeats,
    )  # fmt: skip
    def set_state(
        self,
        which: int,
        index: int,
        age: int,
        state: StateType,
        release: bool,
        durable: bool,
        fault: Fault | None,
        repeat: bool,
    ) -> None:
        run = self.run_of(index)

        def call(journal: Journal) -> None:
            journal.set_state(
                run.number, run.epoch + age, state, message="m", result=b"r", durable=durable, release=release,
                account=b"{}",
            )  # fmt: skip

        which = self.owner_of(run.number, which)
        self.both(which, self.fault_of(fault, again=run.state is state), call, repeat=repeat)
        if self.struck and release and age == 0:  # let go of, although it could not be written down
            self.oracle.orphan([run.number])
        if not self.oracle.is_taken(run.number):
            self.owners.pop(run.number, None)

    @rule(
        which=stores, indexes=st.lists(small, min_size=1, unique=True), ages=st.lists(ages, min_size=5, max_size=5),
        state=mostly_alive, fault=faults,
    )  # fmt: skip
    def end_together(
        self, which: int, indexes: list[int], ages: list[int], state: StateType, fault: Fault | None
    ) -> None:
        if not isinstance(self.stores[which], EndsRunsTogether):
            return
        chosen = {(run := self.run_of(index)).number: run for index in indexes}
        runs = [run for run in chosen.values() if self.owner_of(run.number, which) == which]
        ends = [
            RunEnd(run.number, run.epoch + age, state, "m", b"r", None, b"{}")
            for run, age in zip(runs, ages, strict=False)
        ]

        def call(journal: Journal) -> list[str]:
            refusals = cast("EndsRunsTogether", journal).end_runs(ends)
            for refusal in refusals:
                if isinstance(refusal, JournalUnavailable):
                    raise refusal
            return [refusal.__class__.__name__ for refusal in refusals]

        self.both(which, fault, call)
        for end, run in zip(ends, runs, strict=True):
            if self.struck and end.epoch == run.epoch:  # let go of, although it could not be written down
                self.oracle.orphan([run.number])
            if not self.oracle.is_taken(run.number):
                self.owners.pop(run.number, None)

    @rule(which=stores, index=small, origin=st.sampled_from(sorted(Origin)), fault=faults)
    def add_origin(self, which: int, index: int, origin: Origin, fault: Fault | None) -> None:
        run_id = self.run_of(index).id
        self.both(which, fault, lambda journal: journal.add_origin(run_id, origin))

    @rule(which=stores, index=small, fault=faults, repeat=repeats, sure=rarely)
    def request_cancel(self, which: int, index: int, fault: Fault | None, repeat: bool, sure: bool) -> None:
        run_id = self.run_of(index).id if sure else "nobody"
        self.both(which, fault, lambda journal: journal.request_cancel(run_id, "enough"), repeat=repeat)

    @rule(
        which=stores, index=small, age=ages, count=st.integers(0, 3), again=repeats, durable=st.booleans(),
        keys=st.lists(st.sampled_from(KEYS), max_size=2), lifetime=st.none() | small,
        consumed=st.lists(st.integers(0, 9), max_size=2), fault=faults, repeat=repeats,
    )  # fmt: skip
    def append(
        self,
        which: int,
        index: int,
        age: int,
        count: int,
        again: bool,
        durable: bool,
        keys: list[bytes],
        lifetime: int | None,
        consumed: list[int],
        fault: Fault | None,
        repeat: bool,
    ) -> None:
        run = self.run_of(index)
        rows = [self.new_row(run, again=again) for _ in range(count)]
        expires = None if lifetime is None else self.now + lifetime
        cache = [
            CacheRow(key, b"%d" % self.rows, self.now, expires, run.number, private=again) for key in keys
        ]
        taken = [self.wait_of(wait) for wait in consumed]

        def call(journal: Journal) -> None:
            journal.append(run.number, run.epoch + age, rows, durable=durable, cache=cache, consumed=taken)

        self.both(which, self.fault_of(fault, again=again), call, repeat=repeat)

    @rule(which=stores, index=small, age=ages, count=st.integers(1, 3), again=repeats, fault=faults)
    def try_append(
        self, which: int, index: int, age: int, count: int, again: bool, fault: Fault | None
    ) -> None:
        run = self.run_of(index)
        rows = [self.new_row(run, again=again) for _ in range(count)]
        fault = self.fault_of(fault, again=again)
        self.both(which, fault, lambda journal: self.tried(journal, run.number, run.epoch + age, rows))

    def fault_of(self, fault: Fault | None, *, again: bool) -> Fault | None:
        """What strikes what is written, or `again` written."""
        del again
        return fault

    def tried(self, journal: Journal, number: int, epoch: int, rows: list[StepRow]) -> bool:
        return journal.try_append(number, epoch, rows)

    @rule(
        which=stores, index=small, age=ages, wait=st.none() | st.integers(0, 9), digest=names,
        again=st.booleans(), fault=faults, repeat=repeats,
    )  # fmt: skip
    def start_effect(
        self,
        which: int,
        index: int,
        age: int,
        wait: int | None,
        digest: str,
        again: bool,
        fault: Fault | None,
        repeat: bool,
    ) -> None:
        wait_id = "" if wait is None else self.wait_of(wait)
        self.effect(which, self.run_of(index), age, wait_id, digest, fault, again=again, repeat=repeat)

    def effect(
        self,
        which: int,
        run: Run,
        age: int,
        wait_id: str,
        digest: str,
        fault: Fault | None,
        *,
        again: bool,
        repeat: bool,
    ) -> None:
        row = self.new_row(run)

        def call(journal: Journal) -> None:
            journal.start_effect(
                run.number, run.epoch + age, row, wait_id=wait_id, digest=digest, again=again
            )

        said = self.both(which, fault, call)
        if repeat and said is None and row in self.oracle.steps(run.number):
            refused = self.both(which, None, call)
            assert isinstance(refused, Failure)

    @rule(
        which=stores, index=small, age=ages, kind=st.sampled_from(sorted(WaitKind)), name=names,
        twin=rarely, due=st.none() | st.integers(-2, 20), fault=faults, repeat=repeats,
    )  # fmt: skip
    def open_wait(
        self,
        which: int,
        index: int,
        age: int,
        kind: WaitKind,
        name: str,
        due: int | None,
        twin: bool,
        fault: Fault | None,
        repeat: bool,
    ) -> None:
        run = self.run_of(index)
        wait = Wait(
            id=f"{'a' * twin}{kind}-{run.number}-{name}", run=run.number, run_id=run.id, flow=run.flow,
            step="00", kind=kind, name=name, question={"n": [name, None]}, schema={}, digest="d", policy="p",
            opened=self.now, due=None if due is None else self.now + due,
        )  # fmt: skip
        self.both(which, fault, lambda journal: journal.open_wait(run.epoch + age, wait), repeat=repeat)
        if self.oracle.get_wait(wait.id) is not None and wait.id not in self.waits:
            self.waits.append(wait.id)

    @asked
    @rule(
        which=stores, index=st.integers(0, 9), verdict=verdicts, answer=answers, digest=names, fault=faults,
        repeat=repeats,
    )  # fmt: skip
    def decide(
        self,
        which: int,
        index: int,
        verdict: Verdict,
        answer: Any,
        digest: str,
        fault: Fault | None,
        repeat: bool,
    ) -> None:
        wait_id, decision, now = self.wait_of(index), Decision(verdict, answer, "why", "ann"), self.now

        def call(journal: Journal) -> Wait:
            return journal.decide(wait_id, decision, now=now, allowed_digest=digest)

        self.both(which, fault, call, repeat=repeat)

    @rule(
        which=stores, index=small, name=names, digest=names, due=st.none() | st.integers(1, 20), fault=faults,
        wait=st.integers(0, 9), age=ages, again=st.booleans(), repeat=repeats,
    )  # fmt: skip
    def sign_and_start(
        self,
        which: int,
        index: int,
        name: str,
        digest: str,
        due: int | None,
        fault: Fault | None,
        wait: int,
        age: int,
        again: bool,
        repeat: bool,
    ) -> None:
        """The whole way of a signature, and what an attacker or a replay would try with it."""
        self.open_wait(which, index, 0, WaitKind.APPROVAL, name, due, False, None, False)
        run, now = self.run_of(index), self.now
        decision, wait_id = Decision(Verdict.APPROVED, actor="ann"), f"approval-{run.number}-{name}"
        self.both(
            which,
            None,
            lambda journal: journal.decide(wait_id, decision, now=now, allowed_digest=digest),
            repeat=repeat,
        )
        self.effect(which, run, 0, wait_id, digest, fault, again=False, repeat=repeat)
        self.effect(which, run, age, wait_id, digest, None, again=again, repeat=repeat)
        self.effect(which, run, 0, self.wait_of(wait), digest, None, again=again, repeat=repeat)

    @rule(
        which=stores, index=small, name=names, payload=st.sampled_from([b"1", b'{"a":[]}', b"{"]), fault=faults,
        repeat=repeats,
    )  # fmt: skip
    def send_event(
        self, which: int, index: int, name: str, payload: bytes, fault: Fault | None, repeat: bool
    ) -> None:
        run_id, now = self.run_of(index).id, self.now
        self.both(which, fault, lambda journal: journal.send_event(run_id, name, payload, now), repeat=repeat)

    @rule(which=stores, indexes=st.lists(small, max_size=3), fault=faults)
    def add_logs(self, which: int, indexes: Sequence[int], fault: Fault | None) -> None:
        lines = [LogRow(self.run_of(index).number, self.now, 20, "l", "s", "text") for index in indexes]
        self.both(which, fault, lambda journal: journal.add_logs(lines))

    # -- reading
    @rule(
        which=stores, limit=st.integers(0, 3), wanted=st.sets(states, max_size=3), flow=names,
        before=st.none() | small, end=st.sampled_from(["", "0", "1", "-1", "none"]),
    )  # fmt: skip
    def list_some_runs(
        self, which: int, limit: int, wanted: set[StateType], flow: str, before: int | None, end: str
    ) -> None:
        some = RunFilter(limit, tuple(sorted(wanted)), flow, before, end)
        self.both(which, None, lambda journal: journal.list_runs(some))

    @rule(
        which=stores, index=st.none() | small, open_only=st.booleans(),
        kinds=st.frozensets(st.sampled_from(sorted(WaitKind)), max_size=2), limit=st.integers(0, 5),
    )  # fmt: skip
    def list_some_waits(
        self, which: int, index: int | None, open_only: bool, kinds: frozenset[WaitKind], limit: int
    ) -> None:
        number = None if index is None else self.run_of(index).number

        def call(journal: Journal) -> list[Wait]:
            return journal.list_waits(number=number, open_only=open_only, kinds=kinds, limit=limit)

        self.both(which, None, call)

    @rule(which=stores, index=small, after=st.integers(0, 9), limit=st.integers(0, 3))
    def read_a_page(self, which: int, index: int, after: int, limit: int) -> None:
        number = self.run_of(index).number
        row = (number << 32) + after
        self.both(which, None, lambda journal: journal.steps(number, row, limit))
        self.both(which, None, lambda journal: journal.logs(number, after, limit))

    @invariant()
    def all_is_equal(self) -> None:
        """Whatever can be read is the same in every store."""
        for store in self.looked_at():
            assert everything(store, self.now) == everything(self.oracle, self.now)


def play(examples: int, steps: int, machine: type[Journals] = Journals) -> None:
    """Random programs of so many steps; a program that fails is printed."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
            ],
        ),
    )


def test_sqlite_does_what_the_oracle_does() -> None:
    """In random programs with crashes, I/O errors and lost replies both stores hold and answer the same."""
    play(150, 25)


@pytest.mark.nightly
def test_sqlite_does_what_the_oracle_does_for_long() -> None:
    """The same, for thousands of programs."""
    play(5000, 60)
