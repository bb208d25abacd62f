"""Approvals: everything that waits for a person - signatures, effects in doubt, divergences, questions."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentflow.approvals.decisions import decide
from agentflow.errors import WaitNotFoundError
from agentflow.journal.protocol import Journal
from agentflow.model.waits import PERSON_KINDS, Assurance, Channel, Verdict, Wait
from agentflow.server.answers import JSON
from agentflow.server.bodies import json_object, text_member
from agentflow.server.feeds import OPEN_LIMIT
from agentflow.server.site import caller_of, path_id, query_int, site_of
from agentflow.views import wait_view

_REASON_LIMIT = 4000


def find_wait(journal: Journal, wait_id: str) -> Wait:
    """The wait. Raises `WaitNotFoundError`, also for waits that no person answers."""
    wait = journal.get_wait(wait_id)
    if wait is None or wait.kind not in PERSON_KINDS:
        raise WaitNotFoundError(wait_id)
    return wait


def decided_waits(journal: Journal, limit: int) -> list[Wait]:
    """What was decided lately, the newest question first."""
    waits = journal.list_waits(open_only=False, kinds=PERSON_KINDS, limit=limit)
    return [wait for wait in waits if not wait.is_open]


def list_approvals(request: Request) -> JSON:
    """GET /api/approvals?status=open|decided&limit=."""
    journal = site_of(request).journal
    status = request.query_params.get("status", "open")
    limit = max(1, query_int(request, "limit", OPEN_LIMIT, most=OPEN_LIMIT))
    if status == "open":
        waits = journal.list_waits(kinds=PERSON_KINDS, limit=limit)
    elif status == "decided":
        waits = decided_waits(journal, limit)
    else:
        raise HTTPException(400, "'status' must be open or decided")
    return JSON({"approvals": [wait_view(wait) for wait in waits]})


def show_approval(request: Request) -> JSON:
    """GET /api/approvals/{id}."""
    return JSON(wait_view(find_wait(site_of(request).journal, path_id(request))))


def decide_approval(request: Request) -> JSON:
    """POST /api/approvals/{id}/decide {verdict, answer, reason}: for people's browsers only."""
    body = json_object(request)
    text = text_member(body, "verdict")
    if text not in {verdict.value for verdict in Verdict}:
        raise HTTPException(400, f"no verdict {text[:40]!r}")
    wait_id = path_id(request)
    return JSON(
        wait_view(
            record_decision(request, wait_id, Verdict(text), body.get("answer"), text_member(body, "reason"))
        )
    )


def record_decision(request: Request, wait_id: str, verdict: Verdict, answer: Any, reason: str) -> Wait:
    """Record a decision of the person at the browser; the only way of this server to do so.

    Raises `HTTPException` 403 for anybody else, `WaitNotFoundError`, `DecisionRefusedError`.
    """
    caller = caller_of(request)
    if not caller.is_person or caller.session is None:
        raise HTTPException(403, "only a person in the browser decides; open the page of this approval")
    site = site_of(request)
    decided = decide(
        site.journal,
        wait_id,
        verdict,
        answer=answer,
        reason=reason.strip()[:_REASON_LIMIT],
        actor=caller.session.actor or "a person in the browser",
        channel=Channel.WEB,
        assurance=Assurance.LOW,
    )
    site.worker.interrupt()
    return decided
