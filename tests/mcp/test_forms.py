"""From a wait to a form, and from an answer to a decision."""

import time
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from agentflow import flow
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal
from agentflow.mcp.answers import Taken, take_answer
from agentflow.mcp.fields import LONGEST_TEXT, field_of
from agentflow.mcp.questions import editable_arguments, form_for, printable
from agentflow.model.runs import NewRun, Origin
from agentflow.model.waits import Verdict, Wait, WaitKind, binding

#: What a form may hold: MCP, elicitation, "Requested schema".
FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"const": "object"},
        "required": {"type": "array"},
        "properties": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "type": {"enum": ["string", "number", "integer", "boolean"]},
                    "title": {"type": "string"},
                    "description": {"type": "string"},
                    "default": {"type": ["string", "number", "boolean"]},
                    "format": {"enum": ["date", "date-time", "email", "uri"]},
                    "minimum": {}, "maximum": {}, "minLength": {}, "maxLength": {}, "enum": {}, "oneOf": {},
                },
                "required": ["type"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["type", "properties"],
    "additionalProperties": False,
}  # fmt: skip


class Speed(Enum):
    """How fast."""

    SLOW = "slow"
    FAST = "fast"


class Line(BaseModel):
    """Something nested."""

    text: str


@flow
def everything(
    text: str, number: int, share: float, sure: bool, speed: Speed, word: Literal["a", "b"], price: Decimal,
    maybe: str | None, line: Line, many: list[int], approve: str, missing: int | None = None,
) -> None:  # fmt: skip
    """Take every kind of argument; only the schema is of interest."""


ARGUMENTS: dict[str, Any] = {
    "text": "hello", "number": 1, "share": 0.5, "sure": True, "speed": "slow", "word": "a", "price": "1.50",
    "maybe": "so", "line": {"text": "x"}, "many": [1], "approve": "me", "missing": None,
}  # fmt: skip


LINE: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string"}}}


@pytest.fixture
def journal() -> Journal:
    return MemoryJournal()


def opened(journal: Journal, kind: WaitKind, question: dict[str, Any], schema: dict[str, Any]) -> Wait:
    """A wait of a run of its own."""
    new = NewRun("run", "buy", "", b"{}", "", Origin.MODEL, time.time())
    run = journal.create_run(new)
    digest = binding("pay", question.get("arguments"))
    wait = Wait("w", run.number, run.id, "buy", "", kind, "pay", question, schema, digest, "", time.time())
    return journal.open_wait(run.epoch, wait)


@pytest.fixture
def approval(journal: Journal) -> Wait:
    return opened(journal, WaitKind.APPROVAL, {"arguments": ARGUMENTS}, everything.parameters_schema)


def check_form(schema: dict[str, Any]) -> None:
    """Raise for a form that clients need not know how to show."""
    validator: Any = Draft202012Validator(FORM_SCHEMA)
    validator.validate(schema)


def decided(journal: Journal, *answer: Any) -> tuple[Taken, Verdict | None, Any]:
    """Give an answer; what became of it, and the decision."""
    taking = take_answer(journal, "w", *answer, actor="test")
    wait = journal.get_wait("w")
    assert wait is not None
    decision = wait.decision
    return taking.taken, decision and decision.verdict, decision and decision.answer


def test_arguments_that_a_form_can_hold_can_be_edited(approval: Wait) -> None:
    """Flat values get a field that is filled in; nested ones, nulls and reserved names are only shown."""
    fields = editable_arguments(approval)
    assert {name: field["type"] for name, field in fields.items()} == {
        "text": "string", "number": "integer", "share": "number", "sure": "boolean", "speed": "string",
        "word": "string", "price": "string", "maybe": "string",
    }  # fmt: skip
    assert all(field["default"] == ARGUMENTS[name] for name, field in fields.items())
    assert fields["speed"]["enum"] == ["slow", "fast"]


