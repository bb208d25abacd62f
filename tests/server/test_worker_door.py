"""The door for workers: what a key opens, and all that it does not; attacks, and requests that are none."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from agentflow.errors import DecisionRefusedError, JournalOpenError, JournalUnavailable, UsageError
from agentflow.journal.api_keys import digest_of, new_api_key
from agentflow.journal.http import HttpJournal
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal
from agentflow.journal.wire import BODY_LIMIT, DOOR, VERBS
from agentflow.model.ids import new_id
from agentflow.model.runs import NewRun, Origin
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from agentflow.model.waits import PERSON_KINDS, Channel, Decision, Verdict, Wait, WaitKind
from agentflow.payloads.codec import Codec
from agentflow.server.serving import Server
from agentflow.workers.inline import InlineWorker
from tests.server.conftest import Running, Serve

KEY = b"w" * 32
TOKEN = "a-token-of-more-than-sixteen"


def key_of(running: Running) -> str:
    """A new key of a worker."""
    known, text = new_api_key("somewhere else")
    running.journal.add_api_key(known, digest_of(text))
    return text


def bearer(secret: str, session: str = "") -> dict[str, str]:
    """The headers of who shows a secret, in a session if it has one."""
    return {"authorization": f"Bearer {secret}"} | ({"agentflow-session": session} if session else {})


def journal_of(url: str, api_key: str, **options: Any) -> Journal:
    """The journal as a worker has it."""
    return cast("Journal", HttpJournal(url, KEY, api_key, **options))


@pytest.fixture
def running(serve: Serve) -> Running:
    """A server whose people show a token."""
    return serve(token=TOKEN)


@pytest.fixture
def journal(running: Running) -> Iterator[Journal]:
    """The journal of a worker of that server."""
    made = journal_of(running.url, key_of(running))
    yield made
    made.close()


def a_run() -> NewRun:
    """A run to be."""
    return NewRun(new_id(), "flow", "f.py:flow", b"{}", "fp", Origin.MODEL, time.time())


def a_wait(journal: Journal, kind: WaitKind, due: float | None = None) -> Wait:
    """A question of a new run of the worker."""
    run = journal.create_run(a_run())
    wait = Wait(
        id=f"{kind}-{run.number}", run=run.number, run_id=run.id, flow="flow", step="00", kind=kind, name="pay",
        question={}, schema={}, digest="d", policy="p", opened=time.time(), due=due,
    )  # fmt: skip
    return journal.open_wait(run.epoch, wait)


def test_nobody_comes_in_without_a_good_key(running: Running) -> None:
    """No key, a wrong one, the person's token, a revoked key: 401, and what to do, on every path."""
    text = key_of(running)
    client = running.client()
    for path in ("", "/version", "/sessions", "/news", "/verbs/get_run", "/verbs/nonsense", "/nothing"):
        for shown in ({}, bearer(TOKEN), {"authorization": f"Bearer {text}x"}):
            answer = client.post(DOOR + path, json={}, headers=shown)
            assert answer.status_code in (401, 404, 405), path
            assert path in ("", "/version", "/nothing") or "agentflow keys create" in answer.text
    journal_of(running.url, text).close()
    [key] = running.journal.api_keys()
    assert text not in repr(key)
    assert running.journal.revoke_api_key(key.id, 1.0)
    assert not running.journal.revoke_api_key(key.id, 2.0)
    deadline = time.monotonic() + 20
    while client.get(DOOR, headers=bearer(text)).status_code != 401:
        assert time.monotonic() < deadline
    with pytest.raises(JournalOpenError, match="revoked"):
        journal_of(running.url, text)


def test_a_key_opens_nothing_else(running: Running) -> None:
    """No page, no other path of the API: it is no token of a person, and there is no session to be had with it."""
    client = running.client(authorization=f"Bearer {key_of(running)}")
    for path in (
        "/",
        "/approvals",
        "/api/runs",
        "/api/approvals",
        "/api/flows",
        f"{DOOR}x",
        f"{DOOR}/../runs",
    ):
        assert client.get(path).status_code in (401, 404), path
    assert client.post("/api/approvals/x/decide", json={"verdict": "approved"}).status_code == 401
    assert client.post("/login", data={"token": key_of(running)}).status_code != 303


