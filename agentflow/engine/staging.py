"""Results across runs that nobody may use yet: inside a transaction until that commits, in a step until that ends well.

They wait in memory with the body around them. The row of the step that made one says so: a later life finds it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from agentflow.journal.protocol import CacheRow
from agentflow.model.steps import StepKind, StepRow

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.context import Frame
    from agentflow.engine.records import Record


def stage(frame: Frame, entries: Sequence[CacheRow], *, at_once: bool = False) -> tuple[CacheRow, ...]:
    """Leave entries to the body around a call in `frame`; returns them where there is none, to be committed now.

    `at_once`: they wait for transactions only (somebody waits for this result, who would else compute it again).
    """
    for body in frame.enclosing() if entries else ():
        if body.compensating:
            break
        kind = body.policy.kind
        if kind is StepKind.TRANSACTION or (kind is not StepKind.FLOW and not at_once):
            body.staged = (*body.staged, *entries)
            return ()
    return tuple(entries)


def staged_note(entry: CacheRow) -> dict[str, Any]:
    """What the row of a step says of its entry that waits; the value is the row's own."""
    _, _, *rest, parts, private = entry
    return {"staged": [entry.key.hex(), *rest, parts.decode(), private]}


def staged_entry(row: StepRow) -> CacheRow | None:
    """The entry of a step's row that waited when it was written."""
    if row.event != "completed" or not row.detail or b'"staged"' not in row.detail:
        return None
    key, *rest, parts, private = orjson.loads(row.detail)["staged"]
    return CacheRow._make([bytes.fromhex(key), row.value or b"null", *rest, parts.encode(), private])


def stage_again(frame: Frame, row: StepRow) -> None:
    """Leave the entry of a step that an earlier life recorded to what is around it."""
    entry = staged_entry(row)
    if entry is not None:
        stage(frame, (entry,))


def left_staged(run: ActiveRun, transaction: Record) -> list[CacheRow]:
    """Entries of steps in a transaction whose code did not run in this life: they are below steps that had ended."""
    if run.records is None:
        return []
    found = (staged_entry(record.row) for record in run.records.below(transaction))
    return [entry for entry in found if entry is not None]
