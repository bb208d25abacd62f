"""What a life has to say at its end of the records that it found, in a few bytes: all else the journal's rows tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import orjson

from agentflow.model.states import State

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.journal.protocol import Journal
    from agentflow.model.runs import Run

#: Ranges of sequences that are written down for one name; more say nothing more to anybody.
_MOST_RANGES = 500


def account_of(active: ActiveRun) -> bytes | None:
    """JSON: `culprits` of a failure, `unasked` steps (ranges of sequences by name), `moved` ones with the reason.

    And the name of the state in which the life ended, where that says more than the state's type.
    """
    said: dict[str, Any] = {}
    state = active.ending.state
    if state is not None and state.name != State(state.type).name:
        said["state_name"] = state.name
    if active.culprits:
        said["culprits"] = active.culprits
    records = active.records
    if records is not None and active.first > 1:
        unasked: dict[str, list[int]] = {}
        for record in records.reachable():
            if not record.claimed and record.seq < active.first:
                unasked.setdefault(record.name, []).append(record.seq)
        said["found"] = True
        said["changed"] = active.changed
        said["unasked"] = {name: ranges(numbers) for name, numbers in unasked.items()}
        said["moved"] = active.tally.moved
    return orjson.dumps(said) if said else None


def name_of_end(journal: Journal, run: Run) -> str | None:
    """The name of the state in which a run has ended, where it says more than the state's type (``TimedOut``)."""
    lives = journal.lives(run.number) if run.state.is_final else ()
    account = lives[-1].account if lives else None
    return None if account is None else orjson.loads(account).get("state_name")


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers as ``[first, last]`` pairs."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        elif len(found) < _MOST_RANGES:
            found.append([number, number])
    return found