@pytest.mark.parametrize("kind", sorted(PERSON_KINDS))
def test_a_worker_decides_nothing_for_a_person(journal: Journal, kind: WaitKind) -> None:
    """Whatever it says, and however it says it; it is told where people decide. That a time is up it may say."""
    wait = a_wait(journal, kind, due=time.time() - 1)
    for verdict in sorted(set(Verdict) - {Verdict.ELAPSED}):
        decision = Decision(verdict, {"a": 1}, "", "ann", Channel.WEB)
        with pytest.raises(DecisionRefusedError, match=rf"inbox: http://.*/approvals/{wait.id}"):
            journal.decide(wait.id, decision, now=time.time(), allowed_digest="d")
    for odd in (Decision(Verdict.ELAPSED, {"a": 1}), Decision(Verdict.ELAPSED, channel=Channel.WEB)):
        with pytest.raises(DecisionRefusedError, match="inbox"):
            journal.decide(wait.id, odd, now=time.time())
    with pytest.raises(DecisionRefusedError, match="inbox"):
        journal.decide(wait.id, Decision(Verdict.ELAPSED), now=time.time(), allowed_digest="d")
    stored = journal.get_wait(wait.id)
    assert stored is not None
    assert stored.is_open
    elapsed = journal.decide(wait.id, Decision(Verdict.ELAPSED), now=time.time()).decision
    assert elapsed is not None
    assert elapsed.verdict is Verdict.ELAPSED


def test_what_has_no_end_cannot_be_ended_by_a_worker(journal: Journal) -> None:
    """A question without a time to answer it waits for its person."""
    wait = a_wait(journal, WaitKind.APPROVAL)
    with pytest.raises(DecisionRefusedError, match="inbox"):
        journal.decide(wait.id, Decision(Verdict.ELAPSED), now=time.time())


def test_a_question_does_not_bring_its_answer(journal: Journal) -> None:
    """A worker that opens a wait as already decided, or for a digest that nobody has signed, is refused."""
    asked = a_wait(journal, WaitKind.APPROVAL)
    run = journal.get_run(asked.run_id)
    assert run is not None
    signed = Decision(Verdict.APPROVED, None, "", "ann", Channel.WEB)
    for forged in (
        replace(asked, id="forged", decision=signed),
        replace(asked, id="forged", decided=1.0),
        replace(asked, id="forged", allowed_digest="d"),
        replace(asked, id="forged", consumed=1.0),
    ):
        with pytest.raises(DecisionRefusedError, match="cannot bring the answer"):
            journal.open_wait(run.epoch, forged)
    assert journal.get_wait("forged") is None


def test_a_key_cannot_use_the_session_of_another_one(running: Running) -> None:
    """Even who knows its id; it stays with its own worker."""
    first, second = key_of(running), key_of(running)
    client = running.client()
    opened = client.post(
        f"{DOOR}/sessions", json={"worker": "a:1", "lease": 30}, headers=bearer(first)
    ).json()
    headers = bearer(second, opened["session"])
    asked = VERBS["request_cancel"].request_bytes([])
    for path, body in (
        ("/news", b'{"patience":0}'),
        ("/sessions/end", b"{}"),
        ("/verbs/request_cancel", asked),
    ):
        answer = client.post(
            DOOR + path, content=body, headers=headers | {"content-type": "application/json"}
        )
        assert answer.status_code == 410
    mine = bearer(first, opened["session"])
    assert client.post(f"{DOOR}/sessions/end", json={}, headers=mine).status_code == 200


BAD_REQUESTS: list[tuple[str, bytes, str, int]] = [
    ("verbs/nonsense", b"{}", "application/json", 404),
    ("verbs/__init__", b"{}", "application/json", 404),
    ("verbs/try_append", b"{}", "application/json", 404),
    ("verbs/prune_runs", b"{}", "application/json", 404),
    ("verbs/add_api_key", b"{}", "application/json", 404),
    ("verbs/get_run", b"{}", "application/json", 422),
    ("verbs/get_run", b"", "application/json", 422),
    ("verbs/get_run", b"[1]", "application/json", 422),
    ("verbs/get_run", b"\x80\x04K\x01.", "application/json", 422),
    ("verbs/get_run", b'{"calls":[{"arguments":{"run_id":5}}]}', "application/json", 422),
    ("verbs/get_run", b'{"calls":[{"arguments":{"run_id":"a","more":1}}]}', "application/json", 422),
    ("verbs/get_run", b'{"calls":[],"more":1}', "application/json", 422),
    ("verbs/get_run", b"[" * 100_000, "application/json", 422),
    ("verbs/get_run", b'{"calls":[]}', "application/x-python-pickle", 415),
    ("sessions", b"[]", "application/json", 400),
    ("sessions", b'{"worker":"a\\nb","lease":1}', "application/json", 422),
    ("sessions", b'{"worker":"a","lease":"long"}', "application/json", 422),
    ("news", b'{"patience":1e9}', "application/json", 422),
    ("news", b"{", "application/json", 400),
]


