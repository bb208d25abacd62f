"""Random programs on stores in which a cut connection changes nothing: a verb does what it would have done."""

from __future__ import annotations

from agentflow.journal.protocol import Journal
from agentflow.model.steps import StepRow
from tests.journal.striking import Fault
from tests.journal.test_limit_machine import LimitedJournals


class SteadyJournals(LimitedJournals):
    """Two journals on one store do the same as the memory journal."""

    def arm(self, which: int, fault: Fault | None) -> None:
        self.stores[which].plan.arm(fault)

    def struck_at(self, which: int, got: object) -> tuple[bool, bool]:
        """Nobody can tell."""
        del which, got
        return False, True

    def fault_of(self, fault: Fault | None, *, again: bool) -> Fault | None:
        """None where it is there already: whoever loses the connection takes it for its own, which is equal."""
        return None if again else fault

    def tried(self, journal: Journal, number: int, epoch: int, rows: list[StepRow]) -> bool:
        """What could not be done at once is done as the engine does it then; some of it may be stored already."""
        if not journal.try_append(number, epoch, rows):
            journal.append(number, epoch, rows)
        return True
