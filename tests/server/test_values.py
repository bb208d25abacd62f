"""Values that a server must not show, and values that are hard to show, over a socket: pages, the API, the streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentflow.payloads.encryption import new_key
from tests.server.conftest import Running, Serve

SECRET = "crown-jewels-5512"


@pytest.fixture
def encrypted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A server whose worker has a key."""
    monkeypatch.setenv("AGENTFLOW_ENCRYPTION_KEYS", new_key("k1"))
    return serve()


def shown(running: Running, run_id: str) -> dict[str, str]:
    """All that a server shows of a run and of its list of runs, by path."""
    client = running.client()
    paths = [
        "/", f"/runs/{run_id}", f"/runs/{run_id}/fork?from=read", "/approvals", f"/api/runs/{run_id}", "/api/runs",
        f"/api/runs/{run_id}/steps", f"/api/runs/{run_id}/history", f"/api/runs/{run_id}/logs",
    ]  # fmt: skip
    steps: list[dict[str, Any]] = client.get(f"/api/runs/{run_id}/steps").json()["steps"]
    paths += [f"/api/runs/{run_id}/steps/{step['seq']}" for step in steps]
    found: dict[str, str] = {}
    for path in paths:
        answer = client.get(
            path, headers={"accept": "text/html" if "/api/" not in path else "application/json"}
        )
        assert answer.status_code < 500, (path, answer.text)
        found[path] = answer.text
    return found


def test_what_is_encrypted_is_on_no_page_and_in_no_answer(encrypted: Running) -> None:
    """Arguments, results, steps and errors are named by their key; the worker of the same process decrypts them."""
    run_id = encrypted.start("echo", value=SECRET)
    assert encrypted.ended(run_id) == "COMPLETED"
    failed = encrypted.start("broken", text=SECRET)
    assert encrypted.ended(failed) == "FAILED"
    pages = shown(encrypted, run_id) | shown(encrypted, failed)
    assert [path for path, text in pages.items() if SECRET in text] == []
    assert "encrypted (key ID k1)" in pages[f"/runs/{run_id}"]
    assert "encrypted (key ID k1)" in pages[f"/api/runs/{run_id}"]
    assert "ValueError" in pages[f"/api/runs/{failed}"]


def start(running: Running, value: str) -> str | None:
    """The run that JSON gives as argument makes; None where it is refused, with a reason."""
    body = f'{{"flow": "echo", "parameters": {{"value": {value}}}}}'
    answer = running.client().post("/api/runs", content=body, headers={"content-type": "application/json"})
    if answer.status_code == 201:
        return answer.json()["run_id"]
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["message"]
    return None


def test_a_value_that_is_nested_too_deeply_breaks_nothing(running: Running) -> None:
    """It is refused in a sentence, or taken and shown; the server goes on."""
    for depth in (500, 20_000):
        run_id = start(running, "[" * depth + "]" * depth)
        if run_id is not None:
            running.ended(run_id)
            shown(running, run_id)
    assert running.ended(running.start("echo", value=[1])) == "COMPLETED"


def test_extreme_values_come_through(running: Running) -> None:
    """Shown whole, shortened, or refused; never a fault of the server's."""
    values = ["\0", "\ud800", "é" * 300_000, "x" * 1_500_000, 10**40, -0.0, {"": {"$": 1}}]
    for value in values:
        run_id = start(running, json.dumps(value))
        if run_id is not None:
            assert running.ended(run_id) == "COMPLETED"
            shown(running, run_id)
