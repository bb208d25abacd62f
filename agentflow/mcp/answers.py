"""Answers of people: what came back from a form becomes a decision, or changes nothing.

Accepting with ``approve: true`` approves; ``approve: false`` and declining deny. Cancelling, a timeout, a missing or
malformed answer leave the question open. Everything is decided by `agentflow.approvals.decisions.decide`, which checks
it against what is asked; nothing here writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from agentflow.approvals.decisions import decide
from agentflow.errors import DecisionRefusedError, WaitNotFoundError
from agentflow.journal.protocol import Journal
from agentflow.mcp import questions
from agentflow.model.waits import Assurance, Channel, Verdict, Wait, WaitKind


class Taken(Enum):
    """What became of an answer."""

    DECIDED = auto()
    """The question is answered: by this answer, or by somebody who was faster."""
    OPEN = auto()
    """The person did not decide."""
    FAULTY = auto()
    """The person decided, but not in a form that can be used; ask again."""


@dataclass(frozen=True, slots=True)
class Taking:
    """What became of an answer, and why."""

    taken: Taken
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Proposal:
    verdict: Verdict
    answer: Any = None


def take_answer(
    journal: Journal, wait_id: str, action: str, content: Mapping[str, Any] | None, *, actor: str
) -> Taking:
    """Record what a person answered to the form of a wait. Blocks on the journal.

    `action` is that of an elicitation: accept, decline or cancel.
    """
    wait = journal.get_wait(wait_id)
    if wait is None or not wait.is_open:
        return Taking(Taken.DECIDED)
    try:
        proposal = _read(wait, action, content or {})
        if proposal is None:
            return Taking(Taken.OPEN)
        reason = (content or {}).get(questions.REASON) if wait.kind is not WaitKind.INPUT else None
        decide(
            journal,
            wait_id,
            proposal.verdict,
            answer=proposal.answer,
            reason=reason if isinstance(reason, str) else "",
            actor=actor,
            channel=Channel.ELICITATION,
            assurance=Assurance.LOW,
        )
    except (DecisionRefusedError, WaitNotFoundError) as refused:
        now = journal.get_wait(wait_id)
        if now is None or not now.is_open:
            return Taking(Taken.DECIDED)
        run = journal.get_run(now.run_id)
        if run is None or run.state.is_final:  # nothing will ever wait for the answer
            return Taking(Taken.DECIDED)
        return Taking(Taken.FAULTY, str(refused))
    return Taking(Taken.DECIDED)


def _read(wait: Wait, action: str, content: Mapping[str, Any]) -> _Proposal | None:
    """What the person decided; None: nothing. Raises `DecisionRefusedError` for what cannot be understood."""
    if action == "decline":
        may_deny = wait.kind in (WaitKind.APPROVAL, WaitKind.INPUT)
        return _Proposal(Verdict.DENIED) if may_deny else None
    if action != "accept":
        return None
    if wait.kind is WaitKind.APPROVAL:
        return _approval(wait, content)
    if wait.kind is WaitKind.INPUT:
        return _Proposal(Verdict.ANSWERED, _input(wait, content)) if content else None
    return _verdict(wait, content)


def _approval(wait: Wait, content: Mapping[str, Any]) -> _Proposal | None:
    approve = content.get(questions.APPROVE)
    if approve is None:  # a client that accepts by itself fills in nothing
        return None
    if not isinstance(approve, bool):
        raise DecisionRefusedError(f"{questions.APPROVE} must be true or false, not {approve!r:.40}")
    if not approve:
        return _Proposal(Verdict.DENIED)
    fields = questions.editable_arguments(wait)
    edits = {
        name: content[name]
        for name, field in fields.items()
        if content.get(name) is not None and not _same(content[name], field["default"])
    }
    return _Proposal(Verdict.APPROVED, edits or None)


def _verdict(wait: Wait, content: Mapping[str, Any]) -> _Proposal | None:
    said = content.get(questions.VERDICT)
    allowed = {"happened": Verdict.HAPPENED, "run_again": Verdict.RUN_AGAIN, "fail": Verdict.FAIL}
    if wait.kind is WaitKind.DIVERGENCE:
        allowed = {"continue": Verdict.CONTINUE, "fail": Verdict.FAIL}
    if said is None:
        return None
    if not isinstance(said, str) or said not in allowed:
        raise DecisionRefusedError(
            f"{questions.VERDICT} must be one of {', '.join(allowed)}, not {said!r:.40}"
        )
    verdict = allowed[said]
    answer = _loose(content.get(questions.RESULT)) if verdict is Verdict.HAPPENED else None
    return _Proposal(verdict, answer)


def _input(wait: Wait, content: Mapping[str, Any]) -> Any:
    fields = questions.input_fields(wait)
    if fields is not None:
        return {name: content[name] for name in fields if content.get(name) is not None}
    if questions.ANSWER not in content:
        raise DecisionRefusedError(f"the field {questions.ANSWER!r} is missing")
    given = content[questions.ANSWER]
    if isinstance(given, str) and not questions.is_text_input(wait):
        try:
            return json.loads(given)
        except json.JSONDecodeError as error:
            raise DecisionRefusedError(f"the answer is not JSON: {error}") from None
    return given


def _loose(text: Any) -> Any:
    """JSON where it is JSON, else the text itself; nothing for an empty one."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text) if text.strip() else None
    except json.JSONDecodeError:
        return text


def _same(first: Any, second: Any) -> bool:
    """Equal as JSON: true is not 1, but 3 is 3.0 (clients write numbers as they like)."""
    return isinstance(first, bool) is isinstance(second, bool) and first == second
