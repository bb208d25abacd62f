"""The pages on which people decide, without JavaScript: plain forms."""

import html
import re
from dataclasses import replace
from decimal import Decimal

import pytest

from agentflow.model.waits import Verdict, Wait, WaitKind
from tests.server import flows_under_test
from tests.server.conftest import Person, Running


def decided(running: Running, wait: Wait) -> Wait:
    found = running.journal.get_wait(wait.id)
    assert found is not None
    assert found.decision is not None
    return found


def texts_of(page: str) -> dict[str, str]:
    """What a browser would submit of a page's editable fields."""
    fields: dict[str, str] = {}
    for name, value in re.findall(r'<input id="field-(\w+)"[^>]* value="([^"]*)"', page):
        fields[f"field.{name}"] = html.unescape(value)
    for name, value in re.findall(r'<textarea id="field-(\w+)"[^>]*>\n(.*?)</textarea>', page, re.DOTALL):
        fields[f"field.{name}"] = html.unescape(value).replace("\n", "\r\n")
    for name, options in re.findall(
        r'<select id="field-(\w+)".*?</?select>|<select id="field-(\w+)"(.*?)</select>', page, re.DOTALL
    ) and re.findall(r'<select id="field-(\w+)"(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', options)
        fields[f"field.{name}"] = html.unescape(chosen[1]) if chosen else ""
    return fields


def ask(running: Running, flow: str, **parameters: str) -> tuple[Wait, Person, dict[str, str]]:
    """A run that waits, a person who has opened the question, and what the form would submit untouched."""
    wait = running.asked(running.start(flow, **parameters))
    person = running.person()
    page = person.open(f"/approvals/{wait.id}")
    assert page.status_code == 200
    return wait, person, {"digest": wait.digest, **texts_of(page.text)}


def test_approving_runs_exactly_what_was_proposed(running: Running) -> None:
    """A form that was not touched gives back the very arguments: line breaks, decimals and all."""
    wait, person, fields = ask(running, "post")
    assert set(fields) == {
        "digest",
        *(f"field.{name}" for name in ("note", "to", "amount", "copies", "text", "urgent")),
    }
    answer = person.submit(f"/approvals/{wait.id}", **fields, verdict="approve")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/approvals/{wait.id}")
    assert running.ended(wait.run_id) == "COMPLETED"
    assert flows_under_test.sent == [
        {
            "to": "bob",
            "amount": Decimal("12.50"),
            "copies": 2,
            "text": "Dear Bob,\n\nhow are you?\n",
            "urgent": False,
            "title": "note 1",
        }
    ]
    assert decided(running, wait).allowed_digest == wait.digest
    page = person.open(f"/approvals/{wait.id}").text
    assert "this web inbox" in page
    assert f'href="/runs/{wait.run_id}"' in page


def test_approving_with_edits_runs_the_edited_arguments(running: Running) -> None:
    """Edited fields run as edited, the others as proposed, and the page shows what was changed."""
    wait, person, fields = ask(running, "post")
    fields |= {
        "field.to": "alice",
        "field.urgent": "true",
        "field.amount": "3.10",
        "field.note": '{"title": "other"}',
    }
    assert person.submit(f"/approvals/{wait.id}", **fields, verdict="edit").status_code == 303
    assert running.ended(wait.run_id) == "COMPLETED"
    assert flows_under_test.sent == [
        {
            "to": "alice",
            "amount": Decimal("3.10"),
            "copies": 2,
            "text": "Dear Bob,\n\nhow are you?\n",
            "urgent": True,
            "title": "other",
        }
    ]
    page = person.open(f"/approvals/{wait.id}").text
    assert "Changed by the person" in page
    assert decided(running, wait).allowed_digest != wait.digest


def test_approve_does_not_swallow_an_edit(running: Running) -> None:
    """Pressing the plain button after an edit neither runs the edit nor forgets it: the person is asked which it is."""
    wait, person, fields = ask(running, "post")
    answer = person.submit(f"/approvals/{wait.id}", **(fields | {"field.to": "alice"}), verdict="approve")
    assert answer.status_code == 422
    assert "You changed To" in answer.text
    assert 'value="alice"' in answer.text
    found = running.journal.get_wait(wait.id)
    assert found is not None
    assert found.is_open


