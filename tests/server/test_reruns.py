"""Ended runs that go on, and runs that begin where another one stood: through the API and through the pages."""

import re
import threading

import httpx2
import pytest

from agentflow.model.states import StateType
from tests.server.conftest import Running
from tests.server.flows_under_test import line_is_up, sent


@pytest.fixture
def failed(running: Running) -> str:
    """A run that has failed at its second step, although the line is up by now."""
    run_id = running.start("call_up")
    assert running.ended(run_id) == "FAILED"
    line_is_up.set()
    return run_id


def approve(running: Running, run_id: str) -> None:
    """A person signs what the run asks for."""
    wait = running.asked(run_id)
    answer = running.person().call(f"/api/approvals/{wait.id}/decide", {"verdict": "approved"})
    assert answer.status_code == 200, answer.text


def completed_by_a_person(running: Running) -> str:
    """A run that a person has started and that has told somebody, without being asked."""
    line_is_up.set()
    run_id = running.person().call("/api/runs", {"flow": "call_up"}).json()["run_id"]
    assert running.ended(run_id) == "COMPLETED"
    return run_id


def test_a_failed_run_goes_on(running: Running, failed: str) -> None:
    """The step that failed runs again, the one before is reused, and the history says which did which, life by life."""
    client = running.client()
    answer = client.post(f"/api/runs/{failed}/retry")
    assert (answer.status_code, answer.json()["state"]) == (202, "PENDING")
    approve(running, failed)
    assert running.ended(failed) == "COMPLETED"
    shown = client.get(f"/api/runs/{failed}/history").json()
    assert (shown["lives"][0]["end"], shown["lives"][-1]["end"]) == ("failed", "completed")
    second = client.get(f"/api/runs/{failed}/history", params={"life": 2}).json()["explanation"]
    fates = {group["name"]: group["how"] for group in second["groups"]}
    assert (fates["read"], fates["ring"]) == ("reused", "re-executed")


def test_only_a_run_that_ended_badly_goes_on(running: Running, failed: str) -> None:
    """One that waits and one that has completed are refused with the way out; nothing of them changes."""
    client = running.client()
    client.post(f"/api/runs/{failed}/retry")
    wait = running.asked(failed)
    again = client.post(f"/api/runs/{failed}/retry")
    assert (again.status_code, "has not ended" in again.json()["error"]["message"]) == (409, True)
    approve(running, wait.run_id)
    running.ended(failed)
    after = client.post(f"/api/runs/{failed}/retry")
    assert (after.status_code, "fork it" in after.json()["error"]["message"]) == (409, True)


def test_one_retry_of_many_at_once_is_taken(running: Running, failed: str) -> None:
    """However many ask, the run goes on once."""
    codes: list[int] = []
    together = threading.Barrier(8)

    def ask() -> None:
        client = httpx2.Client(base_url=running.url, timeout=20)
        together.wait()
        codes.append(client.post(f"/api/runs/{failed}/retry").status_code)
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [202] + [409] * 7
    approve(running, failed)
    assert running.ended(failed) == "COMPLETED"
    assert len(sent) == 1


def test_a_fork_asks_before_what_the_other_run_did_unasked(running: Running) -> None:
    """It reuses what came before the step, takes another argument, and shows what happened in the other run."""
    source = completed_by_a_person(running)
    person = running.person()
    body = {"from_step": "notify", "parameters": {"to": "alice"}}
    answer = person.call(f"/api/runs/{source}/fork", body)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["forked_from"], made["parameters"]["to"]) == (source, "alice")
    assert [effect["tool"] for effect in made["happened"]] == ["notify"]
    approve(running, made["run_id"])
    assert running.ended(made["run_id"]) == "COMPLETED"
    assert [told["to"] for told in sent] == ["bob", "alice"]
    history = running.client().get(f"/api/runs/{made['run_id']}/history").json()
    assert history["forked_from"]["run_id"] == source
    assert {group["how"] for group in history["explanation"]["groups"] if group["name"] != "notify"} == {
        "reused"
    }


