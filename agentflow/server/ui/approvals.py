"""Pages of approvals: the inbox, and one question with its form. Works by plain form posts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from agentflow.approvals.decisions import check_schema
from agentflow.errors import DecisionRefusedError
from agentflow.model.runs import Run
from agentflow.model.waits import PERSON_KINDS, Verdict, Wait, WaitKind
from agentflow.server import forms
from agentflow.server.api.approvals import decided_waits, find_wait, record_decision
from agentflow.server.bodies import form_of
from agentflow.server.feeds import OPEN_LIMIT
from agentflow.server.rendering import render
from agentflow.server.site import path_id, site_of
from agentflow.views import run_view, stamp, wait_view

_DECIDED_SHOWN = 50
_SINGLE = "answer"


@dataclass(slots=True)
class Entry:
    """What a person has entered so far, and what is wrong with it."""

    fields: list[forms.Field]
    reason: str = ""
    result: str = ""
    result_kind: str = "text"
    #: By place: "form" (the whole), "reason", "result".
    errors: dict[str, str] = field(default_factory=dict[str, str])


class Refused(Exception):
    """A form that cannot be taken as it is; the page shows it again."""


def inbox_page(request: Request) -> Response:
    """GET /approvals."""
    journal = site_of(request).journal
    waits = journal.list_waits(kinds=PERSON_KINDS, limit=OPEN_LIMIT)
    context = {
        "waits": [wait_view(wait) for wait in waits],
        "decided": [wait_view(wait) for wait in decided_waits(journal, _DECIDED_SHOWN)],
        "limit": OPEN_LIMIT,
    }
    return render(request, "approvals.html", context)


def show_page(request: Request) -> Response:
    """GET /approvals/{id}."""
    wait = find_wait(site_of(request).journal, path_id(request))
    return _page(request, wait, Entry(fields_of_wait(wait)))


def _page(request: Request, wait: Wait, entry: Entry, *, status: int = 200) -> Response:
    run = site_of(request).journal.get_run(wait.run_id)
    view = wait_view(wait)
    context = {
        "wait": view,
        "run": None if run is None else run_view(run, full=False),
        "entry": entry,
        "state": _state(wait, run),
        "served": site_of(request).worker.serves(wait.flow),
        "changes": _changes(wait),
        "began": stamp(wait.question.get("started")),
    }
    return render(request, "approval.html", context, status=status)


def _state(wait: Wait, run: Run | None) -> str:
    """open, decided, expired, withdrawn, or ended (with its run)."""
    if wait.decision is not None:
        return "expired" if wait.decision.verdict is Verdict.ELAPSED else "decided"
    if run is None or run.state.is_final:
        return "ended"
    return "open" if wait.is_open else "withdrawn"


def _changes(wait: Wait) -> list[dict[str, Any]]:
    """What an approval with edits changed."""
    if (
        wait.kind is not WaitKind.APPROVAL
        or wait.decision is None
        or not isinstance(wait.decision.answer, dict)
    ):
        return []
    before: dict[str, Any] = wait.question.get("arguments") or {}
    after: dict[str, Any] = wait.decision.answer  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return [
        {"name": name, "before": before.get(name), "after": value}
        for name, value in after.items()
        if name not in before or before[name] != value
    ]


def fields_of_wait(wait: Wait) -> list[forms.Field]:
    """The editable part of a question."""
    if wait.kind is WaitKind.APPROVAL:
        arguments: dict[str, Any] = wait.question.get("arguments") or {}
        return forms.fields_of({**wait.schema, "properties": _known(wait.schema, arguments)}, arguments)
    if wait.kind is WaitKind.INPUT:
        if _is_object(wait.schema):
            return forms.fields_of(wait.schema, None)
        part = {**wait.schema, "title": "Answer"}
        return [forms.field_of(_SINGLE, part, part.get("default", forms.MISSING), wait.schema, required=True)]
    return []


def _known(schema: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The schema's properties that the call has; a missing optional one is not offered."""
    return {name: part for name, part in schema.get("properties", {}).items() if name in arguments}


