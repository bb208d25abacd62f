"""Random programs on stores in which a cut connection changes nothing: a verb does what it would have done."""

from __future__ import annotations

from collections.abc import Callable

from agentflow.journal.protocol import Journal
from agentflow.model.steps import StepRow
from tests.journal.oracle import outcome
from tests.journal.striking import Fault
from tests.journal.test_limit_machine import LimitedJournals


class SteadyJournals(LimitedJournals):
    """Two journals on one store do the same as the memory journal."""

    def both(
        self,
        which: int,
        fault: Fault | None,
        call: Callable[[Journal], object],
        *,
        repeat: bool = False,
        claims: bool = False,
    ) -> object:
        store = self.stores[which]
        store.plan.arm(fault)
        got = outcome(lambda: call(store))
        store.plan.arm(None)
        wanted = outcome(lambda: call(self.oracle))
        if claims:
            self.note_owner(which, wanted)
        assert got == wanted
        return self.both(which, None, call, claims=claims) if repeat else wanted

    def tried(self, journal: Journal, number: int, epoch: int, rows: list[StepRow]) -> bool:
        """What could not be done at once is done as the engine does it then; some of it may be stored already."""
        if not journal.try_append(number, epoch, rows):
            journal.append(number, epoch, rows)
        return True
