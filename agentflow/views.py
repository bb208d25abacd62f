"""What people and programs are shown of runs, steps and waits: JSON values, the same in CLI, REST, MCP and pages."""

from __future__ import annotations

import datetime as dt
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import orjson

from agentflow.engine.records import Place, attempt_scope, identity
from agentflow.errors import CorruptRecord, JournalUnavailable
from agentflow.journal.protocol import CacheEntry, Journal
from agentflow.model.deployments import Deployment
from agentflow.model.runs import Run
from agentflow.model.steps import FAILURES, StepEvent, StepRow, sequence_of
from agentflow.model.waits import PERSON_KINDS, Wait, WaitKind
from agentflow.payloads.digests import Hasher
from agentflow.payloads.envelopes import Draft, readable, shown_instead
from agentflow.payloads.failures import describe_failure


def stamp(seconds: float | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    return (
        None
        if seconds is None
        else dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds")
    )


def plain(data: bytes | None, opened: Callable[[bytes], Draft] | None = None) -> Any:
    """An encoded value as JSON for people, without building it: tags are replaced by what they wrap.

    `opened` reads what is not readable in the row itself; without it, that is only named.
    """
    if data is None:
        return None
    try:
        draft = opened(data) if opened is not None else readable(data)
    except (CorruptRecord, JournalUnavailable) as error:
        return f"<{shown_instead(data) or error}>"
    return _strip(orjson.loads(draft.text), draft.parts)


def _part(value: dict[str, Any], parts: Sequence[Any]) -> str:
    part = parts[value["i"]]
    return part if isinstance(part, str) else f"<{len(part):,} bytes>"


def _elsewhere(value: dict[str, Any], _: Sequence[Any]) -> str:
    return f"<{shown_instead(b64decode(value['v']))}>"


def _pickled(_: dict[str, Any], __: Sequence[Any]) -> str:
    return "<pickled value>"


#: What stands for values that are not in the text, by their tags.
_KEPT: dict[str, Callable[[dict[str, Any], Sequence[Any]], str]] = {
    "part": _part,
    "kept": _elsewhere,
    "pickle": _pickled,
}


def _strip(value: Any, parts: Sequence[Any] = ()) -> Any:
    if isinstance(value, list):
        return [_strip(item, parts) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    tag = fields.get("$")
    if tag is None:
        return {key: _strip(item, parts) for key, item in fields.items()}
    return _strip_tagged(tag, fields, parts)


def _strip_tagged(tag: str, value: dict[str, Any], parts: Sequence[Any]) -> Any:
    kept = _KEPT.get(tag)
    if kept is not None:
        return kept(value, parts)
    if tag == "dict":
        return {str(_strip(key, parts)): _strip(item, parts) for key, item in value["v"]}
    if tag == "exception":
        return f"{value['type']}: {_strip(value['text'], parts)}"
    if tag == "enum":
        return value.get("n", value.get("v"))
    if tag == "model":
        return _strip({**value["v"], **value.get("x", {})}, parts)
    return _strip(value.get("v"), parts)


def run_view(
    run: Run, *, full: bool = True, opened: Callable[[bytes], Draft] | None = None
) -> dict[str, Any]:
    """A run. `full` adds parameters, result and error, read with `opened` as in `plain`."""
    view: dict[str, Any] = {
        "run_id": run.id,
        "flow": run.flow,
        "parent": run.parent or None,
        "deployment": run.deployment or None,
        "deployment_version": run.deployment_version,
        "name": run.name,
        "state": run.state.value,
        "message": run.message,
        "origins": [origin.value for origin in run.origins],
        "created": stamp(run.created),
        "started": stamp(run.started),
        "ended": stamp(run.ended),
        "elapsed_s": None if run.started is None or run.ended is None else round(run.ended - run.started, 6),
        "tags": list(run.tags),
        "crashes": run.crashes,
        "life": run.epoch,
    }
    if full:
        view |= {
            "entrypoint": run.entrypoint,
            "parameters": plain(run.parameters, opened),
            "result": plain(run.result, opened),
            "error": None if run.error is None else describe_failure(run.error, opened),
            "owner": run.owner,
            "cwd": run.cwd,
        }
    return view


def deployment_view(deployment: Deployment, *, full: bool = True) -> dict[str, Any]:
    """A deployment. `full` adds the schema of its parameters and where its flow was found."""
    limit = deployment.concurrency_limit
    view: dict[str, Any] = {
        "name": deployment.name,
        "flow": deployment.flow,
        "description": deployment.description,
        "version": deployment.version,
        "tags": list(deployment.tags),
        "parameters": orjson.loads(deployment.parameters),
        "concurrency_limit": None if limit is None else limit.limit,
        "collision_strategy": None if limit is None else limit.collision_strategy.value,
        "paused": deployment.paused,
        "origins": [origin.value for origin in deployment.origins],
        "created": stamp(deployment.created),
        "updated": stamp(deployment.updated),
    }
    if full:
        view |= {
            "parameters_schema": orjson.loads(deployment.schema),
            "entrypoint": deployment.entrypoint,
            "cwd": deployment.cwd,
        }
    return view


def wait_view(wait: Wait) -> dict[str, Any]:
    """A wait. `code` is what a person at a terminal echoes before deciding."""
    decision = wait.decision
    return {
        "id": wait.id,
        "run_id": wait.run_id,
        "flow": wait.flow,
        "kind": wait.kind.value,
        "name": wait.name,
        "message": wait.question.get("message", ""),
        "arguments": wait.question.get("arguments"),
        "question": wait.question,
        "schema": wait.schema,
        "digest": wait.digest,
        "code": wait.digest[:6],
        "policy": wait.policy,
        "opened": stamp(wait.opened),
        "expires": stamp(wait.due),
        "status": _status(wait),
        "decided": stamp(wait.decided),
        "decision": None
        if decision is None
        else {
            "verdict": decision.verdict.value,
            "answer": _strip(decision.answer),
            "reason": decision.reason,
            "actor": decision.actor,
            "channel": decision.channel.value,
            "assurance": decision.assurance.value,
        },
    }


def _status(wait: Wait) -> str:
    if wait.decision is not None:
        return wait.decision.verdict.value
    return "open" if wait.is_open else "withdrawn"


def cache_view(entry: CacheEntry, now: float) -> dict[str, Any]:
    """A cached result, without the result."""
    return {
        "key": entry.key.hex(),
        "task": entry.task,
        "name": entry.name,
        "created": stamp(entry.created),
        "expires": stamp(entry.expires),
        "expired": entry.expires is not None and entry.expires <= now,
        "run_id": entry.run_id,
        "private": bool(entry.private),
        "size": entry.size,
        "looks_at": list(orjson.loads(entry.parts)),
    }


def waiting_view(waits: Iterable[Wait]) -> list[dict[str, Any]]:
    """``waiting_for`` of a run, people's questions first."""
    order = sorted(waits, key=lambda wait: (wait.kind not in PERSON_KINDS, wait.opened))
    return [
        {"kind": wait.kind.value, "id": wait.id, "url": f"/approvals/{wait.id}"} | _due(wait)
        for wait in order
    ]


def _due(wait: Wait) -> dict[str, Any]:
    return {"due": stamp(wait.due)} if wait.kind is WaitKind.TIMER else {}


class StepTree:
    """The steps of a run, folded from its rows; can be fed more rows as they come."""

    def __init__(self, key: bytes) -> None:
        self._hasher = Hasher(key)
        self._steps: dict[tuple[bytes, bytes, bytes, int], dict[str, Any]] = {}
        self._scopes: dict[bytes, str] = {b"": ""}
        #: Id of the last row taken in.
        self.last = 0

    def _identify(self, scope: bytes, place: Place) -> bytes:
        return identity(self._hasher, scope, place)

    def feed(self, rows: Iterable[StepRow]) -> list[dict[str, Any]]:
        """Take in rows; returns the steps that they changed."""
        changed: dict[str, dict[str, Any]] = {}
        for row in rows:
            self.last = max(self.last, row.id)
            step = self._fold(row)
            changed[step["id"]] = step
        return list(changed.values())

    def _fold(self, row: StepRow) -> dict[str, Any]:
        place = (row.key, row.branch, row.occurrence)
        spot = (row.scope, *place)
        step = self._steps.get(spot)
        if step is None:
            identity = self._identify(row.scope, place)
            is_root = row.scope == b"" and row.key == b""
            step = self._steps[spot] = {
                "id": identity.hex(),
                "seq": sequence_of(row.id),
                "parent": self._scopes.get(row.scope, ""),
                "kind": row.kind,
                "name": row.name,
                "run_name": "",
                "tags": (),
                "effect": bool(row.effect),
                "attempts": 0,
                "started": row.started,
            }
            self._scopes[b"" if is_root else identity] = "" if is_root else step["id"]
        if row.event == StepEvent.ATTEMPT:
            step["attempts"] = row.attempt + 1
            self._scopes[attempt_scope(self._identify, bytes.fromhex(step["id"]), row.attempt + 1)] = step[
                "id"
            ]
        failed = row.event in FAILURES
        step |= {
            "event": row.event,
            "ended": row.ended,
            "value": None if failed else plain(row.value),
            "error": describe_failure(row.value) if failed and row.value is not None else None,
            "detail": orjson.loads(row.detail) if row.detail else step.get("detail"),
        }
        notes: dict[str, Any] = step["detail"] or {}
        if notes:
            step["run_name"] = notes.get("run_name", step["run_name"])
            step["tags"] = notes.get("tags", step["tags"])
        return step

    @property
    def steps(self) -> list[dict[str, Any]]:
        """All steps, in the order in which they were first recorded."""
        return list(self._steps.values())


def steps_of(journal: Journal, run: Run) -> list[dict[str, Any]]:
    """The steps of a run."""
    tree = StepTree(journal.key)
    tree.feed(journal.steps(run.number))
    return tree.steps


def in_doubt(
    journal: Journal, run: Run, steps: Iterable[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Side effects that were started and of which nobody knows whether they happened, and nobody is at work on them.

    Of a run that has ended nobody will ask a person any more: so they are listed for as long as the run is.
    """
    if not run.state.is_final and journal.is_owned(run):
        return []
    found = steps_of(journal, run) if steps is None else steps
    nothing: dict[str, Any] = {}
    return [
        {"step": step["id"], "name": step["name"], "arguments": (step["detail"] or nothing).get("arguments")}
        for step in found
        if step["effect"] and step["event"] in (StepEvent.INTENT, StepEvent.UNKNOWN)
    ]
