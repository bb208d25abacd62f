"""The rows that a call writes: of its end, of its attempts, and of the steps around it that have begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from agentflow.engine.transaction_values import noted
from agentflow.model.steps import StepRow
from agentflow.payloads.failures import encode_failure

if TYPE_CHECKING:
    from agentflow.engine.context import Frame
    from agentflow.engine.step import Call


def failure_bytes(call: Call, error: BaseException) -> tuple[bytes, BaseException]:
    """A call's final failure, with its state where that says more; and the exception that every life raises for it."""
    codec = call.run.codec
    return encode_failure(codec, error) if call.ending is None else call.ending.encoded(codec, error)


def end_row(
    call: Call,
    child: Frame,
    event: str,
    value: bytes | None,
    detail: dict[str, Any] | None = None,
    *,
    attempt: int = 0,
    scope: bytes | None = None,
) -> StepRow:
    """A row of a call."""
    run, policy = call.run, call.policy
    if call.notes:
        detail = {**call.notes, **(detail or {})}
    row_id = run.next_id()
    key, branch, occurrence = child.place
    if policy.hooked:
        detail = (detail or {}) | noted(policy, child)
    ended = None if event in ("started", "intent") else child.t0 if call.refused else run.clock()
    if call.ending is not None and ended is not None:
        call.ending.at = ended
        if event == "completed" and (told := call.ending.detail()) is not None:
            detail = {**(detail or {}), **told}
    row = call.last = StepRow(
        row_id,
        event,
        policy.kind,
        policy.name,
        (call.frame.stable if policy.side_effect else call.frame.scope) if scope is None else scope,
        key,
        branch,
        occurrence,
        call.effects,
        1 if policy.side_effect else 0,
        attempt,
        row_id & 0xFFFFFFFF,
        child.t0,
        ended,
        value,
        None if detail is None else orjson.dumps(detail, default=repr),
    )
    return row


def start_rows(frame: Frame) -> list[StepRow]:
    """Rows that say that the steps around a call have begun; written with the first thing recorded below them.

    To be made before that thing's own row: a step comes before what it contains.
    """
    if frame.root.started:
        return []
    rows: list[StepRow] = []
    for body in frame.enclosing():
        if body.started or body.parent is None:
            break
        body.started = True
        run, parent, policy = body.run, body.parent, body.policy
        row_id = run.next_id()
        key, branch, occurrence = body.place
        rows.append(
            StepRow(
                row_id,
                "started",
                policy.kind,
                policy.name,
                parent.scope,
                key,
                branch,
                occurrence,
                body.before,
                0,
                0,
                row_id & 0xFFFFFFFF,
                body.t0,
                None,
                None,
                orjson.dumps(body.notes) if body.notes else None,
            )
        )
    rows.reverse()
    ids = sorted(row.id for row in rows)
    return [row._replace(id=row_id) for row, row_id in zip(rows, ids, strict=True)]
