"""R14: one approval covers one effect to its end, for exactly the arguments that were shown or edited."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any

import pytest
from pydantic import SecretStr

from agentflow import ApprovalDenied, NotDone, flow, task
from agentflow.approvals.decisions import decide
from agentflow.errors import DecisionRefusedError, WaitNotFoundError
from agentflow.flows import Flow
from agentflow.journal.memory import MemoryJournal
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from agentflow.model.waits import Channel, Decision, Verdict, Wait, WaitKind, binding
from agentflow.payloads.showing import as_shown
from tests.fundamentals.lives import (
    KEY,
    Clock,
    Death,
    answer,
    memory,
    open_wait,
    options,
    resume,
    rows,
    start,
)

PAID: list[Any] = []


class Client:
    """Something that only the process itself can hold."""


@pytest.fixture(autouse=True)
def _nothing_paid() -> None:
    PAID.clear()


@task(side_effect=True, approval="always")
def refund(order: str, amount: Decimal, note: str = "") -> str:
    """Give money back."""
    PAID.append((order, amount, note))
    return f"refunded {amount}"


@flow
def refunds() -> str:
    return refund("A1", Decimal("9.50"))


def asked(which: Flow[..., Any] = refunds, clock: Clock | None = None) -> tuple[MemoryJournal, str]:
    """A run that waits for a signature."""
    journal = memory()
    outcome = start(which, journal=journal, using=options(clock, gate=True))
    assert outcome.state is StateType.PAUSED
    assert open_wait(journal).kind is WaitKind.APPROVAL
    return journal, outcome.run_id


def go_on(
    journal: MemoryJournal, run_id: str, which: Flow[..., Any] = refunds, clock: Clock | None = None
) -> Any:
    return resume(which, run_id, journal, options(clock, gate=True))


def test_a_person_sees_exactly_what_will_run() -> None:
    """Tool, arguments, schema, who asked; the digest binds the signature to them."""
    journal, _ = asked()
    wait = open_wait(journal)
    assert wait.name == "refund"
    assert wait.question["arguments"] == {"order": "A1", "amount": "9.50", "note": ""}
    assert wait.question["description"] == "Give money back."
    assert wait.schema["required"] == ["order", "amount"]
    assert wait.digest == binding("refund", wait.question["arguments"])
    assert PAID == []


def test_approved_runs_once_and_consumes_the_signature() -> None:
    """A second life replays the end; the signature is spent with the start of the effect."""
    journal, run_id = asked()
    answer(journal, Verdict.APPROVED)
    assert go_on(journal, run_id).value == "refunded 9.50"
    assert [("A1", Decimal("9.50"), "")] == PAID
    (wait,) = journal.list_waits(open_only=False)
    assert wait.consumed is not None


def test_denied_raises_with_the_reason_in_every_life() -> None:
    """The flow may catch it; nothing runs."""
    lives: list[str] = []

    @flow(name="refunds")
    def caught() -> str:
        try:
            return refund("A1", Decimal(1))
        except ApprovalDenied as denied:
            lives.append(denied.reason)
            if len(lives) == 1:
                raise Death from None
            return denied.reason

    journal, run_id = asked(caught)
    answer(journal, Verdict.DENIED, reason="too much")
    with pytest.raises(Death):
        go_on(journal, run_id, caught)
    assert go_on(journal, run_id, caught).value == "too much"
    assert lives == ["too much", "too much"]
    assert PAID == []


def test_an_edit_is_validated_shown_and_executed() -> None:
    """Changed arguments are laid over the proposed ones; what is proposed and what is executed are both stored."""
    journal, run_id = asked()
    answer(journal, Verdict.APPROVED, {"amount": "5.00", "note": "half"})
    assert go_on(journal, run_id).value == "refunded 5.00"
    assert [("A1", Decimal("5.00"), "half")] == PAID
    intent = rows(journal, "intent")[0]
    assert b'"edited":true' in (intent.detail or b"")
    assert b'"amount":"5.00"' in (intent.detail or b"")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        pytest.param({"amount": ["much"]}, "amount", id="wrong type"),
        pytest.param({"order": 5}, "order", id="wrong type of another"),
        pytest.param({"to": "me"}, "no argument 'to'", id="unknown name"),
        pytest.param(["A2"], "JSON object", id="no object"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_the_question_stays_open(edit: Any, words: str) -> None:
    """Before anything runs."""
    journal, run_id = asked()
    with pytest.raises(DecisionRefusedError, match=words):
        answer(journal, Verdict.APPROVED, edit)
    assert open_wait(journal).is_open
    answer(journal, Verdict.APPROVED)
    assert go_on(journal, run_id).value == "refunded 9.50"


def test_an_edit_that_only_the_functions_own_types_refuse_is_asked_about_again() -> None:
    """JSON schema cannot say everything: nothing runs, and the next question says what was wrong."""
    journal, run_id = asked()
    answer(journal, Verdict.APPROVED, {"amount": "much"})
    assert go_on(journal, run_id).state is StateType.PAUSED
    assert "refused" in open_wait(journal).question["message"]
    assert PAID == []
    answer(journal, Verdict.APPROVED, {"amount": "7"})
    assert go_on(journal, run_id).value == "refunded 7"


def test_an_edit_leaves_what_it_does_not_touch_as_it_was() -> None:
    """Receivers, secrets, clients and extra arguments reach the effect as the objects that were passed."""
    client, seen = Client(), list[Any]()

    class Shop:
        @task(side_effect=True, approval="always")
        def pay(self, client: Client, token: SecretStr, amount: int, **extra: int) -> int:
            seen.extend([self, client, token.get_secret_value(), amount, extra])
            return amount

    shop = Shop()

    @flow
    def run() -> int:
        return shop.pay(client, SecretStr("geheim"), 5, tip=1, tax=2)

    journal, run_id = asked(run)
    shown = open_wait(journal).question["arguments"]
    assert shown == {"client": "<Client>", "token": "**********", "amount": 5, "tip": 1, "tax": 2}
    answer(journal, Verdict.APPROVED, {"amount": 3, "tip": 0})
    assert go_on(journal, run_id, run).value == 3
    assert seen == [shop, client, "geheim", 3, {"tip": 0, "tax": 2}]


def sign(journal: MemoryJournal, digest: str) -> Wait:
    """A decision that was not made through the front door."""
    decision = Decision(Verdict.APPROVED, None, channel=Channel.CODE)
    return journal.decide(open_wait(journal).id, decision, now=0.0, allowed_digest=digest)


@pytest.mark.parametrize("digest", ["", binding("refund", {"order": "A1", "amount": "1000", "note": ""})])
def test_a_signature_for_other_arguments_executes_nothing(digest: str) -> None:
    """A forged or moved decision is refused where it would be consumed."""
    journal, run_id = asked()
    sign(journal, digest)
    outcome = go_on(journal, run_id)
    assert isinstance(outcome.error, ApprovalDenied)
    assert "other arguments" in str(outcome.error)
    assert PAID == []


def test_a_decision_counts_once() -> None:
    """The second click is told who was first; verdicts of other kinds and unknown waits are refused."""
    journal, run_id = asked()
    wait_id = open_wait(journal).id
    with pytest.raises(DecisionRefusedError, match="approved or denied"):
        answer(journal, Verdict.HAPPENED)
    answer(journal, Verdict.APPROVED)
    with pytest.raises(DecisionRefusedError, match=r"already decided .approved by ann"):
        decide(journal, wait_id, Verdict.DENIED, channel=Channel.WEB)
    go_on(journal, run_id)
    with pytest.raises(DecisionRefusedError):
        decide(journal, wait_id, Verdict.APPROVED, channel=Channel.WEB)
    with pytest.raises(WaitNotFoundError):
        decide(journal, "approval-unknown", Verdict.APPROVED, channel=Channel.WEB)
    assert len(PAID) == 1


def test_a_signature_that_nobody_gave_in_time_is_a_denial() -> None:
    """After the expiry a late decision is refused, and the flow gets `ApprovalDenied`."""
    clock = Clock()
    journal, run_id = asked(clock=clock)
    wait = open_wait(journal)
    assert wait.due is not None
    clock.now = wait.due
    with pytest.raises(DecisionRefusedError, match="expired"):
        decide(journal, wait.id, Verdict.APPROVED, channel=Channel.WEB, now=clock.now)
    outcome = go_on(journal, run_id, clock=clock)
    assert isinstance(outcome.error, ApprovalDenied)
    assert outcome.error.reason == "nobody decided in time"


def test_a_signature_expires_before_its_use_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given in time, but used too late: nothing runs, in every life alike."""
    journal, run_id = asked()
    answer(journal, Verdict.APPROVED)
    due = journal.list_waits(open_only=False)[0].due or 0.0
    monkeypatch.setattr(journal, "_clock", lambda: due + 1)
    outcome = go_on(journal, run_id)
    assert isinstance(outcome.error, ApprovalDenied)
    assert "expired" in str(outcome.error)
    assert [row.event for row in rows(journal)] == ["failed"]
    assert PAID == []