@pytest.mark.parametrize("kind", [WaitKind.APPROVAL, WaitKind.IN_DOUBT, WaitKind.DIVERGENCE])
def test_every_form_is_one_that_clients_can_show(journal: Journal, kind: WaitKind) -> None:
    """Forms keep to the part of JSON schema that the protocol allows, and ask for at least one thing."""
    form = form_for(opened(journal, kind, {"arguments": ARGUMENTS}, everything.parameters_schema))
    check_form(form.schema)
    assert len(form.schema["required"]) == 1
    Draft202012Validator.check_schema(form.schema)


def test_all_arguments_are_shown_whole(approval: Wait) -> None:
    """The message holds every argument as JSON, those that cannot be edited included."""
    message = form_for(approval).message
    for line in ('text = "hello"', 'line = {"text": "x"}', "many = [1]", "missing = null", "sure = true"):
        assert line in message


def test_what_is_too_long_is_said_to_be_cut(journal: Journal) -> None:
    """A very long value is shown in part, says so, and cannot be edited in a field."""
    long = {"text": "x" * (LONGEST_TEXT + 100)}
    wait = opened(journal, WaitKind.APPROVAL, {"arguments": long}, everything.parameters_schema)
    assert "102 more characters, not shown here" in form_for(wait).message
    assert editable_arguments(wait) == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 漢字", "plain ünïcode 漢字"),
        ("a\nb\t", "a\\nb\\t"),
        ("\u202eevil\u2066\x1b[2J", "\\u202eevil\\u2066\\x1b[2J"),
    ],
)
def test_nothing_invisible_is_shown(text: str, shown: str) -> None:
    """Characters that cannot be seen are written out."""
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (("accept", {"approve": True}), (Taken.DECIDED, Verdict.APPROVED, None)),
        (("accept", {"approve": False}), (Taken.DECIDED, Verdict.DENIED, None)),
        (("decline", None), (Taken.DECIDED, Verdict.DENIED, None)),
        (("cancel", None), (Taken.OPEN, None, None)),
        (("cancel", {"approve": True}), (Taken.OPEN, None, None)),
        (("accept", None), (Taken.OPEN, None, None)),
        (("accept", dict[str, Any]()), (Taken.OPEN, None, None)),
        (("accept", {"approve": "true"}), (Taken.FAULTY, None, None)),
        (("agree", {"approve": True}), (Taken.OPEN, None, None)),
        (
            ("accept", {"approve": True, "number": 1.0, "text": "hello"}),
            (Taken.DECIDED, Verdict.APPROVED, None),
        ),
        (("accept", {"approve": True, "number": "two"}), (Taken.FAULTY, None, None)),
        (("accept", {"approve": True, "speed": "light"}), (Taken.FAULTY, None, None)),
        (("accept", {"approve": True, "line": {"text": "y"}}), (Taken.DECIDED, Verdict.APPROVED, None)),
    ],
)
def test_answers_to_an_approval(
    journal: Journal, approval: Wait, answer: tuple[Any, ...], expected: tuple[Any, ...]
) -> None:
    """What approves, what denies, what leaves it open, and what is asked again."""
    assert decided(journal, *answer) == expected


def test_an_edit_is_laid_over_what_was_proposed(journal: Journal, approval: Wait) -> None:
    """Only the fields that a person changed differ from the proposed arguments."""
    answer = {"approve": True, "number": 2, "text": "hello", "sure": False}
    assert decided(journal, "accept", answer) == (
        Taken.DECIDED,
        Verdict.APPROVED,
        {**ARGUMENTS, "number": 2, "sure": False},
    )


def test_a_question_is_answered_once(journal: Journal, approval: Wait) -> None:
    """The second answer changes nothing."""
    assert decided(journal, "decline", None)[0] is Taken.DECIDED
    assert decided(journal, "accept", {"approve": True}) == (Taken.DECIDED, Verdict.DENIED, None)


