"""The part of the random programs that clears cached results and locks their keys."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from agentflow.journal.protocol import CacheFilter, CacheLock, Journal
from agentflow.model.runs import Run
from tests.journal.oracle import KEYS
from tests.journal.striking import Fault

keys = st.sampled_from(KEYS)
small = st.integers(0, 3)
stores = st.integers(0, 1)
faults = (
    st.none() | st.none() | st.builds(Fault, st.sampled_from(["BEGIN", "SELECT", "COMMIT"]), st.booleans())
)


class CacheRules(RuleBasedStateMachine):
    """Both stores do the same with results across runs."""

    now: float

    def run_of(self, index: int) -> Run:
        raise NotImplementedError

    def owner_of(self, number: int, otherwise: int) -> int:
        raise NotImplementedError

    def both(
        self,
        which: int,
        fault: Fault | None,
        call: Callable[[Journal], object],
        *,
        repeat: bool = False,
        claims: bool = False,
    ) -> object:
        raise NotImplementedError

    @rule(which=stores, name=st.sampled_from(["", "nothing"]), expired=st.booleans(), fault=faults)
    def clear_cache(self, which: int, name: str, expired: bool, fault: Fault | None) -> None:
        wanted = CacheFilter(name=name, expired_by=self.now if expired else None)
        self.both(which, fault, lambda journal: journal.clear_cache(wanted))

    @rule(
        which=stores, index=small, age=st.sampled_from([0, 0, 0, -1]), key=keys, step=st.sampled_from([b"1", b"2"]),
        above=st.lists(keys, max_size=2, unique=True), fault=faults,
    )  # fmt: skip
    def lock_key(
        self,
        which: int,
        index: int,
        age: int,
        key: bytes,
        step: bytes,
        above: list[bytes],
        fault: Fault | None,
    ) -> None:
        run = self.run_of(index)
        lock = CacheLock(key, run.number, run.epoch + age, step, above[0] if above else b"")

        def call(journal: Journal) -> CacheLock | None:
            return journal.lock_key(lock, above)

        self.both(self.owner_of(run.number, which), fault, call)

    @rule(which=stores, index=small, key=keys, step=st.sampled_from([b"1", b"2"]), fault=faults)
    def unlock_key(self, which: int, index: int, key: bytes, step: bytes, fault: Fault | None) -> None:
        run = self.run_of(index)
        lock = CacheLock(key, run.number, run.epoch, step)
        self.both(which, fault, lambda journal: journal.unlock_key(lock))