class Late(MemoryJournal):
    """When an effect is about to start, its caller is cancelled, and its signature has expired."""

    def __init__(self) -> None:
        super().__init__(KEY)
        self.due = 0.0
        self.cancel: Callable[[], Any] | None = None

    def start_effect(self, number: int, epoch: int, row: StepRow, **options: Any) -> None:
        if self.cancel is not None:
            self.cancel()
            self._clock = lambda: self.due + 1
        super().start_effect(number, epoch, row, **options)


def test_a_signature_that_expires_while_the_caller_is_cancelled_is_recorded_as_expired() -> None:
    """The refusal is in the journal, and equal steps after it are found in every life."""
    journal, ticks, lives = Late(), list[int](), list[int]()

    @task(side_effect=True, approval="always")
    async def pay() -> None:
        PAID.append("paid")

    @task
    async def tick() -> int:
        ticks.append(1)
        return len(ticks)

    @task
    async def gives_up() -> bool:
        caller = asyncio.create_task(pay())
        loop, seen = asyncio.get_running_loop(), threading.Event()

        def cancel() -> None:
            loop.call_soon_threadsafe(caller.cancel)
            loop.call_soon_threadsafe(loop.call_soon, seen.set)
            seen.wait()

        journal.cancel = cancel if journal.due else None
        await asyncio.wait([caller])
        return caller.cancelled()

    @flow
    async def run() -> list[int]:
        assert await gives_up()
        found = [await tick(), await tick()]
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return found

    outcome = start(run, journal=journal, using=options(gate=True))
    assert outcome.state is StateType.PAUSED
    journal.due = open_wait(journal).due or 0.0
    answer(journal, Verdict.APPROVED)
    with pytest.raises(Death):
        go_on(journal, outcome.run_id, run)
    assert [row.event for row in rows(journal) if row.effect] == ["failed"]
    assert go_on(journal, outcome.run_id, run).value == [1, 2]
    assert len(ticks) == 2
    assert PAID == []