@pytest.mark.parametrize(
    ("kind", "content", "verdict", "value"),
    [
        (WaitKind.IN_DOUBT, {"verdict": "happened", "result": '{"id": 7}'}, Verdict.HAPPENED, {"id": 7}),
        (WaitKind.IN_DOUBT, {"verdict": "happened", "result": "sent it"}, Verdict.HAPPENED, "sent it"),
        (WaitKind.IN_DOUBT, {"verdict": "happened"}, Verdict.HAPPENED, None),
        (WaitKind.IN_DOUBT, {"verdict": "run_again"}, Verdict.RUN_AGAIN, None),
        (WaitKind.IN_DOUBT, {"verdict": "continue"}, None, None),
        (WaitKind.IN_DOUBT, {}, None, None),
        (WaitKind.DIVERGENCE, {"verdict": "continue"}, Verdict.CONTINUE, None),
        (WaitKind.DIVERGENCE, {"verdict": "fail", "result": "x"}, Verdict.FAIL, None),
        (WaitKind.DIVERGENCE, {"verdict": "happened"}, None, None),
    ],
)
def test_answers_to_other_questions(
    journal: Journal, kind: WaitKind, content: dict[str, Any], verdict: Verdict | None, value: Any
) -> None:
    """Doubt and divergence have answers of their own; declining is none of them."""
    opened(journal, kind, {"arguments": {}}, {})
    assert decided(journal, "decline", None)[:2] == (Taken.OPEN, None)
    assert decided(journal, "accept", content)[1:] == (verdict, value)


@pytest.mark.parametrize(
    ("schema", "content", "value"),
    [
        ({"type": "string"}, {"answer": "42"}, "42"),
        ({"type": "integer"}, {"answer": 42}, 42),
        ({"type": "integer"}, {"answer": "42"}, 42),
        ({"type": "array", "items": {"type": "integer"}}, {"answer": "[1, 2]"}, [1, 2]),
        ({"type": "array", "items": {"type": "integer"}}, {"answer": "[1, 2"}, None),
        ({}, {"answer": "anything"}, "anything"),
        ({"type": "boolean"}, {}, None),
        ({"type": "object", "properties": {"x": {"type": "integer"}}}, {"x": 1, "y": 2}, {"x": 1}),
        ({"$ref": "#/$defs/L", "$defs": {"L": LINE}}, {"text": "1"}, {"text": "1"}),
    ],
)  # fmt: skip
def test_answers_to_an_input(
    journal: Journal, schema: dict[str, Any], content: dict[str, Any], value: Any
) -> None:
    """An input is read by its schema: fields, a single value, or JSON where no form can hold it."""
    wait = opened(journal, WaitKind.INPUT, {"message": "well?"}, schema)
    check_form(form_for(wait).schema)
    _, verdict, answer = decided(journal, "accept", content)
    assert answer == value
    assert verdict is (None if value is None else Verdict.ANSWERED)


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        (
            {"type": "string", "format": "email", "maxLength": 9},
            {"type": "string", "format": "email", "maxLength": 9},
        ),
        ({"type": "string", "format": "uuid", "pattern": "x"}, {"type": "string"}),
        ({"type": "integer", "minimum": 1, "multipleOf": 3}, {"type": "integer", "minimum": 1}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "title": "T"}, {"type": "string", "title": "T"}),
        ({"enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        (
            {"oneOf": [{"const": "a", "title": "A"}]},
            {"type": "string", "oneOf": [{"const": "a", "title": "A"}]},
        ),
        ({"enum": [1, 2]}, None),
        ({"type": "array"}, None),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, None),
        ({"$ref": "#/$defs/missing"}, None),
        ({"$ref": "#"}, None),
        ({}, None),
    ],
)
def test_fields(schema: dict[str, Any], field: dict[str, Any] | None) -> None:
    """A field keeps what a form may say, drops the rest, and is not made of what a form cannot hold."""
    assert field_of(schema, schema) == field
