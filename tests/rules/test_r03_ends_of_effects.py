"""R3: an effect is done, not done, or unknown - and unknown is never repeated without a person's word."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentflow import NotDone, TaskTimeoutError, flow, idempotency_key, task
from agentflow.errors import CodecError, DefinitionError, InDoubtError
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict, WaitKind
from tests.fundamentals.lives import (
    Death,
    answer,
    die,
    memory,
    open_wait,
    resume,
    rows,
    start,
    value_of,
)

TRIED: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_tried() -> None:
    TRIED.clear()


def failing(first: BaseException, failures: int = 1, **policy: Any) -> Any:
    """A flow with one effect that raises `first` so many times."""

    @task(side_effect=True, **policy)
    def pay(amount: int = 5) -> str:
        TRIED.append(amount)
        if len(TRIED) <= failures:
            raise first
        return f"paid {amount}"

    @flow
    def run() -> str:
        return pay()

    return run


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"side_effect": True, "retries": 1}, "idempotent=True"),
        ({"idempotent": True}, "side_effect=True"),
        ({"not_done_on": ValueError}, "side_effect=True"),
        ({"approval": "always"}, "side_effect=True"),
        ({"side_effect": True, "persist_result": False}, "always recorded"),
    ],
)
def test_contradicting_options_are_refused_at_definition(policy: Any, words: str) -> None:
    """The message says what to add or to take away."""
    with pytest.raises(DefinitionError, match=words):
        task(**policy)(len)


def test_an_approval_rule_that_does_not_exist_is_refused_at_definition() -> None:
    """A misspelt rule must not turn up when the effect is about to run."""
    with pytest.raises(DefinitionError, match="not a rule"):
        task(side_effect=True, approval="allways")(len)


def test_done_is_replayed_and_never_run_again() -> None:
    """A recorded end is the end."""

    @task(side_effect=True)
    def pay() -> int:
        TRIED.append(1)
        return len(TRIED)

    lives: list[int] = []

    @flow
    def run() -> int:
        value = pay()
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return value

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == 1
    assert [row.event for row in rows(journal)] == ["intent", "completed"]


@pytest.mark.parametrize(
    ("error", "policy", "event", "calls"),
    [
        pytest.param(NotDone("refused"), {}, "not_done", 1, id="NotDone without retries"),
        pytest.param(
            NotDone("refused"), {"not_done_on": KeyError, "retries": 2}, "not_done", 3, id="NotDone"
        ),
        pytest.param(
            ConnectionRefusedError("no"),
            {"not_done_on": ConnectionError, "retries": 2},
            "not_done",
            3,
            id="a listed exception",
        ),
        pytest.param(
            ValueError("?"), {"not_done_on": KeyError, "retries": 2}, "unknown", 1, id="another one"
        ),
        pytest.param(ValueError("?"), {}, "unknown", 1, id="any exception"),
        pytest.param(ValueError("?"), {"idempotent": True, "retries": 2}, "unknown", 3, id="idempotent"),
    ],
)
def test_how_a_failed_effect_ends_and_whether_it_is_retried(
    error: Exception, policy: Any, event: str, calls: int
) -> None:
    """Not done may be retried, unknown may not, unless it is idempotent; the exception goes to the caller."""
    journal = memory()
    outcome = start(failing(error, 99, **policy), journal=journal)
    assert repr(outcome.error) == repr(error)
    assert rows(journal)[-1].event == event
    assert len(TRIED) == calls


def test_a_result_that_cannot_be_stored_leaves_the_effect_unknown() -> None:
    """It happened, and what came of it is lost."""

    @task(side_effect=True)
    def pay() -> Any:
        return threading.Lock()

    @flow
    def run() -> Any:
        return pay()

    journal = memory()
    assert isinstance(start(run, journal=journal).error, CodecError)
    assert rows(journal)[-1].event == "unknown"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_timeout_leaves_the_effect_unknown(colour: str) -> None:
    """Nobody knows how far it came."""
    never = threading.Event()

    @task(side_effect=True, timeout_seconds=0.02)
    def pay() -> None:
        never.wait(1)

    @task(side_effect=True, timeout_seconds=0.02)
    async def pay_async() -> None:
        await asyncio.Event().wait()

    @flow
    def run() -> None:
        pay()

    @flow
    async def run_async() -> None:
        await pay_async()

    journal = memory()
    outcome = start(run if colour == "sync" else run_async, journal=journal)
    assert isinstance(outcome.error, TaskTimeoutError)
    assert rows(journal)[-1].event == "unknown"
    never.set()


def test_no_retry_at_any_level_repeats_an_unknown_effect() -> None:
    """Tasks and flows around it retry; the effect asks a person each of them."""

    @task(side_effect=True)
    def pay() -> str:
        TRIED.append(1)
        message = "who knows"
        raise ValueError(message)

    @task(retries=3)
    def around() -> str:
        return pay()

    @flow(retries=3)
    def run() -> str:
        return around()

    journal = memory()
    outcome = start(run, journal=journal)
    assert outcome.state is StateType.PAUSED
    assert open_wait(journal).kind is WaitKind.IN_DOUBT
    assert len(TRIED) == 1


@pytest.mark.parametrize(
    ("verdict", "given", "expected", "calls"),
    [
        pytest.param(Verdict.HAPPENED, "told", "told", 1, id="it happened"),
        pytest.param(Verdict.RUN_AGAIN, None, "paid 5", 2, id="run it again"),
        pytest.param(Verdict.FAIL, None, InDoubtError, 1, id="fail"),
    ],
)
def test_an_effect_that_started_and_has_no_end_is_a_persons_to_decide(
    verdict: Verdict, given: Any, expected: Any, calls: int
) -> None:
    """With the evidence before them: what was executed, and what is known of its end."""
    journal = memory()
    run = failing(Death())
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).state is StateType.PAUSED
    wait = open_wait(journal)
    assert wait.question["executed"] == {"amount": 5}
    assert "died" in wait.question["evidence"]
    answer(journal, verdict, given)
    outcome = resume(run, run_id, journal)
    assert (type(outcome.error) if outcome.error else outcome.value) == expected
    assert len(TRIED) == calls


def test_a_doubt_can_come_again() -> None:
    """An effect that a person ran again, and that died again, is asked about again: each word counts once."""
    journal = memory()
    run = failing(Death(), 2)
    run_id = die(run, journal=journal)
    resume(run, run_id, journal)
    first = answer(journal, Verdict.RUN_AGAIN)
    with pytest.raises(Death):
        resume(run, run_id, journal)
    assert resume(run, run_id, journal).state is StateType.PAUSED
    second = answer(journal, Verdict.RUN_AGAIN)
    assert second.id != first.id
    assert resume(run, run_id, journal).value == "paid 5"
    assert len(TRIED) == 3


def test_the_result_that_a_person_gives_is_validated() -> None:
    """It has the type that the effect would have returned."""

    @task(side_effect=True)
    def pay() -> int:
        raise Death

    @flow
    def run() -> int:
        return pay()

    journal = memory()
    run_id = die(run, journal=journal)
    resume(run, run_id, journal)
    answer(journal, Verdict.HAPPENED, "12")
    assert resume(run, run_id, journal).value == 12


def test_an_idempotent_effect_in_doubt_runs_again_under_the_same_key() -> None:
    """Nobody is asked; whoever executes it sees the same idempotency key."""
    keys: list[str] = []

    @task(side_effect=True, idempotent=True, retries=1)
    def pay(amount: int) -> int:
        keys.append(idempotency_key())
        if len(keys) == 1:
            raise ValueError
        if len(keys) == 2:
            raise Death
        return amount

    @task(retries=1)
    def around() -> int:
        return pay(5)

    @flow
    def run() -> int:
        return around()

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == 5
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32


def test_idempotency_keys_differ_between_steps_arguments_and_runs() -> None:
    """Two equal calls are two effects; so are two runs."""
    keys: list[str] = []

    @task(side_effect=True, idempotent=True)
    def pay(amount: int) -> None:
        keys.append(idempotency_key())

    @flow
    def run() -> None:
        pay(1)
        pay(1)
        pay(2)

    journal = memory()
    start(run, journal=journal)
    start(run, journal=journal)
    assert len(set(keys)) == 6


def test_a_not_done_effect_runs_again_when_the_task_around_it_is_retried() -> None:
    """It certainly did not happen, so a retry may try it anew."""

    @task(side_effect=True)
    def pay() -> str:
        TRIED.append(1)
        if len(TRIED) == 1:
            message = "refused"
            raise NotDone(message)
        return "paid"

    @task(retries=1)
    def around() -> str:
        return pay()

    @flow
    def run() -> str:
        return around()

    assert value_of(run) == "paid"
    assert len(TRIED) == 2


def test_a_completed_effect_carries_over_to_the_next_attempt() -> None:
    """The retry of the task around it gets what was paid."""
    attempts: list[int] = []

    @task(side_effect=True)
    def pay() -> int:
        TRIED.append(1)
        return len(TRIED)

    @task(retries=2)
    def around() -> int:
        value = pay()
        attempts.append(value)
        if len(attempts) < 3:
            raise ValueError
        return value

    @flow
    def run() -> int:
        return around()

    assert value_of(run) == 1
    assert attempts == [1, 1, 1]
