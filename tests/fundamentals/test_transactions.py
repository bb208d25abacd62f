"""Transactions: steps that hold together, or are undone together, in reverse order."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from agentflow import (
    INPUTS,
    NotDone,
    flow,
    idempotency_key,
    request_input,
    sleep,
    task,
    transaction,
    wait_for_event,
)
from agentflow.engine import transaction_hooks
from agentflow.errors import (
    ConfigurationError,
    DefinitionError,
    MissingContextError,
    RunCancelled,
    TaskTimeoutError,
    UsageError,
)
from agentflow.explaining import history_view
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import CacheFilter, RunFilter
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict, WaitKind
from agentflow.transactions import (
    CommitMode,
    IsolationLevel,
    Transaction,
    TransactionState,
    atransaction,
    get_transaction,
)
from tests.fundamentals.lives import (
    Death,
    answer,
    die,
    last_run,
    log_of,
    memory,
    open_wait,
    options,
    resume,
    rows,
    start,
    value_of,
)


def said(log: list[str], word: str) -> Any:
    """A hook that notes a word."""

    def hook(txn: Transaction) -> None:
        del txn
        log.append(word)

    hook.__qualname__ = word
    return hook


def step(log: list[str], name: str, **options: Any) -> Any:
    """A task of that name that notes its commit and its rollback."""

    @task(name=name, on_commit=[said(log, name)], on_rollback=[said(log, f"undo {name}")], **options)
    def run() -> str:
        return name

    return run


# -- when hooks run


def test_hooks_run_at_the_end_of_the_outermost_block() -> None:
    """A transaction commits with the one around it; hooks follow the order of the steps."""
    log: list[str] = []
    a, b, after = step(log, "a"), step(log, "b"), step(log, "after")

    @flow
    def run() -> list[str]:
        with transaction() as outer:
            a()
            with transaction() as inner:
                b()
            assert inner.state is TransactionState.STAGED
            after()
            assert (log, outer.state) == ([], TransactionState.ACTIVE)
        assert (inner.state, outer.state) == (TransactionState.COMMITTED, TransactionState.COMMITTED)
        return log

    assert value_of(run) == ["a", "b", "after"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_isolation_that_there_is_no_lock_for_is_refused(colour: str) -> None:
    """Where the block is written; what every transaction is anyway may be said."""
    wrong: Any = IsolationLevel.SERIALIZABLE

    @flow
    def run() -> TransactionState:
        with (
            pytest.raises(ConfigurationError, match="concurrency"),
            transaction("key", isolation_level=wrong),
        ):
            raise AssertionError
        with transaction("key", isolation_level=IsolationLevel.READ_COMMITTED) as opened:
            pass
        return opened.state

    @flow
    async def run_async() -> TransactionState:
        with pytest.raises(ConfigurationError, match="concurrency"):
            async with atransaction("key", isolation_level=wrong):
                raise AssertionError
        async with atransaction("key", isolation_level=IsolationLevel.READ_COMMITTED) as opened:
            pass
        return opened.state

    assert value_of(run if colour == "sync" else run_async) is TransactionState.COMMITTED


def test_an_error_rolls_back_in_reverse_order() -> None:
    """Hooks of what has happened run backwards; those of the step that failed do not; the error goes on."""
    log: list[str] = []
    a = step(log, "a")

    @task(on_rollback=[said(log, "undo b1"), said(log, "undo b2")])
    def b() -> None:
        return

    @task(on_rollback=[said(log, "undo the failing one")])
    def fails() -> None:
        message = "no"
        raise ValueError(message)

    states: list[Transaction] = []

    @flow
    def run() -> None:
        with transaction() as txn:
            states.append(txn)
            a()
            b()
            fails()

    with pytest.raises(ValueError, match="no"):
        value_of(run)
    assert log == ["undo b2", "undo b1", "undo a"]
    assert states[0].is_rolled_back()


def test_an_async_flow_has_the_same_block() -> None:
    """``async with``: gathered steps, async hooks; and ``with``, too."""
    log: list[str] = []

    @task
    async def book(what: str) -> str:
        await asyncio.sleep(0)
        return what

    @book.on_rollback
    async def undo(txn: Transaction) -> None:
        await asyncio.sleep(0)
        log.append(f"undo for {txn.get('customer')}")

    @flow
    async def run(block: str) -> None:
        if block == "async":
            async with transaction() as txn:
                txn.set("customer", "ann")
                await asyncio.gather(book("hotel"), book("car"))
                raise ValueError(block)
        with transaction() as txn:
            txn.set("customer", "bob")
            await book("hotel")
            raise ValueError(block)

    for block in ("async", "sync"):
        with pytest.raises(ValueError, match=block):
            value_of(run, block)
    assert log == ["undo for ann", "undo for ann", "undo for bob"]


@pytest.mark.parametrize("how", ["submit", "map", "nested"])
def test_every_way_to_call_a_step_counts(how: str) -> None:
    """Submitted, mapped, and called inside of another step."""
    log: list[str] = []

    @task
    def book(what: str) -> str:
        return what

    @book.on_rollback
    def undo(txn: Transaction) -> None:
        log.append(txn.name)

    @task
    def package() -> None:
        book("hotel")
        book("car")

    @flow
    def run() -> None:
        with transaction():
            if how == "submit":
                book.submit("hotel")
                book.submit("car").result()
            elif how == "map":
                book.map(["hotel", "car"]).wait()
            else:
                package()
            raise ValueError(how)

    with pytest.raises(ValueError, match=how):
        value_of(run)
    assert log == ["book", "book"]


def test_a_submitted_failure_that_nobody_looks_at_rolls_back() -> None:
    """The block waits for what it has submitted."""
    log: list[str] = []
    a = step(log, "a")

    @task
    def fails() -> None:
        message = "unlooked"
        raise ValueError(message)

    @flow
    def run() -> None:
        with transaction():
            a()
            fails.submit()

    with pytest.raises(ValueError, match="unlooked"):
        value_of(run)
    assert log == ["undo a"]


def test_a_hook_that_raises_is_logged_and_the_others_run() -> None:
    """Of commits and of rollbacks; the outcome stays what it is."""
    log: list[str] = []

    def broken(txn: Transaction) -> None:
        raise KeyError(txn.name)

    @task(on_commit=[broken, said(log, "told")], on_rollback=[said(log, "undone"), broken])
    def book() -> None:
        return

    @flow
    def run(fail: bool) -> str:
        with transaction():
            book()
            if fail:
                raise ValueError
        return "held"

    journal = memory()
    assert start(run, False, journal=journal).value == "held"
    assert isinstance(start(run, True, journal=journal).error, ValueError)
    assert log == ["told", "undone"]
    assert "commit book: " in log_of(journal)[0]
    assert "rollback book: " in log_of(journal, 2)[0]


def test_hooks_of_both_ends_may_have_the_same_name() -> None:
    """Lambdas, and what a factory makes, have: a commit runs no hook of a rollback, nor the other way round."""
    log: list[str] = []

    def make(word: str) -> Any:
        def hook(txn: Transaction) -> None:
            log.append(word)

        return hook

    @task(on_commit=[lambda _: log.append("confirm")], on_rollback=[lambda _: log.append("cancel")])
    def book() -> None:
        return

    @task(on_commit=[make("keep")], on_rollback=[make("drop"), make("clean")])
    def store() -> None:
        return

    @flow
    def run(fail: bool) -> None:
        with transaction():
            book()
            store()
            if fail:
                raise ValueError

    start(run, False)
    assert log == ["confirm", "keep"]
    log.clear()
    start(run, True)
    assert log == ["clean", "drop", "cancel"]


def test_a_nested_rollback_leaves_the_outer_block_alive() -> None:
    """What is caught is caught: only the inner block is undone."""
    log: list[str] = []
    a, b = step(log, "a"), step(log, "b")

    @flow
    def run() -> None:
        with transaction() as outer:
            a()
            seen: list[Transaction] = []
            try:
                with transaction() as inner:
                    seen.append(inner)
                    b()
                    raise ValueError
            except ValueError:
                assert seen[0].is_rolled_back()
                assert outer.is_active()

    value_of(run)
    assert log == ["undo b", "a"]


def test_an_eager_block_commits_at_its_own_end() -> None:
    """It is not undone with the block around it."""
    log: list[str] = []
    a, b = step(log, "a"), step(log, "b")

    @flow
    def run() -> None:
        with transaction():
            a()
            with transaction(commit_mode=CommitMode.EAGER):
                b()
            assert log == ["b"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        value_of(run)
    assert log == ["b", "undo a"]


@pytest.mark.parametrize("commits", [True, False])
def test_a_block_with_commits_off_commits_only_when_told_to(commits: bool) -> None:
    """Else it is undone at its end, without an error."""
    log: list[str] = []
    a = step(log, "a")

    @flow
    def run() -> str:
        with transaction(commit_mode=CommitMode.OFF) as txn:
            a()
            if commits:
                txn.commit()
        return txn.state

    assert value_of(run) == ("COMMITTED" if commits else "ROLLED_BACK")
    assert log == (["a"] if commits else ["undo a"])


def test_outside_of_a_block_a_step_commits_by_itself() -> None:
    """Its commit hooks run once it has ended, its rollback hooks never."""
    log: list[str] = []
    a = step(log, "a")

    @flow
    def run() -> None:
        a()
        assert log == ["a"]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        value_of(run)
    assert log == ["a"]


# -- values


def test_values_are_inherited_and_copied() -> None:
    """A step reads what the blocks around it have set; what it sets, its own hooks see, and nobody else."""
    seen: list[Any] = []

    @task
    def book() -> None:
        txn = get_transaction()
        assert txn is not None
        txn.set("id", txn.get("customer") * 2)

    @book.on_rollback
    def undo(txn: Transaction) -> None:
        seen.append((txn.get("id"), txn.get("items"), txn.get("nothing", 0), txn.state.value))

    @flow
    def run() -> None:
        assert get_transaction() is None
        with transaction("trip") as txn:
            assert get_transaction() is txn
            assert (txn.name, txn.key) == ("transaction trip", "trip")
            items = ["a"]
            txn.set("customer", "ann")
            txn.set("items", items)
            items.append("b")
            book()
            with pytest.raises(ValueError, match="id"):
                txn.get("id")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        value_of(run)
    assert seen == [("annann", ["a"], 0, "ROLLED_BACK")]


def test_a_block_is_for_flows() -> None:
    """Outside of a flow there is nothing to roll back."""
    assert get_transaction() is None
    with pytest.raises(MissingContextError), transaction():
        pass


def test_hooks_are_functions() -> None:
    """Anything else is refused at the definition, as are hooks of steps that are not recorded."""
    with pytest.raises(DefinitionError, match="on_rollback"):
        task(on_rollback=["no function"])(lambda: None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DefinitionError, match="persist_result"):
        task(on_commit=[said([], "x")], persist_result=False)(lambda: None)


# -- what later runs see


def test_a_key_that_an_earlier_run_committed_is_known() -> None:
    """`is_committed` tells so, the same in every life; a rolled back one was never there."""
    done: list[str] = []

    @flow
    def run(key: str, fail: bool) -> bool:
        with transaction(key=key) as txn:
            if not txn.is_committed():
                done.append(key)
                if fail:
                    raise ValueError
                return False
        return True

    journal = memory()
    assert isinstance(start(run, "a", True, journal=journal).error, ValueError)
    assert start(run, "a", False, journal=journal).value is False
    assert start(run, "a", False, journal=journal).value is True
    assert start(run, "b", False, journal=journal).value is False
    assert done == ["a", "a", "b"]


# -- crashes


def test_a_killed_rollback_is_completed_by_the_next_life() -> None:
    """Hooks that had finished do not run again; the recorded error is raised although the code would now end well."""
    log: list[str] = []
    deaths = [Death]
    journal = memory()

    @task
    def book(what: str) -> str:
        return what

    @book.on_rollback
    def undo(txn: Transaction) -> None:
        log.append(f"undo {txn.get('n')} for {txn.get('customer')}")
        if len(log) == 2 and deaths:
            raise deaths.pop()

    @flow
    def run() -> str:
        with transaction() as txn:
            txn.set("customer", "ann" if deaths else "somebody else")
            for number in range(3):
                with transaction() as inner:
                    inner.set("n", number)
                    book("room")
            if deaths:
                raise ValueError
            book("what the first life had not booked")
        return "booked"

    run_id = die(run, journal=journal)
    assert log == ["undo 2 for ann", "undo 1 for ann"]
    assert [row.event for row in rows(journal, name="transaction")][-1] == "rolling_back"
    outcome = resume(run, run_id, journal)
    assert isinstance(outcome.error, ValueError)
    assert log == ["undo 2 for ann", "undo 1 for ann", "undo 1 for ann", "undo 0 for ann"]
    assert len(rows(journal, "completed", name="book")) == 3
    told = {group["reason"] for group in history_view(journal, only_run(journal))["explanation"]["groups"]}
    assert "its rollback had not ended" in told
    assert "recorded with other arguments" not in told


def only_run(journal: MemoryJournal) -> Run:
    """The one run of the journal."""
    (run,) = journal.list_runs(RunFilter())
    return run


def test_a_hook_that_the_code_does_not_have_any_more_is_missed_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails as a step, is logged, and the others run."""
    journal = memory()
    log: list[str] = []

    def define(*, hook: bool) -> Any:
        @task(name="gone" if hook else "other")
        def book() -> None:
            return

        if hook:

            @book.on_rollback
            def undo_of_old_code(txn: Transaction) -> None:
                raise Death

        rest = step(log, "a")

        @flow(name="trip")
        def run() -> None:
            with transaction():
                rest()
                book()
                raise ValueError

        return run

    run_id = die(define(hook=True), journal=journal)
    monkeypatch.setattr(transaction_hooks, "HOOKS", {})  # as in another process, which never had the hook
    outcome = resume(define(hook=False), run_id, journal)
    assert isinstance(outcome.error, ValueError)
    assert log == ["undo a"]
    assert "undo_of_old_code" in log_of(journal)[0]


