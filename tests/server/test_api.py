"""The REST API over a real socket."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.faults import Measured
from tests.server.conftest import Running


def test_a_run_is_started_shown_and_listed(running: Running) -> None:
    """A program starts a run by its flow's name and reads its result, its steps and its log."""
    client = running.client()
    run_id = running.start("echo", value={"a": [1, None, "ü"]})
    assert running.ended(run_id) == "COMPLETED"
    shown = client.get(f"/api/runs/{run_id}").json()
    assert shown["result"] == {"a": [1, None, "ü"]}
    assert shown["waiting_for"] == []
    listed = client.get("/api/runs", params={"flow": "echo", "state": "completed"}).json()
    assert [run["run_id"] for run in listed["runs"]] == [run_id]
    assert client.get("/api/runs", params={"state": "failed"}).json() == {"runs": [], "next": None}


def test_a_program_is_an_unknown_origin_and_a_page_a_person(running: Running) -> None:
    """Who starts a run is found out by the server, not said by the caller."""
    as_program = running.client().post("/api/runs", json={"flow": "echo", "origin": "person"}).json()
    as_person = running.person().call("/api/runs", {"flow": "echo"}).json()
    assert as_program["origins"] == ["unknown"]
    assert as_person["origins"] == ["person"]


def test_flows_are_described(running: Running) -> None:
    """The list of flows has names, descriptions and the schema of the parameters."""
    flows = {flow["name"]: flow for flow in running.client().get("/api/flows").json()["flows"]}
    assert flows["post"]["description"] == "Posts a note."
    assert flows["post"]["parameters_schema"]["properties"]["to"]["default"] == "bob"


def test_steps_come_in_pages_and_values_one_by_one(running: Running) -> None:
    """The list of steps has no values; a single step has its value, and all pages together have every step."""
    run_id = running.start("many", count=7)
    running.ended(run_id)
    client = running.client()
    seen: list[int] = []
    after: int | None = 0
    page: dict[str, Any] = {}
    while after is not None:
        page = client.get(f"/api/runs/{run_id}/steps", params={"after": after, "limit": 3}).json()
        seen += [step["seq"] for step in page["steps"]]
        assert all("value" not in step for step in page["steps"])
        after = page["next"]
    assert len(seen) == page["total"] == 7
    assert client.get(f"/api/runs/{run_id}/steps/{seen[3]}").json()["value"] == 6
    columns = client.get(f"/api/runs/{run_id}/steps", params={"shape": "columns"}).json()["columns"]
    assert columns["seq"] == seen
    assert columns["words"]["name"] == ["double"]


def test_runs_come_in_pages(running: Running) -> None:
    """The list of runs, newest first, goes on where the page before ended."""
    ids = [running.start("echo", value=number) for number in range(5)]
    client = running.client()
    seen: list[str] = []
    before = ""
    while True:
        page = client.get(
            "/api/runs", params={"limit": 2, "before": before} if before else {"limit": 2}
        ).json()
        seen += [run["run_id"] for run in page["runs"]]
        if page["next"] is None:
            break
        before = str(page["next"])
    assert seen == ids[::-1]


def test_an_event_reaches_the_run_that_waits_for_it(running: Running) -> None:
    """An event of a program is delivered as it is, tags of the codec included, and its sender counts as unknown."""
    run_id = running.start("parcel")
    payload = {"$": "pickle", "v": "gASVAAAA", "at": "the door"}
    sent = running.client().post(f"/api/runs/{run_id}/events", json={"name": "delivered", "payload": payload})
    assert sent.status_code == 202
    assert running.ended(run_id) == "COMPLETED"
    shown = running.client().get(f"/api/runs/{run_id}").json()
    assert shown["result"] == payload
    assert "unknown" in shown["origins"]


def test_a_waiting_run_is_cancelled(running: Running) -> None:
    """Cancelling ends a run that waits, and the run says who asked; a second time there is nothing to cancel."""
    run_id = running.start("survey")
    running.asked(run_id)
    client = running.client()
    assert client.post(f"/api/runs/{run_id}/cancel", json={"reason": "not needed"}).status_code == 202
    assert running.ended(run_id) == "CANCELLED"
    assert client.get("/api/approvals").json() == {"approvals": []}
    again = client.post(f"/api/runs/{run_id}/cancel", json={})
    assert (again.status_code, again.json()["error"]["type"]) == (409, "RunFinishedError")


