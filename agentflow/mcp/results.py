"""Results as clients see them: a flow's value as structured content, and the state of a run that has none (yet).

Source: MCP, tools, "Structured content" and "Output schema": an object, valid against the tool's output schema, with
the same as text beside it; what failed is an ordinary result with ``isError``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from fastmcp.tools import ToolResult
from jsonschema import Draft202012Validator
from mcp_types import TextContent
from pydantic_core import to_jsonable_python

from agentflow.errors import CorruptRecord, JournalUnavailable
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.mcp.fields import Schema, resolve
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.waits import PERSON_KINDS, Wait, WaitKind
from agentflow.payloads.envelopes import Draft
from agentflow.payloads.failures import describe_failure
from agentflow.payloads.opening import open_codec, open_for_people
from agentflow.views import plain, run_view, stamp

_TEXT = {"type": "string"}
QUESTION_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "approval_id": _TEXT,
        "kind": {"type": "string", "enum": sorted(PERSON_KINDS)},
        "name": _TEXT,
        "message": _TEXT,
        "arguments": {"type": "object"},
        "url": _TEXT,
        "cli": _TEXT,
        "expires": _TEXT,
    },
    "required": ["approval_id", "kind", "name", "message"],
}
STATUS_SCHEMA: Schema = {
    "type": "object",
    "description": "The run has no result (yet): `status` says why, `next` what to do.",
    "properties": {
        "status": {
            "type": "string",
            "enum": ["running", "waiting", "awaiting_approval", "failed", "cancelled", "crashed"],
        },
        "run_id": _TEXT,
        "flow": _TEXT,
        "message": _TEXT,
        "next": _TEXT,
        "approval_id": _TEXT,
        "url": _TEXT,
        "cli": _TEXT,
        "waiting_for": {"type": "array", "items": QUESTION_SCHEMA},
        "error": {
            "type": "object",
            "properties": {"type": _TEXT, "text": _TEXT},
            "required": ["type", "text"],
        },
    },
    "required": ["status", "run_id", "flow"],
}
#: What `await_run` returns: the above, or a completed run with its result.
RUN_SCHEMA: Schema = {
    **STATUS_SCHEMA,
    "description": "The state of a run.",
    "properties": {
        **STATUS_SCHEMA["properties"],
        "status": {
            "type": "string",
            "enum": [*STATUS_SCHEMA["properties"]["status"]["enum"], "completed"],
        },
        "result": {},
    },
}
META_RUN = "agentflow/run_id"
META_STATUS = "agentflow/status"


def output_schema(flow: Flow[..., Any]) -> Schema:
    """What a flow's tool returns: its result (as ``{"result": ...}`` where it is no object), or a status."""
    declared = dict(flow.result_schema)
    if not declared:
        return {"type": "object"}
    definitions = declared.pop("$defs", None)
    wrapped: Schema = {"type": "object", "properties": {"result": declared}, "required": ["result"]}
    result = declared if is_object(flow) else wrapped
    schema: Schema = {"type": "object", "anyOf": [result, STATUS_SCHEMA]}
    return {**schema, "$defs": definitions} if definitions else schema


def is_object(flow: Flow[..., Any]) -> bool:
    """Whether the flow declares a result that is a JSON object."""
    declared = flow.result_schema
    return resolve(declared, declared).get("type") == "object"


def value_of(flow: Flow[..., Any] | None, journal: Journal, run: Run) -> Any:
    """A completed run's result as JSON, in the shape of the flow's schema where the flow is known."""
    if run.result is None:
        return None
    try:
        value = open_codec(journal).decode(run.result)
        if flow is not None and flow.binder.returns is not None:
            return flow.binder.returns.dump_python(value, mode="json", by_alias=True, warnings=False)
        return to_jsonable_python(value, by_alias=True, inf_nan_mode="strings")
    except (Exception, CorruptRecord, JournalUnavailable):  # noqa: BLE001 - the user's own types are at work
        return plain(
            run.result, open_for_people(journal)
        )  # a class that is not loaded here, or a value that JSON does not know


def completed(flow: Flow[..., Any], journal: Journal, run: Run) -> ToolResult:
    """The result of a flow's tool."""
    value = value_of(flow, journal, run)
    declared = flow.result_schema
    wrapped = not is_object(flow) if declared else not isinstance(value, dict)
    content = {"result": value} if wrapped else cast("dict[str, Any]", value)
    meta = {META_RUN: run.id, META_STATUS: "completed"}
    if declared:
        fault = next(Draft202012Validator(declared).iter_errors(value), None)  # pyright: ignore[reportUnknownMemberType]
        if fault is not None:
            text = (
                f"{flow.name} completed (run {run.id}), but its result does not fit its annotation: "
                f"{fault.message:.300}. get_run shows it."
            )
            return ToolResult(content=text, meta=meta, is_error=True)
    return ToolResult(content=as_text(value), structured_content=content, meta=meta)