def test_a_retry_asks_anew_for_what_was_undone() -> None:
    """Effects in a rolled back transaction are gone; those of one that holds carry over."""
    booked: list[str] = []
    keys: list[str] = []
    failures = [ValueError]

    @task(side_effect=True)
    def book(what: str) -> str:
        booked.append(what)
        keys.append(idempotency_key())
        return what

    @book.on_rollback
    def undo(txn: Transaction) -> None:
        booked.append("undone")

    @flow(retries=1)
    def run() -> None:
        with transaction("holds"):
            book("car")
        with transaction("fails"):
            book("hotel")
            if failures:
                raise failures.pop()

    value_of(run)
    assert booked == ["car", "hotel", "undone", "hotel"]
    assert len(set(keys)) == 3


# -- side effects, people


def test_an_effect_in_a_block_is_signed_and_the_run_may_leave_memory() -> None:
    """The next life goes on in the middle of the block; a refusal rolls back what came before."""
    log: list[str] = []
    journal = memory()

    @task(side_effect=True, approval="always", on_rollback=[said(log, "undo a")])
    def a() -> None:
        log.append("a")

    @task(side_effect=True, approval="always")
    def b() -> None:
        log.append("b")

    @flow
    def run() -> None:
        with transaction():
            a()
            b()

    outcome = start(run, journal=journal, using=options(gate=True))
    assert outcome.state is StateType.PAUSED
    answer(journal, Verdict.APPROVED)
    outcome = resume(run, outcome.run_id, journal, options(gate=True))
    assert (outcome.state, log) == (StateType.PAUSED, ["a"])
    answer(journal, Verdict.DENIED)
    outcome = resume(run, outcome.run_id, journal, options(gate=True))
    assert outcome.state is StateType.FAILED
    assert log == ["a", "undo a"]