def test_an_approval_is_shown_with_all_it_binds(running: Running) -> None:
    """An approval lists the tool, the exact arguments, their digest and who asked."""
    wait = running.asked(running.start("post"))
    listed = running.client().get("/api/approvals").json()["approvals"]
    assert [item["id"] for item in listed] == [wait.id]
    shown = running.client().get(f"/api/approvals/{wait.id}").json()
    assert shown["name"] == "send"
    assert shown["arguments"]["amount"] == "12.50"
    assert shown["question"]["description"] == "Sends a note to somebody."
    assert shown["question"]["origins"] == ["unknown"]
    assert shown["digest"].startswith(shown["code"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/runs/nothing-here", 404),
        ("GET", "/api/runs/..", 404),
        ("GET", "/api/runs/%2e%2e%2fsecrets", 404),
        ("GET", "/api/runs/a%00b", 404),
        ("GET", "/api/runs/nothing-here/steps", 404),
        ("GET", "/api/runs/nothing-here/logs", 404),
        ("GET", "/api/approvals/nothing-here", 404),
        ("GET", "/api/events/stream?run=nothing-here", 404),
        ("GET", "/api/nothing", 404),
        ("GET", "/api/runs/", 404),
        ("GET", "/api/runs?state=ASLEEP", 400),
        ("GET", "/api/runs?limit=-1", 400),
        ("GET", "/api/runs?before=9999999999999999999999999", 400),
        ("GET", "/api/approvals?status=all", 400),
        ("GET", "/api/events/stream?after=x", 400),
        ("POST", "/api/flows", 405),
        ("DELETE", "/api/runs", 405),
        ("GET", "/api/approvals/x/decide", 405),
    ],
)
def test_what_cannot_be_is_refused_in_json(running: Running, method: str, path: str, status: int) -> None:
    """Unknown ids, odd paths, wrong filters and methods get a 4xx with a type and a message."""
    answer = running.client().request(method, path)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"]
    assert error["message"]
    assert "Traceback" not in answer.text


BODIES: list[tuple[bytes, str, int]] = [
    (b"{", "application/json", 400),
    (b"[]", "application/json", 400),
    (b'{"flow": "echo", "parameters": []}', "application/json", 400),
    (b'{"flow": 5}', "application/json", 400),
    (b"{}", "application/json", 400),
    (b'{"flow": "nope"}', "application/json", 404),
    (b'{"flow": "echo"}', "text/plain", 415),
    (b'{"flow": "echo"}', "", 415),
    (b'{"flow": "echo", "parameters": {"value": NaN}}', "application/json", 400),
    (b'{"flow": "echo", "parameters": {"value": "\\ud800"}}', "application/json", 400),
    (
        b'{"flow": "echo", "parameters": {"value": ' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
        "application/json",
        400,
    ),
    (b'{"flow": "echo", "parameters": {"other": 1}}', "application/json", 422),
    (b'{"flow": "many", "parameters": {"count": "x"}}', "application/json", 422),
    (b" " * (2 * 1024 * 1024 + 1), "application/json", 413),
]


@pytest.mark.fault(15, "bodies that are no request: 4xx, never 500")
@pytest.mark.parametrize(
    ("body", "kind", "status"), BODIES, ids=[f"{body[:48]!r}-{kind}" for body, kind, _ in BODIES]
)
def test_bodies_that_do_not_fit_are_refused(
    running: Running, body: bytes, kind: str, status: int, fault: Measured
) -> None:
    """A body that is no JSON object, of another type, too big or with wrong parameters starts nothing."""
    client = running.client()
    answer = client.post("/api/runs", content=body, headers={"content-type": kind} if kind else {})
    fault(
        1, lost=0, corrupt=int(answer.status_code >= 500), doubled=len(client.get("/api/runs").json()["runs"])
    )
    assert answer.status_code == status, answer.text[:300]
    assert "Traceback" not in answer.text
    assert client.get("/api/runs").json()["runs"] == []


