"""Decisions of people: checked against what is asked, then recorded. Every channel goes through here.

No tool, scope or function that a model can reach calls this module.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, cast

import jsonschema

from agentflow.errors import DecisionRefusedError, WaitNotFoundError
from agentflow.journal.protocol import Journal
from agentflow.model.waits import (
    PERSON_KINDS,
    Assurance,
    Channel,
    Decision,
    Verdict,
    Wait,
    WaitKind,
    binding,
)
from agentflow.payloads.showing import find_shortened


def decide(
    journal: Journal,
    wait_id: str,
    verdict: Verdict,
    *,
    answer: Any = None,
    reason: str = "",
    actor: str = "",
    channel: Channel,
    assurance: Assurance = Assurance.LOW,
    now: float | None = None,
) -> Wait:
    """Record a person's decision.

    `answer` is JSON: edited arguments (approved), the effect's result (happened), an input (answered).
    Raises `WaitNotFoundError`, and `DecisionRefusedError` where the answer does not fit, comes twice, or comes late.
    """
    wait = journal.get_wait(wait_id)
    if wait is None or wait.kind not in PERSON_KINDS:
        raise WaitNotFoundError(wait_id)
    allowed = ""
    if wait.kind is WaitKind.APPROVAL and verdict is Verdict.APPROVED:
        if answer is not None:
            answer = complete_edit(wait, answer)
        allowed = wait.digest if answer is None else binding(wait.name, answer)
    elif verdict is Verdict.RUN_AGAIN:
        executed = wait.question.get("executed")
        allowed = wait.digest if executed is None else binding(wait.name, executed)
    elif wait.kind is WaitKind.INPUT and verdict is Verdict.ANSWERED:
        check_schema(wait, answer)
    decision = Decision(verdict, answer, reason, actor, channel, assurance)
    return journal.decide(wait_id, decision, now=time.time() if now is None else now, allowed_digest=allowed)


def complete_edit(wait: Wait, edited: Any) -> dict[str, Any]:
    """A person's edit, laid over the proposed arguments and checked against the tool's schema."""
    if not isinstance(edited, dict):
        message = f"{wait.id}: edited arguments are a JSON object by argument name, not {edited!r:.80}"
        raise DecisionRefusedError(message)
    given = cast("dict[str, Any]", edited)
    proposed: dict[str, Any] = wait.question.get("arguments", {})
    unknown = [
        name for name in given if name not in proposed and name not in wait.schema.get("properties", {})
    ]
    if unknown:
        names, known = ", ".join(map(repr, unknown)), ", ".join(proposed)
        message = f"{wait.id}: {wait.name} has no argument {names}; it has {known}"
        raise DecisionRefusedError(message)
    whole: dict[str, Any] = {**proposed, **given}
    shortened = {name for name, value in whole.items() if find_shortened(value)}
    torn = sorted(name for name in shortened if name not in proposed or whole[name] != proposed[name])
    if torn:
        message = f"{wait.id}: of {', '.join(torn)} only the beginning is shown; leave it as it is, or give it whole"
        raise DecisionRefusedError(message)
    check_schema(wait, whole, unseen=shortened)
    return whole


def check_schema(wait: Wait, value: Any, *, unseen: Collection[str] = ()) -> None:
    """Raise `DecisionRefusedError` where `value` does not fit the wait's schema.

    `unseen`: names of arguments that are not there whole; they stay what they are.
    """
    if not wait.schema:
        return
    validator: Any = jsonschema.Draft202012Validator(wait.schema)
    faults = [
        f"{'.'.join(str(part) for part in fault.absolute_path) or 'value'}: {fault.message}"
        for fault in sorted(
            validator.iter_errors(value), key=lambda fault: list(map(str, fault.absolute_path))
        )
        if not fault.absolute_path or fault.absolute_path[0] not in unseen
    ]
    if faults:
        message = f"{wait.id}: " + "; ".join(faults[:5])
        raise DecisionRefusedError(message)
