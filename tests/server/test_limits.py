"""Limits over a real socket: the API, and the pages as plain forms."""

from typing import Any

import pytest

from agentflow.model.limits import Claim, Limit
from tests.server import flows_under_test
from tests.server.conftest import Running


def claim(running: Running, name: str, limit: str = "db") -> None:
    running.journal.claim_slots(Claim(name, (limit,), step=f"step of {name}", keeper="somebody"))


def test_a_limit_is_set_changed_listed_and_removed(running: Running) -> None:
    """What is left out of a change stays; a name may be any text, slashes among it."""
    client = running.client()
    assert client.get("/api/limits").json() == {"limits": []}
    made = client.put("/api/limits/api/v1 ü", json={"limit": 5, "slot_decay_per_second": 0.5}).json()
    assert (made["name"], made["limit"], made["slot_decay_per_second"], made["free"]) == (
        "api/v1 ü",
        5,
        0.5,
        5,
    )
    changed = client.put("/api/limits/api/v1 ü", json={"active": False}).json()
    assert (changed["limit"], changed["slot_decay_per_second"], changed["active"]) == (5, 0.5, False)
    assert client.get("/api/limits/api/v1 ü").json() == changed
    assert client.get("/api/limits").json() == {"limits": [changed]}
    assert client.delete("/api/limits/api/v1 ü").json() == {"name": "api/v1 ü", "removed": True}
    assert client.get("/api/limits").json() == {"limits": []}


def test_who_holds_and_who_waits_is_told_and_slots_are_freed(running: Running) -> None:
    """In the order of the queue; a reset says how many slots it has freed."""
    client = running.client()
    running.journal.set_limit(Limit("db", 1))
    for name in ("a", "b", "c"):
        claim(running, name)
    view = client.get("/api/limits/db").json()
    assert [slot["step"] for slot in view["holders"]] == ["step of a"]
    assert [slot["step"] for slot in view["waiting"]] == ["step of b", "step of c"]
    assert client.post("/api/limits/db/reset").json() == {"name": "db", "freed": 1}
    assert [slot["step"] for slot in client.get("/api/limits/db").json()["holders"]] == ["step of b"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"limit": -1},
        {"limit": 1.5},
        {"limit": True},
        {"limit": "two"},
        {"limit": 10**30},
        {"limit": 1, "slot_decay_per_second": -0.1},
        {"limit": 1, "slot_decay_per_second": "fast"},
        {"limit": 1, "active": "yes"},
        {"limit": 1, "collision_strategy": "MAYBE"},
        {"limit": 1, "slot_decay": 2},
    ],
)
def test_bad_limits_are_refused(running: Running, body: dict[str, Any]) -> None:
    """With 400 and one line that says what is wrong; nothing is stored."""
    answer = running.client().put("/api/limits/db", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert running.journal.list_limits() == []


def test_unknown_limits_are_not_found(running: Running) -> None:
    """For every verb but the one that defines them."""
    client = running.client()
    answers = (
        client.get("/api/limits/db"),
        client.delete("/api/limits/db"),
        client.post("/api/limits/db/reset"),
        client.get("/limits/db", headers={"accept": "text/html"}),
    )
    assert [answer.status_code for answer in answers] == [404] * 4
    assert client.put("/api/limits/" + "x" * 201, json={"limit": 1}).status_code == 400


def test_a_run_that_awaits_a_slot_says_so_and_is_taken_up_on_release(running: Running) -> None:
    """In the list, alone, and on its page; the worker leaves it alone until the slot is free."""
    running.journal.set_limit(Limit("flow:held", 1))
    first, second = running.start("held"), running.start("held")
    client = running.client()
    waiting, _ = client.get("/api/runs").json()["runs"]
    assert (waiting["run_id"], waiting["state"]) == (second, "PENDING")
    assert waiting["state_name"] == "AwaitingConcurrencySlot"
    assert waiting["awaiting_slots"] == client.get(f"/api/runs/{second}").json()["awaiting_slots"]
    assert "a slot of flow:held (limit 1" in waiting["awaiting_slots"][0]["text"]
    page = client.get(f"/runs/{second}", headers={"accept": "text/html"}).text
    assert "a slot of flow:held (limit 1" in page
    assert [slot["run_id"] for slot in client.get("/api/limits/flow:held").json()["waiting"]] == [second]
    flows_under_test.gate.set()
    assert (running.ended(first), running.ended(second)) == ("COMPLETED", "COMPLETED")


def test_limits_are_set_and_removed_with_plain_forms(running: Running) -> None:
    """Without a script: set, change, free and remove; what a person typed is kept where it cannot be taken."""
    person = running.person()
    assert "No limits yet" in person.open("/limits").text
    refused = person.submit("/limits", name="db", limit="many", decay="", strategy="ENQUEUE", active="on")
    assert refused.status_code == 422
    assert 'value="many"' in refused.text
    made = person.submit("/limits", name="db", limit="2", decay="", strategy="CANCEL_NEW", active="on")
    assert (made.status_code, made.headers["location"]) == (303, "/limits/db")
    claim(running, "a")
    assert "step of a" in person.open("/limits/db").text
    person.submit("/limits/db", limit="3", decay="0.5", strategy="ENQUEUE")
    assert running.journal.list_limits() == [Limit("db", 3, active=False, slot_decay_per_second=0.5)]
    assert person.submit("/limits/db/reset").status_code == 303
    assert running.journal.list_slots(limit="db") == []
    assert person.submit("/limits/db/remove").headers["location"] == "/limits"
    assert running.journal.list_limits() == []
    assert person.submit("/limits/db", limit="3", decay="", strategy="ENQUEUE").status_code == 404