def test_a_chunked_body_is_bounded_too(running: Running) -> None:
    """A body without a length is read no further than the limit."""

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    answer = running.client().post(
        "/api/runs", content=endless(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


def test_strange_texts_pass_through(running: Running) -> None:
    """NUL, emoji and a megabyte of text arrive as they were sent."""
    for value in ("a\0b", "\U0001f600 \u202e", "x" * 1_000_000):
        run_id = running.start("echo", value=value)
        running.ended(run_id)
        assert running.client().get(f"/api/runs/{run_id}").json()["result"] == value


# -- the event stream


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Any, str]]:
    """(event, data, id) of a stream."""
    name, data, position = "", "", ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data = line[6:]
        elif line.startswith("id: "):
            position = line[4:]
        elif not line and name:
            yield name, json.loads(data), position
            name = data = ""


def read_until_end(client: httpx2.Client, run_id: str, **headers: str) -> list[tuple[str, Any, str]]:
    with client.stream("GET", f"/api/events/stream?run={run_id}", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events_of(answer.iter_lines()))


def test_a_stream_tells_of_a_run_until_its_end(running: Running) -> None:
    """Steps, log lines, the wait and the end reach a client that watches while a person decides."""
    run_id = running.start("post")
    wait = running.asked(run_id)
    person = running.person()
    told: list[str] = []
    last: Any = None
    with running.client().stream("GET", f"/api/events/stream?run={run_id}") as answer:
        for name, data, _ in events_of(answer.iter_lines()):
            if name == "run" and data["waits"]:
                assert data["waits"][0]["id"] == wait.id
                if "decided" not in told:
                    assert (
                        person.call(f"/api/approvals/{wait.id}/decide", {"verdict": "approved"}).status_code
                        == 200
                    )
                    told.append("decided")
            told.append(name)
            last = data
    assert {"steps", "logs", "run", "end"} <= set(told)
    assert told[-1] == "end"
    assert last == {"state": "COMPLETED"}


def test_a_stream_goes_on_where_it_was(running: Running) -> None:
    """With Last-Event-ID only the steps and lines after it are sent."""
    run_id = running.start("many", count=50)
    running.ended(run_id)
    client = running.client()
    whole = read_until_end(client, run_id)
    assert sum(len(data["seq"]) for name, data, _ in whole if name == "steps") == 50
    last = [position for _, _, position in whole if position][-1]
    rest = read_until_end(client, run_id, **{"last-event-id": last})
    assert [name for name, _, _ in rest if name in ("steps", "logs")] == []
    assert rest[-1][0] == "end"
    row, _, log = last.partition(".")
    rest = read_until_end(client, run_id, **{"last-event-id": f"{int(row) - 5}.{log}"})
    assert sum(len(data["seq"]) for name, data, _ in rest if name == "steps") == 5


def test_a_reader_that_stands_still_costs_nothing(running: Running) -> None:
    """Streams that nobody reads hold up nobody; the last state reaches whoever reads again."""
    run_id = running.start("parcel")
    clients = [running.client() for _ in range(20)]
    stalled = [client.stream("GET", f"/api/events/stream?run={run_id}") for client in clients]
    answers = [stream.__enter__() for stream in stalled]
    try:
        sent = running.client().post(f"/api/runs/{run_id}/events", json={"name": "delivered", "payload": 1})
        assert sent.status_code == 202
        assert running.ended(run_id) == "COMPLETED"
        assert list(events_of(answers[7].iter_lines()))[-1][:2] == ("end", {"state": "COMPLETED"})
    finally:
        for stream in stalled:
            stream.__exit__(None, None, None)


def test_the_lists_hear_that_something_changed(running: Running) -> None:
    """The stream without a run tells how many questions wait, now and after each change."""
    with running.client().stream("GET", "/api/events/stream") as answer:
        events = events_of(answer.iter_lines())
        assert next(events)[:2] == ("changed", {"open": 0})
        running.start("survey")
        assert any(data == {"open": 1} for _, data, _ in events)
