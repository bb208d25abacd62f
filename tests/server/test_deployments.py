"""Deployments over a real socket: the API, and the pages as plain forms."""

import time
from typing import Any

import pytest

from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from tests.server import flows_under_test
from tests.server.conftest import PATIENCE, Running

API = "/api/deployments/many/nightly"
PAGE = "/deployments/many/nightly"


def define(running: Running, path: str = API, **body: Any) -> dict[str, Any]:
    if path == API:
        body.setdefault("parameters", {"count": 3})
    answer = running.client().put(path, json=body)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def test_a_deployment_is_defined_listed_paused_and_removed(running: Running) -> None:
    """What is left out is the flow's; each verb answers with what it is then."""
    client = running.client()
    assert client.get("/api/deployments").json() == {"deployments": [], "next": None}
    made = client.put(API, json={"concurrency_limit": 2, "collision_strategy": "CANCEL_NEW", "tags": ["x"]})
    assert made.status_code == 201
    view = made.json()
    assert (view["name"], view["concurrency_limit"], view["collision_strategy"]) == (
        "many/nightly",
        2,
        "CANCEL_NEW",
    )
    assert (view["tags"], view["paused"], view["origins"]) == (["x"], False, ["unknown"])
    assert client.get(API).json() == view
    assert client.put(API, json={"version": "2"}).status_code == 200
    define(running, "/api/deployments/held/a")
    listed = client.get("/api/deployments").json()
    assert [one["name"] for one in listed["deployments"]] == ["held/a", "many/nightly"]
    page = client.get("/api/deployments?limit=1").json()
    assert page["next"] == "held/a"
    assert [one["name"] for one in client.get("/api/deployments?after=held/a").json()["deployments"]] == [
        "many/nightly"
    ]
    assert [one["name"] for one in client.get("/api/deployments?flow=held").json()["deployments"]] == [
        "held/a"
    ]
    assert client.post(f"{API}/pause").json()["paused"] is True
    assert client.post(f"{API}/resume").json()["paused"] is False
    assert client.delete(API).json() == {"name": "many/nightly", "deleted": True}
    assert client.get(API).status_code == 404


