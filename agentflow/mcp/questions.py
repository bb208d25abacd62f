"""Questions to people as elicitation forms: what a durable wait shows, and the fields it asks for.

The message is rendered from the wait alone - validated arguments, the tool's own docstring - and never from words of a
model. What could disguise an argument (line breaks, invisible or direction-changing characters) is shown escaped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

from agentflow.mcp.fields import Schema, argument_field, field_of, resolve
from agentflow.model.waits import Wait, WaitKind

_LONGEST_VALUE = 2_000
_LONGEST_DESCRIPTION = 400
#: Names of the form's own fields; a tool's arguments of these names are shown and cannot be edited.
APPROVE, REASON, VERDICT, RESULT, ANSWER = "approve", "reason", "verdict", "result", "answer"
RESERVED = frozenset({APPROVE, REASON})


@dataclass(frozen=True, slots=True)
class Form:
    """What a client shows a person: a message, and the schema of the answer."""

    message: str
    schema: Schema


def form_for(wait: Wait, *, fault: str = "") -> Form:
    """The form that puts `wait` before a person; `fault` says what was wrong with the last answer."""
    form = _FORMS[wait.kind](wait)
    return replace(form, message=f"{printable(fault)}\n\n{form.message}") if fault else form


def _approval(wait: Wait) -> Form:
    message = _paragraphs(
        printable(str(wait.question.get("message", f"{wait.flow} wants to run {wait.name}"))),
        shown_arguments(wait.question.get("arguments")),
        _shortened(str(wait.question.get("description", ""))),
        f"Approval {wait.id} of run {wait.run_id}.",
    )
    properties: Schema = {
        APPROVE: {
            "type": "boolean",
            "title": "Approve",
            "description": f"Yes: {wait.name} runs with these arguments.",
        },
        REASON: {"type": "string", "title": "Reason", "description": "Optional; the model is told."},
        **editable_arguments(wait),
    }
    return Form(message, _object(properties, [APPROVE]))


def editable_arguments(wait: Wait) -> dict[str, Schema]:
    """The fields for those proposed arguments that a form can edit, each filled in with what was proposed."""
    proposed: dict[str, Any] = wait.question.get("arguments") or {}
    declared: dict[str, Any] = wait.schema.get("properties") or {}
    fields: dict[str, Schema] = {}
    for name, value in proposed.items():
        if name in RESERVED or name not in declared:
            continue
        field = argument_field(declared[name], wait.schema, value)
        if field is not None:
            fields[name] = field
    return fields


def _in_doubt(wait: Wait) -> Form:
    question = wait.question
    message = _paragraphs(
        printable(str(question.get("message", f"did {wait.name} happen?"))),
        shown_arguments(question.get("executed") or question.get("arguments")),
        f"Evidence: {printable(_text(question.get('evidence', 'none')))}",
        f"Look whether it happened before you answer. Question {wait.id} of run {wait.run_id}.",
    )
    choices = [
        {"const": "happened", "title": "It happened"},
        {"const": "run_again", "title": "It did not happen: run it again"},
        {"const": "fail", "title": "Fail"},
    ]
    properties: Schema = {
        VERDICT: {"type": "string", "title": "What is true?", "oneOf": choices},
        RESULT: {
            "type": "string",
            "title": "Result",
            "description": "If it happened: its result, as JSON or text.",
        },
        REASON: {"type": "string", "title": "Reason"},
    }
    return Form(message, _object(properties, [VERDICT]))


def _divergence(wait: Wait) -> Form:
    question = wait.question
    message = _paragraphs(
        printable(str(question.get("message", "the code differs from what was recorded"))),
        f"Asked for now: {printable(_text(question.get('asked')))}",
        f"Recorded: {printable(_text(question.get('recorded')))}",
        f"Question {wait.id} of run {wait.run_id}.",
    )
    choices = [{"const": "continue", "title": "Go on with the new code"}, {"const": "fail", "title": "Fail"}]
    properties: Schema = {
        VERDICT: {"type": "string", "title": "Go on?", "oneOf": choices},
        REASON: {"type": "string", "title": "Reason"},
    }
    return Form(message, _object(properties, [VERDICT]))


def _input(wait: Wait) -> Form:
    prompt = printable(str(wait.question.get("message", wait.name)), lines=True)
    message = _paragraphs(prompt, f"Question {wait.id} of run {wait.run_id}.")
    fields = input_fields(wait)
    if fields is not None:
        required = [name for name in resolve(wait.schema, wait.schema).get("required", []) if name in fields]
        return Form(message, _object(fields, required))
    field = field_of(wait.schema, wait.schema)
    if field is None:
        field = {"type": "string", "title": "Answer", "description": "As JSON."}
    return Form(message, _object({ANSWER: {"title": "Answer", **field}}, [ANSWER]))


def input_fields(wait: Wait) -> dict[str, Schema] | None:
    """The fields of an input whose answer is a flat object; None for every other answer."""
    whole = resolve(wait.schema, wait.schema)
    properties = whole.get("properties")
    if whole.get("type") != "object" or not isinstance(properties, dict) or not properties:
        return None
    fields: dict[str, Schema] = {}
    for name, schema in cast("dict[str, Any]", properties).items():
        field = field_of(schema, wait.schema)
        if field is None:
            return None
        default = schema.get("default")
        fields[name] = field if default is None else {**field, "default": default}
    return fields


def is_text_input(wait: Wait) -> bool:
    """Whether the answer to an input is taken as it was typed; otherwise text is read as JSON."""
    field = field_of(wait.schema, wait.schema)
    return not wait.schema or (field is not None and field["type"] == "string")


_FORMS = {
    WaitKind.APPROVAL: _approval,
    WaitKind.IN_DOUBT: _in_doubt,
    WaitKind.DIVERGENCE: _divergence,
    WaitKind.INPUT: _input,
}


def shown_arguments(arguments: Any) -> str:
    """Arguments as lines of ``name = JSON``, whole where they are not very long."""
    if not isinstance(arguments, dict):
        return ""
    named = cast("dict[str, Any]", arguments)
    return (
        "\n".join(f"  {printable(name)} = {_shown(value)}" for name, value in named.items())
        or "  (no arguments)"
    )


def _shown(value: Any) -> str:
    text = printable(_text(value))
    rest = len(text) - _LONGEST_VALUE
    return text if rest <= 0 else f"{text[:_LONGEST_VALUE]} ... ({rest} more characters, not shown here)"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def printable(text: str, *, lines: bool = False) -> str:
    """Text in which everything that is not visible is escaped; `lines` leaves line breaks as they are."""
    shown = (
        char if char.isprintable() or (lines and char == "\n") else char.encode("unicode_escape").decode()
        for char in text
    )
    return "".join(shown)


def _shortened(text: str) -> str:
    first = text.strip().split("\n\n")[0]
    return printable(" ".join(first.split()))[:_LONGEST_DESCRIPTION]


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _object(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required}