def _is_object(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "object" and bool(schema.get("properties"))


# -- deciding
def decide_page(request: Request) -> Response:
    """POST /approvals/{id}: one of the buttons; the outcome is the same page, decided."""
    wait_id = path_id(request)
    wait = find_wait(site_of(request).journal, wait_id)
    form = form_of(request)
    entry = Entry(
        fields=forms.fill(fields_of_wait(wait), form),
        reason=form.get("reason", ""),
        result=form.get("result", "").replace("\r\n", "\n"),
        result_kind=form.get("result_kind", "text"),
    )
    if form.get("digest", "") != wait.digest:
        raise HTTPException(409, "the page was made for another question; open it again")
    try:
        verdict, answer = _answer(wait, form.get("verdict", ""), entry)
        record_decision(request, wait_id, verdict, answer, entry.reason)
    except Refused:
        return _page(request, wait, entry, status=422)
    except DecisionRefusedError as error:  # decided meanwhile, or expired
        entry.errors.setdefault("form", str(error).removeprefix(f"{wait_id}: "))
        return _page(request, find_wait(site_of(request).journal, wait_id), entry, status=409)
    return RedirectResponse(f"/approvals/{wait_id}", 303)


def _answer(wait: Wait, button: str, entry: Entry) -> tuple[Verdict, Any]:
    """What a button means. Raises `Refused`, with the errors in `entry`."""
    found = _BUTTONS.get((wait.kind, button))
    if found is None:
        entry.errors["form"] = "press one of the buttons"
        raise Refused
    verdict, read = found
    return verdict, read(wait, entry)


def _nothing(wait: Wait, entry: Entry) -> None:
    del wait, entry


def _untouched(wait: Wait, entry: Entry) -> None:
    del wait
    touched = [item.label for item in entry.fields if item.is_touched]
    if touched:
        entry.errors["form"] = (
            f"You changed {', '.join(touched)}. “Approve with edits” runs it with the change; "
            "to approve it as proposed, put the old text back."
        )
        raise Refused


def _edited(wait: Wait, entry: Entry) -> dict[str, Any] | None:
    if not any(item.is_touched for item in entry.fields):
        return None
    values = _read(entry, wait.schema)
    touched = {item.name for item in entry.fields if item.is_touched}
    return {name: value for name, value in values.items() if name in touched}


def _input(wait: Wait, entry: Entry) -> Any:
    if _is_object(wait.schema):
        return _read(entry, wait.schema)
    values = _read(entry, {})
    answer = values.get(_SINGLE)
    try:
        check_schema(wait, answer)
    except DecisionRefusedError as error:
        text = str(error).removeprefix(f"{wait.id}: ").removeprefix("value: ")
        entry.fields = [forms.with_error(item, text) for item in entry.fields]
        raise Refused from None
    return answer


def _read(entry: Entry, schema: dict[str, Any]) -> dict[str, Any]:
    values, entry.fields, fault = forms.read(entry.fields, schema)
    if fault:
        entry.errors["form"] = fault
    if fault or any(item.error for item in entry.fields):
        raise Refused
    return values


def _result(wait: Wait, entry: Entry) -> Any:
    del wait
    if entry.result_kind != "json":
        return entry.result
    try:
        return orjson.loads(entry.result)
    except orjson.JSONDecodeError as error:
        entry.errors["result"] = f"is not valid JSON: {error}"
        raise Refused from None


_BUTTONS: dict[tuple[WaitKind, str], tuple[Verdict, Callable[[Wait, Entry], Any]]] = {
    (WaitKind.APPROVAL, "approve"): (Verdict.APPROVED, _untouched),
    (WaitKind.APPROVAL, "edit"): (Verdict.APPROVED, _edited),
    (WaitKind.APPROVAL, "deny"): (Verdict.DENIED, _nothing),
    (WaitKind.INPUT, "answer"): (Verdict.ANSWERED, _input),
    (WaitKind.INPUT, "deny"): (Verdict.DENIED, _nothing),
    (WaitKind.IN_DOUBT, "happened"): (Verdict.HAPPENED, _result),
    (WaitKind.IN_DOUBT, "run_again"): (Verdict.RUN_AGAIN, _nothing),
    (WaitKind.IN_DOUBT, "fail"): (Verdict.FAIL, _nothing),
    (WaitKind.DIVERGENCE, "continue"): (Verdict.CONTINUE, _nothing),
    (WaitKind.DIVERGENCE, "fail"): (Verdict.FAIL, _nothing),
}
"""What each button of a page decides, and how the answer that goes with it is read from the form."""