@pytest.mark.parametrize(
    ("field", "text", "error"),
    [
        ("copies", "two", "is not a whole number"),
        ("copies", "2.5", "is not a whole number"),
        ("copies", "", "is needed"),
        ("copies", "99999999999999999999999", "cannot carry"),
        ("note", "{", "is not valid JSON"),
        ("note", '{"lines": []}', "title"),
        ("note", '{"title": "\\ud800"}', "cannot carry"),
        ("urgent", "maybe", "is not one of the choices"),
    ],
)
def test_what_does_not_fit_is_said_at_its_field(running: Running, field: str, text: str, error: str) -> None:
    """A wrong edit decides nothing; the page comes back with the person's text and the fault beside it."""
    wait, person, fields = ask(running, "post")
    answer = person.submit(
        f"/approvals/{wait.id}", **(fields | {f"field.{field}": text, "reason": "my words"}), verdict="edit"
    )
    assert answer.status_code == 422
    found = re.search(rf'id="field-{field}-error">([^<]*)<', answer.text)
    assert found is not None, answer.text
    assert error in html.unescape(found[1])
    assert texts_of(answer.text)[f"field.{field}"] in (text, "") or text == "maybe"
    assert "my words" in answer.text
    assert flows_under_test.sent == []


def test_denying_tells_the_run_why(running: Running) -> None:
    """A denied effect does not happen and the run hears the reason."""
    wait, person, fields = ask(running, "post")
    assert (
        person.submit(f"/approvals/{wait.id}", **fields, verdict="deny", reason="not today").status_code
        == 303
    )
    assert running.ended(wait.run_id) == "FAILED"
    run = running.journal.get_run(wait.run_id)
    assert run is not None
    assert "not today" in run.message
    assert flows_under_test.sent == []
    assert "not today" in person.open(f"/approvals/{wait.id}").text


def test_a_second_decision_is_told_who_was_first(running: Running) -> None:
    """A double click, or another person with the page still open, changes nothing and sees the first decision."""
    wait, person, fields = ask(running, "post")
    late = running.person()
    assert person.submit(f"/approvals/{wait.id}", **fields, verdict="approve").status_code == 303
    running.ended(wait.run_id)
    answer = late.submit(f"/approvals/{wait.id}", **fields, verdict="deny")
    assert answer.status_code == 409
    assert "already" in answer.text
    assert "this web inbox" in answer.text
    assert len(flows_under_test.sent) == 1
    assert decided(running, wait).decision == decided(running, wait).decision


def test_a_page_made_for_another_question_decides_nothing(running: Running) -> None:
    """What is signed is what was on the page: its digest comes with the form."""
    wait, person, fields = ask(running, "post")
    answer = person.submit(f"/approvals/{wait.id}", **(fields | {"digest": "0" * 64}), verdict="approve")
    assert answer.status_code == 409
    found = running.journal.get_wait(wait.id)
    assert found is not None
    assert found.is_open


def test_the_question_of_a_cancelled_run_is_closed(running: Running) -> None:
    """When the run has ended, its question leaves the inbox and its page says so."""
    wait, person, fields = ask(running, "post")
    assert person.submit(f"/runs/{wait.run_id}/cancel").status_code == 303
    assert running.ended(wait.run_id) == "CANCELLED"
    assert wait.id not in person.open("/approvals").text
    page = person.open(f"/approvals/{wait.id}").text
    assert "nothing left to decide" in page
    assert person.submit(f"/approvals/{wait.id}", **fields, verdict="approve").status_code == 409
    assert flows_under_test.sent == []


def test_an_input_is_answered_by_a_form_of_its_schema(running: Running) -> None:
    """A question's model becomes fields; their limits are checked, an empty optional one is none."""
    wait, person, fields = ask(running, "survey")
    assert {"field.mood", "field.score", "field.remark"} <= set(fields)
    wrong = person.submit(
        f"/approvals/{wait.id}", **(fields | {"field.mood": '"good"', "field.score": "11"}), verdict="answer"
    )
    assert wrong.status_code == 422
    assert "greater than the maximum" in wrong.text
    right = person.submit(
        f"/approvals/{wait.id}", **(fields | {"field.mood": '"good"', "field.score": "9"}), verdict="answer"
    )
    assert right.status_code == 303
    assert running.ended(wait.run_id) == "COMPLETED"
    shown = running.client().get(f"/api/runs/{wait.run_id}").json()
    assert shown["result"] == {"mood": "good", "score": 9, "remark": None}