def test_retries_of_what_was_not_done_run_under_the_same_signature() -> None:
    """One approval covers one effect to its end, over a kill as well."""
    tries: list[int] = []

    @task(side_effect=True, approval="always", retries=3, not_done_on=KeyError)
    def pay() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise KeyError
        if len(tries) == 2:
            raise NotDone
        return "paid"

    @flow
    def run() -> str:
        return pay()

    journal, run_id = asked(run)
    answer(journal, Verdict.APPROVED)
    assert go_on(journal, run_id, run).value == "paid"
    assert len(journal.list_waits(open_only=False)) == 1


def test_unknown_closes_a_signature_and_run_again_is_a_new_one() -> None:
    """The word "run again" is itself the signature for one more start."""
    tries: list[int] = []

    @task(side_effect=True, approval="always")
    def pay() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise Death
        return "paid"

    @flow
    def run() -> str:
        return pay()

    journal, run_id = asked(run)
    answer(journal, Verdict.APPROVED)
    with pytest.raises(Death):
        go_on(journal, run_id, run)
    assert go_on(journal, run_id, run).state is StateType.PAUSED
    assert open_wait(journal).kind is WaitKind.IN_DOUBT
    answer(journal, Verdict.RUN_AGAIN)
    assert go_on(journal, run_id, run).value == "paid"
    assert all(wait.consumed is not None for wait in journal.list_waits(open_only=False))


def test_an_edited_effect_in_doubt_runs_again_with_the_edited_arguments() -> None:
    """What a person allowed is what is run again."""
    tries: list[Decimal] = []

    @task(side_effect=True, approval="always")
    def pay(token: SecretStr, amount: Decimal) -> str:
        tries.append(amount)
        if len(tries) == 1:
            raise Death
        return f"paid {amount} with {token.get_secret_value()}"

    @flow
    def run() -> str:
        return pay(SecretStr("geheim"), Decimal(5))

    journal, run_id = asked(run)
    answer(journal, Verdict.APPROVED, {"amount": "3"})
    with pytest.raises(Death):
        go_on(journal, run_id, run)
    go_on(journal, run_id, run)
    assert open_wait(journal).question["executed"]["amount"] == "3"
    answer(journal, Verdict.RUN_AGAIN)
    assert go_on(journal, run_id, run).value == "paid 3 with geheim"


def test_an_argument_without_an_order_is_shown_and_bound_alike_in_every_process() -> None:
    """A set's order differs between processes; the signature must hold all the same."""

    @task(side_effect=True, approval="always")
    def tag(names: frozenset[str]) -> list[str]:
        return sorted(names)

    names = [f"name {number}" for number in range(20)]
    lives: list[int] = []

    @flow
    def run() -> list[str]:
        lives.append(1)
        return tag(Backwards(names) if len(lives) > 1 else frozenset(names))

    journal, run_id = asked(run)
    answer(journal, Verdict.APPROVED)
    assert go_on(journal, run_id, run).value == sorted(names)