def as_text(value: Any) -> list[TextContent]:
    """A value for a model to read: text as it is, everything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [TextContent(type="text", text=text)]


def status_view(run: Run, waits: Sequence[Wait], base_url: str) -> dict[str, Any]:
    """The state of a run that has no result, with what to do next."""
    asked = [question_view(wait, base_url) for wait in waits if wait.kind in PERSON_KINDS and wait.is_open]
    view: dict[str, Any] = {
        "status": _status(run, waits),
        "run_id": run.id,
        "flow": run.flow,
        "message": run.message,
    }
    if asked:
        view |= {key: asked[0][key] for key in ("approval_id", "url", "cli") if key in asked[0]}
    view["waiting_for"] = asked
    if run.error is not None:
        view["error"] = failure(run)
    view["next"] = _next_step(view)
    return view


def _status(run: Run, waits: Sequence[Wait]) -> str:
    final = {StateType.FAILED: "failed", StateType.CANCELLED: "cancelled", StateType.CRASHED: "crashed"}
    if run.state in final:
        return final[run.state]
    if any(wait.kind in PERSON_KINDS and wait.is_open for wait in waits):
        return "awaiting_approval"
    return "waiting" if run.state is StateType.PAUSED else "running"


def _next_step(view: dict[str, Any]) -> str:
    match view["status"]:
        case "awaiting_approval":
            where = " or ".join(part for part in (view.get("url"), f"`{view['cli']}`") if part)
            return (
                f"A person has to answer; you cannot. Tell the user what is asked and where: {where}. "
                "Then call await_run with this run_id. Do not start the flow again."
            )
        case "running" | "waiting":
            return "The run goes on by itself. Call await_run with this run_id; do not start the flow again."
        case _:
            return "The run has ended. get_run and get_logs with this run_id show what happened."


def question_view(wait: Wait, base_url: str) -> dict[str, Any]:
    """What a model may know of a question to a person: all but what deciding takes."""
    arguments = wait.question.get("arguments") if wait.kind is not WaitKind.INPUT else None
    view: dict[str, Any] = {
        "approval_id": wait.id,
        "kind": wait.kind.value,
        "name": wait.name,
        "message": str(wait.question.get("message", "")),
        "arguments": arguments if isinstance(arguments, dict) else None,
        "url": f"{base_url.rstrip('/')}/approvals/{wait.id}" if base_url else None,
        "cli": f"agentflow approvals show {wait.id}",
        "expires": stamp(wait.due),
    }
    return {name: value for name, value in view.items() if value is not None}


def failure(run: Run) -> dict[str, str]:
    """Type and text of a run's error; the traceback stays in the journal."""
    described = describe_failure(run.error or b"")
    return {"type": described["type"], "text": described["text"]}


def status_result(run: Run, waits: Sequence[Wait], base_url: str) -> ToolResult:
    """A status as the result of a flow's tool: an error where the run has ended without a result."""
    view = status_view(run, waits, base_url)
    meta = {META_RUN: run.id, META_STATUS: view["status"]}
    if not run.state.is_final:
        return ToolResult(content=as_text(view), structured_content=view, meta=meta)
    if run.error is None:
        text = (
            f"{run.flow} ended as {run.state.value}: {run.message or 'no reason is recorded'} (run {run.id})"
        )
    else:
        error = view["error"]
        text = f"{error['type']}: {error['text']} (run {run.id} of {run.flow}, {run.state.value})"
    return ToolResult(content=as_text(text), structured_content=view, meta=meta, is_error=True)


def error_result(message: str) -> ToolResult:
    """A tool error: the model reads it and can do better."""
    return ToolResult(content=as_text(message), is_error=True)


def safe_run_view(run: Run, *, full: bool, opened: Callable[[bytes], Draft] | None = None) -> dict[str, Any]:
    """A run as a model sees it: without paths, owner and tracebacks. `opened`: as in `agentflow.views.plain`."""
    view = run_view(run, full=full, opened=opened)
    for name in ("entrypoint", "cwd", "owner"):
        view.pop(name, None)
    if view.get("error") is not None:
        view["error"] = failure(run)
    return view
