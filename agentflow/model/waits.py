"""Waits: durable questions that a run has asked - of a person, of a clock, of the outside world."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson


class WaitKind(StrEnum):
    """What a run waits for."""

    APPROVAL = "approval"
    """A person's signature before a side effect."""
    IN_DOUBT = "in_doubt"
    """A person's word on whether a side effect with an unknown end happened."""
    DIVERGENCE = "divergence"
    """A person's word on whether changed code may go on with a side effect the journal does not know."""
    INPUT = "input"
    """A person's answer to a question of the flow."""
    EVENT = "event"
    TIMER = "timer"


#: The kinds that a person answers.
PERSON_KINDS = frozenset({WaitKind.APPROVAL, WaitKind.IN_DOUBT, WaitKind.DIVERGENCE, WaitKind.INPUT})


class Verdict(StrEnum):
    """How a wait ended."""

    APPROVED = "approved"
    DENIED = "denied"
    HAPPENED = "happened"
    """In doubt: it happened; the answer is its result."""
    RUN_AGAIN = "run_again"
    FAIL = "fail"
    CONTINUE = "continue"
    ANSWERED = "answered"
    ELAPSED = "elapsed"
    """Its time came: a timer's purpose, any other wait's expiry."""


#: The verdicts a person can give for each kind.
VERDICTS: dict[WaitKind, frozenset[Verdict]] = {
    WaitKind.APPROVAL: frozenset({Verdict.APPROVED, Verdict.DENIED}),
    WaitKind.IN_DOUBT: frozenset({Verdict.HAPPENED, Verdict.RUN_AGAIN, Verdict.FAIL}),
    WaitKind.DIVERGENCE: frozenset({Verdict.CONTINUE, Verdict.FAIL}),
    WaitKind.INPUT: frozenset({Verdict.ANSWERED, Verdict.DENIED}),
}


class Channel(StrEnum):
    """Where a person decided. No channel that a model can reach is among them."""

    TERMINAL = "terminal"
    WEB = "web"
    ELICITATION = "mcp-elicitation"
    CODE = "code"
    """The owning Python process itself (tests, scripts); lowest assurance."""


class Assurance(StrEnum):
    """How sure we are that a person, and which one, decided."""

    NONE = "none"
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's (or the clock's, or an event's) answer to a wait."""

    verdict: Verdict
    #: The edited arguments of an approval, the result of an effect that happened, an input, an event's payload.
    answer: Any = None
    reason: str = ""
    actor: str = ""
    channel: Channel = Channel.CODE
    assurance: Assurance = Assurance.NONE


@dataclass(frozen=True, slots=True)
class Wait:
    """A question in the journal. Times are seconds since the epoch."""

    id: str
    run: int
    run_id: str
    flow: str
    #: Identity of the waiting step, hexadecimal.
    step: str
    kind: WaitKind
    #: The tool, the event's name, or what the flow calls its question.
    name: str
    #: What a person must see: proposed arguments, message, evidence. JSON.
    question: dict[str, Any]
    #: JSON schema of the answer (an approval's arguments, an input).
    schema: dict[str, Any]
    #: SHA-256 of the canonical proposed arguments, hexadecimal; what a signature is bound to.
    digest: str
    #: Digest of the policy that asked.
    policy: str
    opened: float
    due: float | None = None
    decision: Decision | None = None
    decided: float | None = None
    #: SHA-256 of the arguments that the decision allows (the edited ones where a person edited).
    allowed_digest: str = ""
    consumed: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it still waits: nobody has answered, and the run has not withdrawn it."""
        return self.decision is None and self.consumed is None


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event sent to a run from outside; the first wait of that name takes it."""

    id: int
    run: int
    name: str
    payload: Any
    sent: float
    taken_by: str | None = field(default=None)


def canonical_json(value: Any) -> bytes:
    """The one text of a JSON value: sorted keys, no spaces, UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def binding(tool: str, arguments: Any) -> str:
    """SHA-256, hexadecimal, of a tool's name and canonical arguments: what an approval is bound to."""
    return hashlib.sha256(canonical_json([tool, arguments])).hexdigest()