class Backwards(frozenset[str]):
    """A set as another process might see it."""

    def __iter__(self) -> Any:
        return iter(sorted(super().__iter__(), reverse=True))


def test_the_approval_of_a_sub_flows_effect_belongs_to_the_run() -> None:
    """Shown under the root, and consumed below it."""

    @flow
    def inner() -> str:
        return refund("A2", Decimal(2))

    @flow
    def outer() -> str:
        return inner()

    journal, run_id = asked(outer)
    assert open_wait(journal).run_id == run_id
    answer(journal, Verdict.APPROVED)
    assert go_on(journal, run_id, outer).value == "refunded 2"


def test_two_equal_effects_need_two_signatures() -> None:
    """A signature is bound to its step, not only to its arguments."""

    @flow
    def twice() -> list[str]:
        return [refund("A1", Decimal(1)), refund("A1", Decimal(1))]

    journal, run_id = asked(twice)
    answer(journal, Verdict.APPROVED)
    assert go_on(journal, run_id, twice).state is StateType.PAUSED
    assert len(PAID) == 1
    answer(journal, Verdict.APPROVED)
    assert go_on(journal, run_id, twice).state is StateType.COMPLETED
    assert len(PAID) == 2


SENT: list[Any] = []


@task(side_effect=True, approval="always")
def publish(text: str, page: dict[str, Any], picture: bytes, numbers: list[int]) -> int:
    """Show it to everybody."""
    SENT.append((text, page, picture, numbers))
    return len(text)


LONG = "a very long text, " * 10_000
PAGE = {"title": "News", "body": LONG}
PICTURE = b"\x89PNG\xff" * 50_000
NUMBERS = list(range(50_000))


@flow
def publishing() -> int:
    return publish(LONG, PAGE, PICTURE, NUMBERS)


def test_what_nobody_can_read_by_eye_is_shown_by_its_beginning_and_its_digest() -> None:
    """The journal stays small, other content is another signature, and what runs is what was passed."""
    SENT.clear()
    journal, run_id = asked(publishing)
    shown = open_wait(journal).question["arguments"]
    assert len(str(shown)) < 10_000
    assert shown["text"].startswith("a very long text, a very")
    assert f"... (180,000 characters in all, SHA-256 {sha256(LONG.encode()).hexdigest()})" in shown["text"]
    assert shown["page"] == {"title": "News", "body": shown["text"]}
    assert shown["picture"] == f"<250,000 bytes, SHA-256 {sha256(PICTURE).hexdigest()}>"
    assert shown["numbers"].startswith("[0,1,2,")
    answer(journal, Verdict.APPROVED)
    assert resume(publishing, run_id, journal, options(gate=True)).value == len(LONG)
    assert SENT == [(LONG, PAGE, PICTURE, NUMBERS)]
    assert sum(len(row.detail or b"") for row in rows(journal, name="publish")) < 30_000


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"page": {"title": "Other", "body": "CUT"}}, "of page only the beginning is shown"),
        ({"text": "more CUT"}, "of text only the beginning is shown"),
    ],
)
def test_what_was_cut_short_is_no_value(edit: dict[str, Any], words: str) -> None:
    """An edit that would execute a beginning is refused."""
    journal, _ = asked(publishing)
    cut = open_wait(journal).question["arguments"]["text"]
    whole = json.loads(json.dumps(edit).replace("CUT", json.dumps(cut)[1:-1]))
    with pytest.raises(DecisionRefusedError, match=words):
        answer(journal, Verdict.APPROVED, whole)
    assert open_wait(journal).is_open


def test_the_rest_can_be_edited_beside_what_was_cut_short() -> None:
    """What stays as it is shown stays the very object that was passed."""
    SENT.clear()
    journal, run_id = asked(publishing)
    asked_for = open_wait(journal).question["arguments"]
    answer(journal, Verdict.APPROVED, {**asked_for, "text": "short"})
    assert resume(publishing, run_id, journal, options(gate=True)).value == 5
    ((text, page, picture, numbers),) = SENT
    assert (text, page, picture, numbers) == ("short", PAGE, PICTURE, NUMBERS)


def test_bytes_that_are_no_text_are_shown_wherever_they_stand() -> None:
    """Inside of other values as base64."""
    assert as_shown({"data": b"\xff", "text": b"abc", "inside": {"data": b"\xff"}}) == {
        "data": f"<1 bytes, SHA-256 {sha256(bytes([255])).hexdigest()}>",
        "text": "abc",
        "inside": {"data": "_w=="},
    }