def test_a_single_value_is_a_single_field(running: Running) -> None:
    """A question for a number is one field."""
    wait, person, fields = ask(running, "number")
    assert person.submit(f"/approvals/{wait.id}", **fields, verdict="answer").status_code == 422
    assert (
        person.submit(
            f"/approvals/{wait.id}", **(fields | {"field.answer": "41"}), verdict="answer"
        ).status_code
        == 303
    )
    assert running.ended(wait.run_id) == "COMPLETED"
    assert running.client().get(f"/api/runs/{wait.run_id}").json()["result"] == 42


@pytest.mark.parametrize(
    ("button", "more", "state", "charges"),
    [
        ("happened", {"result": "receipt 5"}, "COMPLETED", 1),
        ("happened", {"result": '"receipt 6"', "result_kind": "json"}, "COMPLETED", 1),
        ("fail", {}, "FAILED", 1),
    ],
)
def test_an_effect_in_doubt_is_settled(
    running: Running, button: str, more: dict[str, str], state: str, charges: int
) -> None:
    """A person who sees the evidence says what became of an effect; it is not repeated by itself."""
    first = running.asked(running.start("bill"))
    person = running.person()
    person.open(f"/approvals/{first.id}")
    assert person.submit(f"/approvals/{first.id}", digest=first.digest, verdict="approve").status_code == 303
    doubt = in_doubt(running, first)
    page = person.open(f"/approvals/{doubt.id}").text
    assert "the bank did not answer" in page
    answer = person.submit(f"/approvals/{doubt.id}", digest=doubt.digest, verdict=button, **more)
    assert answer.status_code == 303
    assert running.ended(first.run_id) == state
    assert len(flows_under_test.charges) == charges


def in_doubt(running: Running, first: Wait) -> Wait:
    """The question that follows the signature: what became of the effect."""
    with running.client().stream("GET", f"/api/events/stream?run={first.run_id}") as answer:
        for line in answer.iter_lines():
            if line.startswith("data:") and '"in_doubt"' in line:
                break
    return running.asked(first.run_id)


def test_an_effect_in_doubt_is_run_again_on_a_persons_word(running: Running) -> None:
    """The button "Run it again" is a signature of its own: the effect runs a second time, and is in doubt again."""
    first = running.asked(running.start("bill"))
    person = running.person()
    person.open(f"/approvals/{first.id}")
    person.submit(f"/approvals/{first.id}", digest=first.digest, verdict="approve")
    doubt = in_doubt(running, first)
    wrong = person.submit(
        f"/approvals/{doubt.id}", digest=doubt.digest, verdict="happened", result="{", result_kind="json"
    )
    assert wrong.status_code == 422
    assert "is not valid JSON" in wrong.text
    assert (
        person.submit(f"/approvals/{doubt.id}", digest=doubt.digest, verdict="run_again").status_code == 303
    )
    running.worker.await_run(first.run_id, 20)
    assert len(flows_under_test.charges) == 2
    assert decided(running, doubt).decision.verdict is Verdict.RUN_AGAIN  # type: ignore[union-attr]


@pytest.mark.parametrize("button", ["", "approved", "happened", "continue"])
def test_only_the_buttons_of_the_page_count(running: Running, button: str) -> None:
    """A form with another verdict than the page offers decides nothing."""
    wait, person, fields = ask(running, "post")
    answer = person.submit(f"/approvals/{wait.id}", **fields, verdict=button)
    assert answer.status_code == 422
    assert "press one of the buttons" in answer.text