@pytest.mark.parametrize("happened", [True, False])
def test_an_effect_in_doubt_is_undone_only_if_a_person_says_that_it_happened(happened: bool) -> None:
    """A failed effect is not undone; one that nobody knows about is asked about, before anything else is undone."""
    log: list[str] = []
    journal = memory()
    a = step(log, "a")

    @task(side_effect=True, on_rollback=[said(log, "undo pay")], not_done_on=ConnectionError)
    def pay(fault: str) -> None:
        if fault == "unknown":
            raise TimeoutError
        raise NotDone

    @flow
    def run(fault: str) -> None:
        with transaction():
            a()
            pay(fault)

    assert isinstance(start(run, "not done").error, NotDone)
    assert log == ["undo a"]
    log.clear()
    outcome = start(run, "unknown", journal=journal)
    assert (outcome.state, log) == (StateType.PAUSED, [])
    assert open_wait(journal).kind is WaitKind.IN_DOUBT
    assert "transaction is being rolled back" in open_wait(journal).question["message"]
    answer(journal, Verdict.HAPPENED if happened else Verdict.FAIL)
    outcome = resume(run, outcome.run_id, journal)
    assert isinstance(outcome.error, TimeoutError)
    assert log == (["undo pay", "undo a"] if happened else ["undo a"])
    assert journal.unread_answers(1) == []


