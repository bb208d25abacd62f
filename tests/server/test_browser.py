"""The pages in a real browser: deciding, live updates, long runs, and not a word on the console."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    APIResponse,
    Browser,
    ConsoleMessage,
    Page,
    Response,
    Route,
    expect,
    sync_playwright,
)

from tests.server import flows_under_test
from tests.server.conftest import Running
from tests.server.test_approval_pages import in_doubt

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MOST_NODES = 500

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, running: Running) -> Iterator[Page]:
    """A page whose console must stay silent."""
    context = chromium.new_context(base_url=running.url, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    said: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if not message.text.startswith("Failed to load resource"):  # Chromium says so of every 4xx
            said.append(f"{message.type}: {message.text}")

    def on_answer(answer: Response) -> None:
        if answer.status >= 500:
            said.append(f"{answer.status} {answer.url}")

    page.on("console", on_console)
    page.on("response", on_answer)
    page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
    yield page
    context.close()
    assert said == []


def open_run(page: Page, run_id: str) -> None:
    """Open a run's page and wait until its modules have taken over."""
    page.goto(f"/runs/{run_id}")
    expect(page.locator("#run[data-ready=yes]")).to_be_visible()


def test_an_edited_approval_finishes_the_run(running: Running, page: Page) -> None:
    """From the inbox to the edited argument to the finished run, with the keyboard and the mouse alone."""
    run_id = running.start("post")
    running.asked(run_id)
    page.goto("/approvals")
    expect(page.locator("#open-count")).to_have_text("1")
    page.get_by_text("Look and decide").click()
    expect(page.get_by_role("button", name="Approve with edits")).to_be_disabled()
    page.get_by_label("To", exact=False).first.fill("alice")
    expect(page.get_by_role("button", name="Approve", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Approve with edits").click()
    expect(page.get_by_text("Changed by the person")).to_be_visible()
    page.get_by_role("link", name="See the run").click()
    expect(page.locator("#run-state")).to_have_text("completed")
    expect(page.locator("#outcome")).to_contain_text("sent to alice")
    assert running.ended(run_id) == "COMPLETED"
    assert [what["to"] for what in flows_under_test.sent] == ["alice"]
    assert flows_under_test.sent[0]["text"] == "Dear Bob,\n\nhow are you?\n"


def test_denying_from_the_browser(running: Running, page: Page) -> None:
    """A reason typed into the form reaches the run; nothing was sent."""
    wait = running.asked(running.start("post"))
    page.goto(f"/approvals/{wait.id}")
    page.get_by_label("Reason").fill("not today")
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("status")).to_contain_text("denied")
    expect(page.get_by_role("status")).to_contain_text("not today")
    assert running.ended(wait.run_id) == "FAILED"
    assert flows_under_test.sent == []


def test_a_fault_is_shown_and_the_text_kept(running: Running, page: Page) -> None:
    """After a refused edit the form has the person's text, the fault, and can be sent again."""
    wait = running.asked(running.start("post"))
    page.goto(f"/approvals/{wait.id}")
    page.get_by_label("Copies").fill("two")
    page.get_by_role("button", name="Approve with edits").click()
    expect(page.locator("#field-copies-error")).to_have_text("is not a whole number")
    expect(page.get_by_label("Copies")).to_have_value("two")
    page.get_by_label("Copies").fill("5")
    page.get_by_role("button", name="Approve with edits").click()
    expect(page.get_by_role("status")).to_contain_text("approved")
    assert running.ended(wait.run_id) == "COMPLETED"
    assert flows_under_test.sent[0]["copies"] == 5


def test_an_effect_in_doubt_is_settled_in_the_browser(running: Running, page: Page) -> None:
    """The evidence is on the page, and the person's word ends the doubt."""
    first = running.asked(running.start("bill"))
    page.goto(f"/approvals/{first.id}")
    page.get_by_role("button", name="Approve", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("approved")
    doubt = in_doubt(running, first)
    page.goto(f"/approvals/{doubt.id}")
    expect(page.get_by_text("the bank did not answer")).to_be_visible()
    page.get_by_label("If it happened").fill("receipt 5")
    page.get_by_role("button", name="It happened").click()
    expect(page.get_by_role("status")).to_contain_text("happened")
    assert running.ended(first.run_id) == "COMPLETED"


def test_a_decision_made_elsewhere_closes_the_open_page(running: Running, page: Page) -> None:
    """Somebody who has the page open sees at once that another was faster."""
    wait = running.asked(running.start("post"))
    page.goto(f"/approvals/{wait.id}")
    expect(page.locator("#live:not(.broken)")).to_be_visible()
    other = running.person()
    other.call(f"/api/approvals/{wait.id}/decide", {"verdict": "denied", "reason": "I was first"})
    expect(page.get_by_role("status")).to_contain_text("I was first")


def test_a_run_is_followed_live(running: Running, page: Page) -> None:
    """State, wait, steps, log and result of a run change under the eyes of who has it open."""
    run_id = running.start("parcel")
    open_run(page, run_id)
    expect(page.locator(".wait")).to_contain_text("delivered")
    expect(page.locator(".row:visible .label")).to_have_text(["read"])
    running.client().post(f"/api/runs/{run_id}/events", json={"name": "delivered", "payload": {"door": 4}})
    expect(page.locator("#run-state")).to_have_text("completed")
    expect(page.locator("#outcome")).to_contain_text('"door": 4')
    expect(page.locator(".row:visible .label")).to_have_text(["read", "wait_for_event:delivered"])
    expect(page.locator("#logs")).to_contain_text("reading 7")
    expect(page.get_by_role("button", name="Cancel run")).to_be_hidden()


def test_a_step_is_seen_while_it_executes(running: Running, page: Page) -> None:
    """A long step is named while it runs, before the journal has a row of it, and is a row of the timeline after."""
    run_id = running.start("held")
    open_run(page, run_id)
    expect(page.locator("#now .chip")).to_contain_text("hold")
    flows_under_test.gate.set()
    expect(page.locator(".row:visible .label")).to_have_text(["hold"])
    expect(page.locator("#now")).to_be_hidden()
    expect(page.locator("#run-state")).to_have_text("completed")


def test_the_list_of_runs_is_live(running: Running, page: Page) -> None:
    """New runs and questions appear in an open list, within its filter."""
    page.goto("/")
    expect(page.get_by_text("No runs yet")).to_be_visible()
    expect(page.locator("#live:not(.broken)")).to_be_visible()
    running.asked(running.start("survey"))
    expect(page.locator("#runs tbody tr")).to_have_count(1)
    expect(page.locator("#open-count")).to_have_text("1")
    expect(page.locator("#runs .state")).to_have_text("waiting")
    page.get_by_role("link", name="Failed").click()
    expect(page.get_by_text("No run fits this filter")).to_be_visible()


def test_a_run_is_started_and_cancelled(running: Running, page: Page) -> None:
    """From the form of a flow to a waiting run to its end by the cancel button."""
    page.goto("/flows")
    page.get_by_role("link", name="survey").click()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#run-state")).to_have_text("waiting")
    page.get_by_role("button", name="Cancel run").click()
    expect(page.locator("#run-state")).to_have_text("cancelled")


def test_a_step_is_opened_and_linked(running: Running, page: Page) -> None:
    """A click on a step reads what is recorded of it; the address leads back to it."""
    run_id = running.start("broken")
    running.ended(run_id)
    open_run(page, run_id)
    expect(page.locator("#outcome")).to_contain_text("<script>alert(1)</script>")
    page.locator(".row:visible .label").first.click()
    expect(page.locator("#panel")).to_contain_text('"title": "note 3"')
    assert "step=" in page.url
    page.reload()
    expect(page.locator("#panel")).to_contain_text('"title": "note 3"')
    page.locator("#panel").get_by_role("button", name="Close").click()
    expect(page.locator("#panel")).to_be_hidden()


def test_a_run_goes_on_and_is_forked(running: Running, page: Page) -> None:
    """The button has a failed run go on; its history tells step by step; a step begins another run from there."""
    run_id = running.start("call_up")
    assert running.ended(run_id) == "FAILED"
    flows_under_test.line_is_up.set()
    open_run(page, run_id)
    expect(page.locator("#history")).to_be_hidden()
    page.get_by_role("button", name="Retry run").click()
    expect(page.locator(".wait.person")).to_contain_text("notify")
    expect(page.get_by_role("button", name="Retry run")).to_be_hidden()
    page.locator("#history > summary").click()
    body = page.locator("#history-body")
    expect(body).to_contain_text("re-executed")
    expect(body).to_contain_text("reused")
    body.get_by_role("button", name="Life 1").click()
    expect(body.get_by_role("heading")).to_contain_text("Life 1")
    page.locator(".row:visible .label", has_text="ring").first.click()
    page.get_by_role("link", name="Fork from here").click()
    page.get_by_label("Number").fill("8")
    page.get_by_role("button", name="Fork").click()
    expect(page.locator("#history > summary")).to_contain_text("forked from another run")
    expect(page.locator(".wait.person")).to_contain_text("notify")
    assert run_id not in page.url


def test_ten_thousand_steps_are_no_burden(running: Running, page: Page) -> None:
    """10,000 steps open in a few times what one step needs, with few nodes, wherever one scrolls."""
    short, long = running.start("many", count=1), running.start("many", count=10_000)
    assert (running.ended(short), running.ended(long)) == ("COMPLETED", "COMPLETED")
    open_run(page, short)  # the browser's and the server's caches are warm now
    floor = seconds_to_open(page, short)
    needed = seconds_to_open(page, long)
    print(f"\n1 step: {floor:.2f} s, 10,000 steps: {needed:.2f} s")
    assert needed < 10 * floor + 1
    expect(page.locator("#step-count")).to_have_text("10000")
    assert nodes(page) < MOST_NODES
    frame = page.locator("#timeline")
    frame.evaluate("frame => { frame.scrollTop = frame.scrollHeight; }")
    expect(page.locator(".row:visible[data-seq='10000']")).to_be_visible()
    assert nodes(page) < MOST_NODES
    page.locator("#find").fill("nothing like it")
    expect(page.locator(".row:visible")).to_have_count(0)
    page.locator("#find").fill("dou")
    page.locator(".row:visible .label").first.click()
    expect(page.locator("#panel")).to_contain_text("Result")
    assert nodes(page) < MOST_NODES


def seconds_to_open(page: Page, run_id: str) -> float:
    began = time.perf_counter()
    open_run(page, run_id)
    return time.perf_counter() - began


def nodes(page: Page) -> int:
    return page.locator("*").count()


def test_no_page_breaks_its_own_policy(running: Running, page: Page) -> None:
    """Every kind of page loads under the content security policy at both widths, without a word on the console."""
    running.ended(running.start("broken"))
    flows_under_test.post.to_deployment("nightly", concurrency_limit=2, version="7").apply(running.journal)
    run_id = running.start("post")
    wait = running.asked(run_id)
    paths = [
        "/",
        "/?state=FAILED,CRASHED",
        f"/runs/{run_id}",
        f"/runs/{run_id}/fork?from=read",
        "/flows",
        "/flows/post",
        "/deployments",
        "/deployments/post/nightly",
        "/approvals",
        "/connect",
    ]
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for path in [*paths, f"/approvals/{wait.id}"]:
            page.goto(path)
            expect(page.locator("h1").first).to_be_visible()
            if "/flows" not in path and "/fork" not in path and path != "/deployments":
                expect(page.locator("#live:not(.broken)")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)


def test_deciding_works_without_scripts(running: Running, chromium: Browser) -> None:
    """With JavaScript switched off, an edit is approved all the same."""
    wait = running.asked(running.start("post"))
    with chromium.new_context(base_url=running.url, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"/approvals/{wait.id}")
        page.get_by_label("Copies").fill("3")
        page.get_by_role("button", name="Approve with edits").click()
        expect(page.get_by_role("status")).to_contain_text("approved")
    assert running.ended(wait.run_id) == "COMPLETED"
    assert flows_under_test.sent[0]["copies"] == 3


def test_a_lost_server_is_said_and_found_again(running: Running, page: Page) -> None:
    """An error of the server is shown as such: what could not be read is not shown as empty."""
    run_id = running.start("parcel")
    running.worker.await_run(run_id, 20)
    page.route(
        "**/steps?shape=columns",
        lambda route: route.fulfill(status=499, json={"error": {"message": "no journal"}}),
    )
    page.goto(f"/runs/{run_id}")
    expect(page.locator("#trouble")).to_contain_text("could not be read: no journal")


def test_the_page_of_limits_is_live(running: Running, page: Page) -> None:
    """A limit set in a form; who comes and goes appears by itself, and a run that waits for a slot says so."""
    page.goto("/limits")
    page.get_by_label("Name", exact=True).fill("flow:held")
    page.get_by_label("Slots", exact=True).fill("1")
    page.get_by_role("button", name="Set the limit").click()
    expect(page.locator("#taken")).to_have_text("0 of 1")
    expect(page.locator("main[data-ready=yes]")).to_be_visible()
    first, second = running.start("held"), running.start("held")
    expect(page.locator("#holders tbody tr")).to_have_count(1)
    expect(page.locator("#waiting tbody tr")).to_have_count(1)
    page.goto("/")
    expect(page.locator(f"tr[data-id='{second}'] .state")).to_have_text("awaiting slot")
    open_run(page, second)
    expect(page.locator("#waits")).to_contain_text("a slot of flow:held")
    flows_under_test.gate.set()
    expect(page.locator("#run-state")).to_have_text("completed")
    expect(page.locator("#waits")).to_be_hidden()
    page.goto("/limits")
    expect(page.locator("#limits tbody tr")).to_contain_text("0 of 1")
    assert running.ended(first) == "COMPLETED"


def test_a_form_on_its_way_is_not_taken_back(running: Running, page: Page) -> None:
    """The page hears of its own form's effect before it has the answer: the answer is what is shown all the same."""
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        if route.request.method == "POST":
            held.append((route, route.fetch(max_redirects=0)))
        else:
            route.continue_()

    page.route("**/limits", hold)
    page.goto("/limits")
    expect(page.locator("#live:not(.broken)")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("db")
    page.get_by_label("Slots", exact=True).fill("1")
    with page.expect_response("**/api/limits"):
        page.get_by_role("button", name="Set the limit").click(no_wait_after=True)
    with page.expect_request(
        "**/api/limits"
    ):  # by then the page has read the news, and might have begun anew
        running.client().put("/api/limits/other", json={"limit": 2}).raise_for_status()
    ((route, answer),) = held
    route.fulfill(response=answer)
    expect(page.locator("#taken")).to_have_text("0 of 1")


def test_a_run_of_a_deployment_is_asked_for_and_seen(running: Running, page: Page) -> None:
    """From the list to the form to the run; on the deployment's page its runs come and end by themselves."""
    answer = running.client().put(
        "/api/deployments/held/nightly",
        json={
            "concurrency_limit": 1,
            "version": "7",
            "description": "Holds until it is let go.",
            "tags": ["demo"],
        },
    )
    assert answer.status_code == 201
    page.goto("/deployments")
    page.get_by_role("link", name="held/nightly").click()
    expect(page.locator("#no-runs")).to_be_visible()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#run[data-ready=yes]")).to_be_visible()
    page.get_by_role("link", name="held/nightly").click()
    expect(page.locator("#live:not(.broken)")).to_be_visible()
    running.client().post("/api/deployments/held/nightly/runs", json={})
    expect(page.locator("#runs tbody tr")).to_have_count(2)
    expect(page.locator("#runs tbody tr").first.locator(".state")).to_have_text("awaiting slot")
    flows_under_test.gate.set()
    expect(page.locator("#runs tbody tr .state.completed")).to_have_count(2)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    page.get_by_role("button", name="Take new runs").click()
    expect(page.get_by_role("button", name="Start")).to_be_enabled()