def test_a_run_of_a_deployment_begins_at_once(running: Running) -> None:
    """Where its flow is served; it is listed as one of the deployment, and one key makes one run."""
    define(running)
    client = running.client()
    body = {"tags": ["t"], "name": "monday", "idempotency_key": "k"}
    answer = client.post(f"{API}/runs", json=body)
    assert answer.status_code == 201
    run = answer.json()
    assert answer.headers["location"] == f"/api/runs/{run['run_id']}"
    assert (run["deployment"], run["name"], run["tags"], run["origins"]) == (
        "many/nightly",
        "monday",
        ["t"],
        ["unknown"],
    )
    assert client.post(f"{API}/runs", json=body).json()["run_id"] == run["run_id"]
    assert running.ended(run["run_id"]) == "COMPLETED"
    listed = client.get("/api/runs?deployment=many/nightly").json()["runs"]
    assert [one["run_id"] for one in listed] == [run["run_id"]]
    assert client.get("/api/runs?deployment=many/other").json()["runs"] == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/deployments/nothing/a", {}, 404),
        ("/api/deployments/many", {}, 404),
        ("/api/deployments/many/", {}, 422),
        (API, {"concurrency_limit": 0}, 422),
        (API, {"concurrency_limit": -1}, 422),
        (API, {"concurrency_limit": True}, 400),
        (API, {"concurrency_limit": 1, "collision_strategy": "MAYBE"}, 422),
        (API, {"collision_strategy": "ENQUEUE"}, 422),
        (API, {"parameters": {"nothing": 1}}, 422),
        (API, {"parameters": []}, 400),
        (API, {"tags": "x"}, 400),
        (API, {"tags": [""]}, 422),
        (API, {"paused": "yes"}, 400),
        (API, {"cron": "* * * * *"}, 400),
    ],
)
def test_bad_definitions_are_refused(running: Running, path: str, body: dict[str, Any], status: int) -> None:
    """With one line that says what is wrong; nothing is stored."""
    if path == API:
        body.setdefault("parameters", {"count": 3})
    answer = running.client().put(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
    assert running.client().get("/api/deployments").json()["deployments"] == []


def test_bad_requests_for_runs_are_refused(running: Running) -> None:
    """Wrong arguments, one that is paused, one that there is not."""
    define(running, "/api/deployments/post/a")
    client = running.client()
    url = "/api/deployments/post/a/runs"
    for parameters in ({"to": 5}, {"nobody": 1}):
        refused = client.post(url, json={"parameters": parameters})
        assert (refused.status_code, refused.json()["error"]["type"]) == (422, "ParameterError")
    assert client.post(url, json={"parameter": {}}).status_code == 400
    client.post("/api/deployments/post/a/pause")
    refused = client.post(url, json={})
    assert (refused.status_code, refused.json()["error"]["type"]) == (409, "DeploymentPausedError")
    assert client.post("/api/deployments/post/b/runs", json={}).status_code == 404
    assert client.post("/api/deployments/post/b/pause").status_code == 404
    assert client.get("/api/runs").json()["runs"] == []


def test_a_run_of_a_flow_that_is_not_served_waits(running: Running) -> None:
    """The deployment is known to the journal; who asks is told that the run is pending."""
    from agentflow import flow  # noqa: PLC0415 - a flow that this server does not have

    @flow
    def elsewhere(number: int) -> int:
        return number

    elsewhere.to_deployment("a").apply(running.journal, origins=(Origin.PERSON,))
    answer = running.client().post("/api/deployments/elsewhere/a/runs", json={"parameters": {"number": 1}})
    assert (answer.status_code, answer.json()["state"]) == (201, "PENDING")
    page = running.person().open("/deployments/elsewhere/a").text
    assert "This server does not serve elsewhere" in page


def test_a_person_asks_for_a_run_with_a_plain_form(running: Running) -> None:
    """The form has the deployment's arguments; and a person is behind the run."""
    person = running.person()
    assert "No deployments yet" in person.open("/deployments").text
    define(running, "/api/deployments/post/a", parameters={"to": "carol"})
    assert "post/a" in person.open("/deployments").text
    page = person.open("/deployments/post/a").text
    assert 'value="carol"' in page
    assert "Nobody has asked for a run yet" in page
    started = person.submit("/deployments/post/a", **{"field.to": "dave", "field.text": "hello"})
    assert started.status_code == 303
    run = running.journal.get_run(started.headers["location"].rpartition("/")[2])
    assert run is not None
    assert run.origins == (Origin.PERSON, Origin.UNKNOWN)
    assert run.deployment == "post/a"
    assert run.id in person.open("/deployments/post/a").text
    assert "/deployments/post/a" in person.open(f"/runs/{run.id}").text
    assert "post/a" in person.open("/?deployment=post/a").text


def test_a_person_pauses_and_deletes_with_plain_forms(running: Running) -> None:
    """A paused one says so, and refuses; a deleted one leaves its runs."""
    define(running)
    person = running.person()
    person.open(PAGE)
    assert person.submit(f"{PAGE}/pause").headers["location"] == PAGE
    assert "It takes no new runs" in person.open(PAGE).text
    refused = person.submit(PAGE)
    assert refused.status_code == 409
    assert "is paused and takes no new runs" in refused.text
    assert person.submit(f"{PAGE}/resume").status_code == 303
    started = person.submit(PAGE, **{"field.count": "2"})
    assert started.status_code == 303
    assert person.submit(f"{PAGE}/delete").headers["location"] == "/deployments"
    assert person.open(PAGE).status_code == 404
    run_id = started.headers["location"].rpartition("/")[2]
    assert running.ended(run_id) == "COMPLETED"


def test_a_limited_deployment_says_who_waits(running: Running) -> None:
    """Beyond the limit a run awaits its slot; the page of the limit says of what it is one."""
    define(running, "/api/deployments/held/a", concurrency_limit=1)
    client = running.client()
    first, second = (client.post("/api/deployments/held/a/runs", json={}).json()["run_id"] for _ in range(2))
    deadline = time.monotonic() + PATIENCE
    while (waiting := client.get(f"/api/runs/{second}").json())["state_name"] != "AwaitingConcurrencySlot":
        assert time.monotonic() < deadline, waiting  # the first one takes its slot when its life begins
    assert waiting["state"] == StateType.PENDING
    assert "each run of the deployment held/a" in running.person().open("/limits/deployment:held/a").text
    flows_under_test.gate.set()
    assert (running.ended(first), running.ended(second)) == ("COMPLETED", "COMPLETED")