def test_a_compensation_may_be_an_effect_with_a_signature_of_its_own() -> None:
    """The rollback waits for it, and is completed by the life that has the answer."""
    log: list[str] = []
    journal = memory()

    @task(side_effect=True, approval="always")
    def refund() -> None:
        log.append("refund")

    @task(side_effect=True, approval="never")
    def pay() -> None:
        log.append("pay")

    @pay.on_rollback
    def undo(txn: Transaction) -> None:
        refund()

    @flow
    def run() -> None:
        with transaction():
            pay()
            raise ValueError

    outcome = start(run, journal=journal, using=options(gate=True))
    assert (outcome.state, log) == (StateType.PAUSED, ["pay"])
    answer(journal, Verdict.APPROVED)
    outcome = resume(run, outcome.run_id, journal, options(gate=True))
    assert isinstance(outcome.error, ValueError)
    assert log == ["pay", "refund"]


@pytest.mark.parametrize("kind", ["sleep", "event", "input"])
def test_a_durable_wait_inside_is_refused(kind: str) -> None:
    """What has happened would stay half done for as long."""
    waits: dict[str, Any] = {
        "sleep": lambda: sleep(60),
        "event": lambda: wait_for_event("e"),
        "input": lambda: request_input("?"),
    }

    @task
    def inner() -> None:
        waits[kind]().result()

    @flow
    def run() -> None:
        with transaction():
            inner()

    with pytest.raises(UsageError, match="inside transaction"):
        value_of(run)


