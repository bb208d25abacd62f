"""The random programs of `test_state_machine` with limits and slots: never more than a limit hold one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from agentflow.journal.protocol import Journal
from agentflow.model.limits import Claim, Grant, Limit
from agentflow.model.states import StateType
from tests.journal.oracle import EVERYTHING, Oracle
from tests.journal.striking import Fault
from tests.journal.test_state_machine import KEY, Journals, ages, faults, play, rarely, small, stores

limit_names = st.sampled_from(["x", "y"])
decays = st.sampled_from([0.0, 0.0, 0.5])


class OracleOfLimits(Oracle):
    """Knows which processes have died, as file locks do."""

    def is_alive(self, number: int, epoch: int) -> bool | None:
        return super().is_alive(number, epoch) if number else epoch == 0

    def end_process(self, keeper: str) -> None:
        for mine in self.slots.values():
            for name, slot in mine.items():
                if slot.keeper == keeper and not slot.run:
                    mine[name] = slot._replace(epoch=-1)


class LimitedJournals(Journals):
    """Both stores give slots to the same claims."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle = self.limits = OracleOfLimits(KEY, clock=self.clock)
        self.claims = 0
        #: How many slots of a limit may be held: as many as it has, or as were held when it was lowered.
        self.allowed: dict[str, int] = {}

    def crash(self, which: int) -> None:
        super().crash(which)
        self.limits.end_process(f"store {which}")

    @initialize()
    def begin_with_limits(self) -> None:
        for name in ("x", "y"):
            self.set_limit(0, name, 2, True, 0.0, False, None)

    def held(self, name: str) -> int:
        return sum(slot.slots for slot in self.oracle.list_slots(limit=name) if slot.granted is not None)

    @rule(
        which=stores, name=limit_names, limit=small, active=st.sampled_from([True] * 5 + [False]),
        decay=decays, declared=rarely, fault=faults,
    )  # fmt: skip
    def set_limit(
        self,
        which: int,
        name: str,
        limit: int,
        active: bool,
        decay: float,
        declared: bool,
        fault: Fault | None,
    ) -> None:
        wanted = Limit(name, limit, active, decay, declared=declared)
        before = self.held(name)
        self.both(which, fault, lambda journal: journal.set_limit(wanted))
        self.allowed[name] = max(before, self.allowed.get(name, 0), limit)

    @rule(which=stores, name=limit_names, fault=faults, sure=rarely, all_slots=st.booleans())
    def unset(self, which: int, name: str, fault: Fault | None, sure: bool, all_slots: bool) -> None:
        if all_slots:
            self.both(which, fault, lambda journal: journal.reset_limit(name))
        elif sure:
            self.both(which, fault, lambda journal: journal.delete_limit(name))

    @rule(
        which=stores, index=st.none() | small, age=ages, slots=st.integers(1, 3), fault=faults,
        names=st.sets(limit_names, min_size=1).map(sorted), spends=rarely, strict=rarely, waits=st.booleans(),
    )  # fmt: skip
    def claim_slots(
        self,
        which: int,
        index: int | None,
        age: int,
        slots: int,
        fault: Fault | None,
        names: Sequence[str],
        spends: bool,
        strict: bool,
        waits: bool,
    ) -> None:
        self.claims += 1
        run = None if index is None else self.run_of(index)
        if run is not None:
            which = self.owner_of(run.number, which)
        claim = Claim(
            f"claim-{self.claims}", tuple(names), slots, run.number if run else 0, run.epoch + age if run else 0,
            run.id if run else "", "step", f"store {which}", 10.0, spends, strict, waits,
        )  # fmt: skip
        said = self.both(which, fault, lambda journal: journal.claim_slots(claim))
        if said is Grant.REFUSED:
            assert not any(slot.claim == claim.id for slot in self.oracle.list_slots())

    @rule(which=stores, back=st.lists(st.integers(0, 5), max_size=2), fault=faults)
    def release_slots(self, which: int, back: list[int], fault: Fault | None) -> None:
        claims = [f"claim-{self.claims - count}" for count in back]
        self.both(which, fault, lambda journal: journal.release_slots(claims))

    @rule(which=stores, keeper=stores, fault=faults)
    def look(self, which: int, keeper: int, fault: Fault | None) -> None:
        self.both(which, fault, lambda journal: sorted(journal.granted_claims(f"store {keeper}")))

    @rule(which=stores, keeper=stores, fault=faults)
    def renew(self, which: int, keeper: int, fault: Fault | None) -> None:
        self.both(which, fault, lambda journal: journal.renew_slots(f"store {keeper}"))

    @invariant()
    def slots_are_equal(self) -> None:
        """The same claims hold, or wait for, the same slots in every store."""
        for store in self.looked_at():
            assert slots_in(store) == slots_in(self.oracle)

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        """Beyond what was held when it was lowered, nothing is given out; the dead and the ended hold nothing."""
        runs = {run.number: run for run in self.oracle.list_runs(EVERYTHING)}
        for limit in self.oracle.list_limits():
            held = self.held(limit.name)
            if limit.active and not limit.slot_decay_per_second:
                assert held <= max(limit.limit, self.allowed[limit.name])
                self.allowed[limit.name] = max(limit.limit, held)
            else:
                self.allowed[limit.name] = max(limit.limit, held)
        for slot in self.oracle.list_slots():
            if slot.run:
                assert runs[slot.run].epoch == slot.epoch
                assert self.oracle.is_taken(slot.run)
                assert (
                    runs[slot.run].state not in (StateType.COMPLETED, StateType.FAILED)
                    or slot.run in self.owners
                )


def slots_in(journal: Journal) -> object:
    """What is held and waited for, without the names of owners."""
    limits = journal.list_limits()
    return (
        limits,
        [round(journal.free_slots(limit.name), 6) for limit in limits],
        [(*slot[:4], slot.granted, slot.expires) for slot in journal.list_slots()],
    )


def test_random_programs_with_limits_leave_every_store_alike() -> None:
    """Some dozens of programs, with faults, crashes and two journals on one file."""
    play(30, 40, LimitedJournals)


@pytest.mark.nightly
def test_many_random_programs_with_limits() -> None:
    """The same, thousands of times."""
    play(1000, 60, LimitedJournals)
