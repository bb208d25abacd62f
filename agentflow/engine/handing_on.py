"""What a failed attempt leaves to the next one (R7): which steps are to blame, and what stays good.

The culprits - the steps whose failures are in the exception that ended the attempt - run again, and the pure steps
after them in their branches. A culprit that is a task or a sub-flow with steps of its own failed through some of
those: what came before them stays good, too. Side effects need nothing of this: they are found over all attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from agentflow.model.steps import SEQUENCE_BITS, sequence_of

if TYPE_CHECKING:
    from agentflow.engine.context import Frame
    from agentflow.engine.records import Record, Records

_NEVER: Mapping[bytes, int] = {}


class Handed(NamedTuple):
    """Where an attempt's scope got from what stayed good."""

    #: The scope of the failed attempt; the culprits (their sequences); whose attempt it was, and which, from 1.
    before: bytes
    guilty: frozenset[int]
    name: str
    attempt: int


def record_failure(error: BaseException, row_id: int, scope: bytes) -> None:
    """Remember on an exception which step of a scope it came from, so that a retry re-executes the right ones."""
    marks: dict[bytes, int] = getattr(error, "__agentflow_steps__", {})
    try:
        error.__agentflow_steps__ = {**marks, scope: row_id}  # pyright: ignore[reportAttributeAccessIssue]
    except (AttributeError, TypeError):  # an exception with slots; then the whole scope is retried
        return


def culprits(error: BaseException, number: int, scope: bytes) -> list[int]:
    """The steps of a scope of run `number` (their sequences) whose exceptions are in `error`'s tree.

    The tree: groups, causes, contexts.
    """
    found: set[int] = set()
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        item = queue.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        marks: dict[bytes, int] = getattr(item, "__agentflow_steps__", {})
        row_id = marks.get(scope)
        if (
            row_id is not None and row_id >> SEQUENCE_BITS == number
        ):  # the same exception may end several runs
            found.add(sequence_of(row_id))
        if isinstance(item, BaseExceptionGroup):
            queue.extend(item.exceptions)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        queue += [item.__cause__, item.__context__]
    return sorted(found)


def guilty_below(child: Frame, error: BaseException) -> list[int]:
    """The steps in the body of `child` (their sequences) through which it failed."""
    return culprits(error, child.run.number, child.scope) if child.started else []


def failure_detail(child: Frame, error: BaseException) -> dict[str, Any] | None:
    """What the row of a failure says of its reasons: a retry of a step around it goes down to them."""
    guilty = guilty_below(child, error)
    return {"culprits": guilty} if guilty else None


def hand_down(records: Records, record: Record) -> None:
    """Give each recorded attempt of a step what the one before left to it."""
    if record in records.handed_down:
        return
    records.handed_down.add(record)
    for attempt in range(1, record.attempts + 1):
        failure = record.failures.get(attempt - 1)
        detail: dict[str, Any] = {} if failure is None or not failure.detail else orjson.loads(failure.detail)
        guilty = frozenset[int](detail.get("culprits", ()))
        again = records.again if detail.get("reopened") else None
        before, after = records.scope_of(record, attempt - 1), records.scope_of(record, attempt)
        records.handed[after] = Handed(before, guilty, record.name, attempt)
        hand_on(records, before, after, guilty, again)


def hand_on(
    records: Records, before: bytes, after: bytes, guilty: frozenset[int], again: set[int] | None = None
) -> None:
    """Give scope `after` what stays good of `before`, which failed through the steps `guilty` (their sequences).

    With none, nothing does: its own code failed. `again` collects all culprits, those below the guilty ones included.
    """
    if again is not None:
        again |= guilty
    old = records.scopes.get(before)
    effects = records.scopes.get(records.stable_of(before))
    cuts: dict[bytes, int] = {}
    for scope in (old, effects):
        for record in list(scope.index.values()) if scope is not None and guilty else ():
            for sequence in guilty.intersection((record.seq, *record.failed_at)):
                branch = record.place[1]
                cuts[branch] = min(cuts.get(branch, sequence), sequence)
    if old is not None and cuts:
        _hand(records, before, after, guilty, cuts, again)


def _hand(
    records: Records,
    before: bytes,
    after: bytes,
    guilty: frozenset[int],
    cuts: Mapping[bytes, int],
    again: set[int] | None,
) -> None:
    """What has ended, in each branch before its cut; of what has not, and of culprits, what is below them."""
    old, new = records.scopes[before], records.scope(after)
    new.repeats |= old.repeats
    for place, record in list(old.index.items()):
        is_guilty = record.seq in guilty
        if record.direct or (not is_guilty and record.seq >= cuts.get(place[1], record.seq + 1)):
            continue
        if record.end and not is_guilty:
            _keep(records, record, after)
            new.index.setdefault(place, record)
        elif record.identity:
            hand_down(records, record)
            inner, into = records.scope_of(record, record.attempts), records.identify(after, place)
            records.around[into] = after
            below = frozenset[int](record.details().get("culprits", ())) if is_guilty else frozenset[int]()
            records.handed[into] = Handed(inner, below, record.name, record.attempts + 1)
            if is_guilty:
                hand_on(records, inner, into, below, again)
            elif inner in records.scopes:
                _hand(records, inner, into, frozenset(), _NEVER, again)


def _keep(records: Records, record: Record, after: bytes) -> None:
    """Let it be asked for again; of a transaction also what is in it, as its code runs again."""
    record.claimed, record.home = 0, after
    if record.is_transaction and record.identity in records.scopes:
        for inner in list(records.scopes[record.identity].index.values()):
            _keep(records, inner, record.identity)