# -- what is no outcome, and what is one


def test_a_cancelled_run_is_undone() -> None:
    """It stops at its next step, and its open blocks are rolled back first."""
    journal = memory()
    log: list[str] = []
    a = step(log, "a")

    @task
    def go_on(number: int) -> None:
        if number == 3:
            journal.request_cancel(last_run(journal), "no more")

    @flow
    def run() -> None:
        with transaction():
            a()
            for number in range(1_000_000):
                go_on(number)

    outcome = start(run, journal=journal)
    assert outcome.state is StateType.CANCELLED
    assert isinstance(outcome.error, RunCancelled)
    assert log == ["undo a"]
    assert rows(journal)[-1].event == "rolled_back"


def test_a_run_cancelled_while_it_is_out_of_memory_is_undone_by_its_next_life() -> None:
    """It waits for a signature in the middle of a block; nobody runs it, and something in it has to be undone."""
    journal = memory()
    log: list[str] = []
    a = step(log, "a")

    @task(side_effect=True, approval="always")
    def pay() -> None:
        log.append("pay")

    @flow
    def run() -> None:
        log.append("begun")
        with transaction():
            a()
            pay()

    outcome = start(run, journal=journal, using=options(gate=True))
    assert outcome.state is StateType.PAUSED
    assert journal.request_cancel(outcome.run_id, "no more").state is StateType.CANCELLING
    assert [due.id for due in journal.due_runs(0.0)] == [outcome.run_id]
    outcome = resume(run, outcome.run_id, journal, options(gate=True))
    assert outcome.state is StateType.CANCELLED
    assert log == ["begun", "begun", "undo a"]