def test_a_program_that_forks_is_an_unknown_origin(running: Running) -> None:
    """Whoever forks has asked for the fork, together with everybody who asked for the other run."""
    source = completed_by_a_person(running)
    made = running.client().post(f"/api/runs/{source}/fork", json={"from_step": "read"}).json()
    assert made["origins"] == ["unknown", "person"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("fork", {}, 400, "from_step"),
        ("fork", {"from_step": 3}, 400, "must be a string"),
        ("fork", {"from_step": "nothing"}, 400, "has no step"),
        ("fork", {"from_step": "read", "parameters": [1]}, 400, "must be a JSON object"),
        ("fork", {"from_step": "read", "parameters": {"number": "many"}}, 422, "number"),
        ("fork", {"from_step": "read", "parameters": {"nobody": 1}}, 422, "nobody"),
    ],
)
def test_what_cannot_be_forked_is_refused(
    running: Running, failed: str, path: str, body: object, status: int, said: str
) -> None:
    """The answer names what is wrong, and no run is made."""
    client = running.client()
    answer = client.post(f"/api/runs/{failed}/{path}", json=body)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text
    assert len(client.get("/api/runs").json()["runs"]) == 1


def test_what_is_not_there_is_not_found(running: Running, failed: str) -> None:
    """Unknown runs, lives that a run has not had, and words for numbers."""
    client = running.client()
    assert client.post("/api/runs/nothing-here/retry").status_code == 404
    assert client.post("/api/runs/nothing-here/fork", json={"from_step": "read"}).status_code == 404
    assert client.get("/api/runs/nothing-here/history").status_code == 404
    assert client.get(f"/api/runs/{failed}/history", params={"life": 7}).status_code == 404
    assert client.get(f"/api/runs/{failed}/history", params={"life": "x"}).status_code == 400


def test_the_pages_do_it_without_scripts(running: Running, failed: str) -> None:
    """Button, form, fault and redirect work in a browser that runs no script; strangers' forms are refused."""
    person = running.person()
    page = person.open(f"/runs/{failed}").text
    assert re.search(r'id="retry">', page)
    form = person.open(f"/runs/{failed}/fork?from=ring")
    assert "the one step" in form.text
    bad = person.submit(f"/runs/{failed}/fork", from_step="ring", **{"field.number": "many"})
    assert (bad.status_code, "is not a whole number" in bad.text) == (422, True)
    made = person.submit(f"/runs/{failed}/fork", from_step="ring", **{"field.number": "7"})
    assert made.status_code == 303
    forked = made.headers["location"].rpartition("/")[2]
    approve(running, forked)
    assert running.ended(forked) == "COMPLETED"
    assert running.client().get(f"/api/runs/{forked}").json()["result"] == ["rang 7", "told bob"]
    person.open(f"/runs/{failed}")
    assert person.submit(f"/runs/{failed}/retry").status_code == 303
    running.asked(failed)
    late = person.submit(f"/runs/{failed}/retry")
    assert (late.status_code, "has not ended" in late.text) == (409, True)
    person.csrf = "guessed"
    assert person.submit(f"/runs/{failed}/retry").status_code == 403


def test_the_page_of_a_run_of_an_unknown_flow_offers_nothing(running: Running, failed: str) -> None:
    """A server without the flow can show a run, and can neither have it go on nor fork it."""
    del running.worker.flows["call_up"]
    person = running.person()
    page = person.open(f"/runs/{failed}").text
    assert 'id="retry" hidden' in page
    assert person.submit(f"/runs/{failed}/retry").status_code == 404
    assert running.client().post(f"/api/runs/{failed}/retry").status_code == 404
    run = running.journal.get_run(failed)
    assert run is not None
    assert run.state is StateType.FAILED