@pytest.mark.parametrize(("path", "body", "kind", "status"), BAD_REQUESTS)
def test_what_is_no_request_is_refused(
    running: Running, path: str, body: bytes, kind: str, status: int
) -> None:
    """By a status of the 4xx and a sentence, which repeats nothing of what was sent."""
    client = running.client(authorization=f"Bearer {key_of(running)}")
    answer = client.post(f"{DOOR}/{path}", content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused_before_it_was_sent(running: Running) -> None:
    """By its declared length."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(running.url).port or 0, timeout=20)
    connection.putrequest("POST", f"{DOOR}/verbs/append")
    connection.putheader("Authorization", f"Bearer {key_of(running)}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(BODY_LIMIT + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, b"bytes" in answer.read()) == (413, True)
    connection.close()


def test_no_browser_comes_in(running: Running) -> None:
    """Whichever site it shows; and other names of the server are not answered to."""
    shown = bearer(key_of(running))
    client = running.client()
    assert client.get(DOOR, headers=shown).status_code == 200
    assert client.get(DOOR, headers=shown | {"origin": running.url}).status_code == 403
    assert client.get(DOOR, headers=shown | {"sec-fetch-site": "same-origin"}).status_code == 403
    assert client.get(DOOR, headers=shown | {"host": "evil.example"}).status_code == 421


def test_numbers_that_no_journal_can_hold_are_refused(journal: Journal) -> None:
    """As wrong use, and nothing breaks."""
    with pytest.raises(UsageError, match="too large"):
        journal.steps(1 << 80)
    with pytest.raises((UsageError, ValueError)):
        journal.set_state(1 << 90, 1, StateType.COMPLETED)


def test_a_key_that_is_revoked_meanwhile_stops_its_worker(running: Running) -> None:
    """What it asks for then is refused, with what to do about it."""
    journal = journal_of(running.url, key_of(running))
    run = journal.create_run(a_run())
    [key] = running.journal.api_keys()
    running.journal.revoke_api_key(key.id, 1.0)
    deadline = time.monotonic() + 20

    def until_refused() -> None:
        while time.monotonic() < deadline:
            journal.add_origin(run.id, Origin.PERSON)

    with pytest.raises(JournalUnavailable, match="agentflow keys create"):
        until_refused()
    journal.close()


def test_a_journal_in_memory_is_not_shared() -> None:
    """Its server says so to every worker."""
    worker = InlineWorker(MemoryJournal(), {})
    with Server(worker, port=0) as server, pytest.raises(JournalOpenError, match="memory"):
        journal_of(server.url, "key")


def test_pages_show_what_they_cannot_read(running: Running, journal: Journal, tmp_path: Path) -> None:
    """Values of a worker with another key, or of classes that only it has: the run is shown, without them."""
    value = Codec(KEY).encode(Strange())
    run = journal.create_run(replace(a_run(), parameters=value))
    row = StepRow(
        (run.number << 32) + 1, "completed", "task", "step", b"", b"k", b"", 0, 0, 0, 0, 0, 1.0, 2.0, value, None
    )  # fmt: skip
    journal.append(run.number, run.epoch, [row])
    journal.set_state(run.number, run.epoch, StateType.COMPLETED, result=value, release=True)
    client = running.client(authorization=f"Bearer {TOKEN}")
    for path in (
        f"/api/runs/{run.id}",
        f"/api/runs/{run.id}/steps",
        f"/api/runs/{run.id}/steps/1",
        "/api/runs",
    ):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
    for path in (f"/runs/{run.id}", "/"):
        assert client.get(path, headers={"accept": "text/html"}).status_code == 200, path


class Strange:
    """Only pickle can store it."""