def test_an_interrupted_run_is_not_undone() -> None:
    """Ctrl-C is no outcome: the run goes on in the middle of the block."""
    journal = memory()
    log: list[str] = []
    a = step(log, "a")
    interrupts = [KeyboardInterrupt]

    @flow
    def run() -> None:
        with transaction():
            a()
            if interrupts:
                raise interrupts.pop()

    with pytest.raises(KeyboardInterrupt):
        start(run, journal=journal)
    assert log == []
    assert resume(run, last_run(journal), journal).state is StateType.COMPLETED
    assert log == ["a"]


def test_a_cancelled_branch_rolls_its_block_back() -> None:
    """A task group that fails cancels its siblings; the block is undone although its task was cancelled."""
    log: list[str] = []

    @task
    async def book() -> None:
        await asyncio.sleep(0)

    @book.on_rollback
    async def undo(txn: Transaction) -> None:
        await asyncio.sleep(0)
        log.append("undone")

    booked = asyncio.Event()

    async def branch() -> None:
        async with transaction():
            await book()
            booked.set()
            await asyncio.Event().wait()

    async def fails() -> None:
        await booked.wait()
        raise ValueError

    @flow
    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch())
            group.create_task(fails())

    with pytest.raises(ExceptionGroup):
        value_of(run)
    assert log == ["undone"]


def test_a_timeout_rolls_back_what_its_thread_had_begun() -> None:
    """A sync task's thread is abandoned: its block is undone for it."""
    log: list[str] = []
    a = step(log, "a")

    @task(timeout_seconds=0.1)
    def slow() -> None:
        with transaction():
            a()
            threading.Event().wait(0.5)

    @flow
    def run() -> None:
        slow()

    with pytest.raises(TaskTimeoutError):
        value_of(run)
    assert log == ["undo a"]


def test_steps_under_way_end_before_anything_is_undone() -> None:
    """A gathered sibling that happens after the failure is undone, too; one that has not begun does not begin."""
    log: list[str] = []
    go = asyncio.Event()

    @task(side_effect=True)
    async def slow() -> None:
        await go.wait()
        log.append("slow")

    @slow.on_rollback
    def undo(txn: Transaction) -> None:
        log.append("undo slow")

    @task
    async def fails() -> None:
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, go.set)
        raise ZeroDivisionError

    @task(side_effect=True)
    async def later() -> None:
        log.append("later")

    async def two() -> None:
        await slow()
        await later()

    @flow
    async def run() -> None:
        async with transaction():
            await asyncio.gather(two(), fails())

    with pytest.raises(ZeroDivisionError):
        value_of(run)
    assert log == ["slow", "undo slow"]


# -- results across runs


def test_cached_results_are_visible_after_the_commit() -> None:
    """Not before, and never after a rollback."""
    journal = memory()

    @task(cache_policy=INPUTS, cache_expiration=timedelta(hours=1))
    def compute(number: int) -> int:
        return number

    @flow
    def other(number: int) -> int:
        return compute(number)

    @flow
    def run(fail: bool) -> None:
        with transaction():
            compute(1)
            compute(2)
            assert journal_entries(journal) == 0
            if fail:
                raise ValueError

    start(run, True, journal=journal)
    assert journal_entries(journal) == 0
    start(run, False, journal=journal)
    assert start(other, 2, journal=journal).tally.cached == 1


def test_results_inside_of_a_step_are_visible_once_that_has_ended() -> None:
    """And only if it ends well; also where a crash lies between the two."""
    journal = memory()
    faults: list[type[BaseException]] = [ValueError, Death]

    @task(cache_policy=INPUTS)
    def compute(number: int) -> int:
        return number

    @task
    def outer() -> None:
        compute(1)
        assert journal_entries(journal) == 0
        if faults:
            raise faults.pop(0)

    @flow
    def run() -> None:
        outer()

    assert isinstance(start(run, journal=journal).error, ValueError)
    assert journal_entries(journal) == 0
    run_id = die(run, journal=journal)
    assert journal_entries(journal) == 0
    assert resume(run, run_id, journal).tally.reused == 1
    assert journal_entries(journal) == 1


def journal_entries(journal: MemoryJournal) -> int:
    """How many results later runs may use."""
    return len(journal.cache_entries(CacheFilter()))