def test_hidden_characters_are_shown(running: Running) -> None:
    """Characters that turn or hide text are shown as escapes; approved untouched, they run as they were."""
    text = "pay \u202e001 RUE\u202c now"
    wait, person, fields = ask(running, "post", text=text)
    page = person.open(f"/approvals/{wait.id}").text
    assert "\u202e" not in page
    assert "cannot be seen" in page
    assert person.submit(f"/approvals/{wait.id}", **fields, verdict="approve").status_code == 303
    running.ended(wait.run_id)
    assert flows_under_test.sent[0]["text"] == text


def test_a_flow_is_started_by_a_form(running: Running) -> None:
    """The form of a flow has its parameters and defaults; wrong ones come back with the fault."""
    person = running.person()
    page = person.open("/flows/many")
    assert texts_of(page.text) == {"field.count": "10000"}
    wrong = person.submit("/flows/many", **{"field.count": "x"})
    assert wrong.status_code == 422
    assert "is not a whole number" in wrong.text
    started = person.submit("/flows/many", **{"field.count": "3"})
    assert started.status_code == 303
    run_id = started.headers["location"].removeprefix("/runs/")
    assert running.ended(run_id) == "COMPLETED"
    assert running.client().get(f"/api/runs/{run_id}").json()["origins"] == ["person"]


def test_empty_places_say_what_to_do(running: Running) -> None:
    """An empty list says how to fill it, an empty filter result how to leave it, an unknown page where to go."""
    person = running.person()
    assert "No runs yet" in person.open("/").text
    assert "No run fits this filter" in person.open("/?state=FAILED").text
    assert "Nothing waits for you" in person.open("/approvals").text
    missing = person.open("/runs/unknown")
    assert missing.status_code == 404
    assert "no run" in missing.text
    assert person.open("/approvals/unknown").status_code == 404
    assert person.open("/flows/unknown").status_code == 404
    assert person.open("/?state=NOPE").status_code == 400


def test_the_connect_page_has_the_address_that_was_called(running: Running) -> None:
    """The lines for MCP clients name the address under which this reader reaches the server."""
    page = html.unescape(running.person().open("/connect").text)
    assert f"claude mcp add --transport http agentflow {running.url}/mcp" in page
    assert f'"url": "{running.url}/mcp"' in page
    assert "agentflow mcp flows_under_test.py" in page


@pytest.mark.parametrize(("button", "verdict"), [("continue", Verdict.CONTINUE), ("fail", Verdict.FAIL)])
def test_a_divergence_shows_both_sides(running: Running, button: str, verdict: Verdict) -> None:
    """Where changed code asks for another effect, the page shows what was recorded and what is asked now."""
    waiting = running.asked(running.start("survey"))
    run = running.journal.get_run(waiting.run_id)
    assert run is not None
    question = {
        "message": "the code now asks for send, where the journal recorded another side effect",
        "asked": {"tool": "send", "arguments": {"to": "new"}},
        "recorded": {"tool": "charge", "arguments": {"amount": 4}, "end": "completed"},
    }
    wait = replace(
        waiting,
        id=f"divergence-{'0' * 16}",
        kind=WaitKind.DIVERGENCE,
        name="send",
        question=question,
        schema={},
    )
    running.journal.open_wait(run.epoch, wait)
    person = running.person()
    page = html.unescape(person.open(f"/approvals/{wait.id}").text)
    assert '{"amount": 4}' in page
    assert '{"to": "new"}' in page
    assert person.submit(f"/approvals/{wait.id}", digest=wait.digest, verdict="approve").status_code == 422
    assert person.submit(f"/approvals/{wait.id}", digest=wait.digest, verdict=button).status_code == 303
    found = decided(running, wait).decision
    assert found is not None
    assert found.verdict is verdict


def test_an_expired_question_says_so(running: Running) -> None:
    """Past its time a question can no longer be decided, and its page says that nobody did."""
    waiting = running.asked(running.start("survey"))
    run = running.journal.get_run(waiting.run_id)
    assert run is not None
    wait = replace(waiting, id=f"input-{'0' * 16}", due=waiting.opened + 0.001)
    running.journal.open_wait(run.epoch, wait)
    person = running.person()
    person.open(f"/approvals/{wait.id}")
    late = person.submit(f"/approvals/{wait.id}", digest=wait.digest, verdict="deny")
    assert late.status_code == 409
    assert "expired" in late.text or "already" in late.text
