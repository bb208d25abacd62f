"""Task runners: where the bodies of submitted tasks run - threads of the flow's process, or processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from agentflow import (
    INPUTS,
    NotDone,
    StepFailed,
    TaskTimeoutError,
    flow,
    get_run_context,
    tags,
    task,
)
from agentflow.engine.active import Options
from agentflow.errors import CodecError, DefinitionError, MissingContextError, NotSent, WorkerDied
from agentflow.flows import Flow
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from agentflow.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from tests.fundamentals.bodies import (
    LANGUAGE,
    Refused,
    asks_for,
    calls_others,
    context,
    count,
    count_async,
    exits,
    hangs,
    language,
    leaves,
    locked,
    marked_pid,
    never_ends,
    own_timeout,
    refused,
    refused_with_a_lock,
    square,
    square_async,
    takes,
    talks,
    where,
)
from tests.fundamentals.lives import (
    Death,
    die,
    last_run,
    log_of,
    memory,
    options,
    resume,
    rows,
    start,
    value_of,
)


def pids_from(fifo: Path) -> list[int]:
    """The numbers that a body tells, once it has begun."""
    return [int(word) for word in fifo.read_text().split()]


def is_over(pid: int) -> bool:
    """Wait for a process to end, some seconds at most."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe through which a body tells that it has begun."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def waiting(**settings: Any) -> Options:
    """Options of a run that stays in memory."""
    return options(suspend=False, **settings)


# -- threads


def test_a_flow_says_how_many_threads_it_wants() -> None:
    """`max_workers` bounds the bodies of a run that execute at once, whatever the settings say."""
    three = threading.Event()
    lock = threading.Lock()
    running = most = 0

    @task
    def work(x: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if most > 2:
                three.set()
        three.wait(0.1)  # time for a third one to come
        with lock:
            running -= 1
        return x

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def run() -> int:
        return len([future.result() for future in work.map(range(4))])

    assert value_of(run, using=options(max_workers=8)) == 4
    assert most == 2


def test_a_flow_inside_of_a_flow_has_its_own_task_runner() -> None:
    """Where tasks run is said by the flow that submits them, not by those around it."""

    @flow
    def threads() -> int:
        return where.submit().result()

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run() -> tuple[int, int]:
        return threads(), where.submit().result()

    here, elsewhere = value_of(run, using=waiting())
    assert here == os.getpid() != elsewhere


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ThreadPoolTaskRunner(max_workers=0), id="no threads"),
        pytest.param(lambda: ProcessPoolTaskRunner(max_workers=0), id="no processes"),
        pytest.param(lambda: Flow(square.fn, task_runner=cast("Any", "processes")), id="a name"),
    ],
)
def test_a_task_runner_that_makes_no_sense_is_refused(make: Any) -> None:
    """When the flow is declared, not when it runs."""
    with pytest.raises(DefinitionError):
        make()


def test_a_task_runner_can_be_given_as_its_class() -> None:
    """The class stands for the runner with its defaults."""
    assert Flow(square.fn, task_runner=ThreadPoolTaskRunner).policy.runner == ThreadPoolTaskRunner()


def test_nothing_is_submitted_outside_of_a_flow() -> None:
    """There would be no journal to record it: a RuntimeError."""
    with pytest.raises(RuntimeError, match="only inside a flow"):
        square.submit(1)
    with pytest.raises(MissingContextError):
        square.map([1])


def test_a_sync_flow_gets_a_future_of_an_async_task() -> None:
    """Its result can be asked for without awaiting; the task runs on a loop in the background."""

    @flow
    def run() -> list[int]:
        return [square_async.submit(3).result(), *[future.result() for future in square_async.map([1, 2])]]

    assert value_of(run) == [9, 1, 4]


def test_a_thread_made_by_hand_has_no_run_context() -> None:
    """It belongs to nobody; threads of submitted tasks have one."""

    @flow
    def run() -> list[str]:
        found: list[str] = []

        def by_hand() -> None:
            try:
                get_run_context()
            except MissingContextError as error:
                found.append(type(error).__name__)

        thread = threading.Thread(target=by_hand)
        thread.start()
        thread.join()
        return [*found, context.submit().result()[1]]

    assert value_of(run) == ["MissingContextError", "context"]


def test_a_task_with_a_timeout_that_waits_for_others_leaves_its_place_to_them() -> None:
    """With one worker, a timed task that submits another and waits for it comes to its end in time."""

    @task(timeout_seconds=30)
    def outer() -> int:
        return square.submit(3).result()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def run() -> int:
        return outer.submit().result()

    assert value_of(run) == 9


# -- processes

#: What a body that was sent away cannot have.
WANTS = ("an effect", "a wait", "a slot", "a rate", "a submit", "a delay", "a flow", "its run")


class Survey:
    """What one run with two processes showed."""

    def __init__(self, journal: MemoryJournal, values: dict[str, Any]) -> None:
        self.journal, self.values = journal, values


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def looks_around() -> dict[str, Any]:
    LANGUAGE.set("German")
    with tags("blue"):
        labelled = context.submit()
    failures: dict[str, Any] = {
        "refused": refused.submit(),
        "lock raised": refused_with_a_lock.submit(),
        "lock returned": locked.submit(),
        "lock given": takes.submit(1, other=cast("Any", threading.Lock())),
        "sys.exit": leaves.submit(),
        "own timeout": own_timeout.submit(),
        **{what: asks_for.submit(what) for what in WANTS},
    }
    return {
        "pids": sorted({future.result() for future in marked_pid.map(range(20))}),
        "squares": [future.result() for future in square.map([1, 2, 3])],
        "async": square_async.submit(5).result(),
        "generators": [count.submit(3).result(), count_async.submit(2).result()],
        "with a future": square.submit(cast("Any", square.submit(2))).result(),
        "called": where() == os.getpid(),
        "language": language.submit().result(),
        "context": labelled.result(),
        "plain calls": calls_others.submit(2).result(),
        "talks": talks.submit().result(),
    } | {name: future.exception() for name, future in failures.items()}


@pytest.fixture(scope="module")
def seen() -> Survey:
    """One run of `looks_around`; what it returns cannot all be stored, so its tasks' rows and values are kept apart."""
    journal = memory()
    kept: dict[str, Any] = {}

    @flow(task_runner=looks_around.policy.runner)
    def run() -> None:
        kept.update(looks_around.fn())

    outcome = start(run, journal=journal, using=waiting())
    assert outcome.error is None, outcome.error
    return Survey(journal, kept)


def test_bodies_run_in_processes_that_are_reused_and_end_with_the_run(seen: Survey) -> None:
    """Twenty bodies, at most two processes, none of which is there afterwards; a plain call runs in the caller."""
    pids = seen.values["pids"]
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    assert all(is_over(pid) for pid in pids)
    assert seen.values["called"] is True


def test_sync_and_async_tasks_and_futures_work_as_in_threads(seen: Survey) -> None:
    """The same calls give the same values; each is a step of the journal."""
    values = seen.values
    assert (values["squares"], values["async"], values["with a future"]) == ([1, 4, 9], 25, 16)
    assert values["generators"] == [[0, 1, 2], [0, 1]]
    assert [row.event for row in rows(seen.journal, name="square")] == ["completed"] * 5


def test_the_context_is_there_in_a_process(seen: Survey) -> None:
    """Context variables as they were at the submit, the run's context, its tags, an idempotency key."""
    assert seen.values["language"] == "German"
    flow_name, step, attempt, labels, key = seen.values["context"]
    assert (flow_name, step, attempt, labels) == ("run", "context", 1, {"blue"})
    assert len(key) == 32


def test_lines_of_a_process_are_recorded_in_the_run(seen: Survey) -> None:
    """What its loggers say, and what a task with `log_prints` prints."""
    assert [text for text in log_of(seen.journal) if text in ("printed 1", "logged 2")] == [
        "printed 1",
        "logged 2",
    ]


def test_other_tasks_that_a_body_calls_are_part_of_its_step(seen: Survey) -> None:
    """They are plain calls there, and nothing is recorded of them."""
    assert seen.values["plain calls"] == 8
    assert [row.event for row in rows(seen.journal, name="calls_others")] == ["completed"]


@pytest.mark.parametrize("what", WANTS)
def test_what_needs_the_journal_is_refused_in_a_process(seen: Survey, what: str) -> None:
    """Side effects, waits, submits, delays and flows: the error says what to do instead."""
    error = seen.values[what]
    assert isinstance(error, MissingContextError)
    assert "do it in the flow, or use a ThreadPoolTaskRunner" in str(error)


def test_exceptions_come_back_as_they_were_raised(seen: Survey) -> None:
    """Of the same class, with its attributes, and the traceback of the other process as their cause."""
    error = seen.values["refused"]
    assert isinstance(error, Refused)
    assert (error.code, error.where, str(error)) == (7, "the gate", "code 7 at the gate")
    assert "in refused" in str(error.__cause__)
    own = seen.values["own timeout"]
    assert type(own) is TimeoutError
    assert not isinstance(own, TaskTimeoutError)


def test_what_cannot_be_sent_is_a_clear_error(seen: Survey) -> None:
    """An exception becomes `StepFailed`, a result `CodecError`, an argument `NotSent`, which names it."""
    assert repr(seen.values["lock raised"]).startswith("StepFailed('Unpicklable: holds a lock'")
    assert isinstance(seen.values["lock raised"], StepFailed)
    returned, given = seen.values["lock returned"], seen.values["lock given"]
    assert isinstance(returned, CodecError)
    assert "the result of locked, of type lock, cannot be sent back" in str(returned)
    assert isinstance(given, NotSent)
    assert "takes: the argument 'other', of type lock, cannot be sent" in str(given)


def test_a_body_that_leaves_its_process_has_failed(seen: Survey) -> None:
    """`sys.exit` in a task of a process pool ends neither the pool nor the flow."""
    assert isinstance(seen.values["sys.exit"], WorkerDied)
    assert "leaves ended with SystemExit(3)" in str(seen.values["sys.exit"])


def test_an_async_flow_awaits_bodies_of_processes() -> None:
    """Sync and async tasks alike; its loop goes on meanwhile."""

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    async def run() -> list[int]:
        return [await square.submit(3), *await asyncio.gather(*square_async.map([1, 2]))]

    assert value_of(run, using=waiting()) == [9, 1, 4]


def test_what_a_process_prints_goes_where_the_flow_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the standard output of the flow's process was redirected."""

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run() -> None:
        talks.submit()

    value_of(run, using=waiting())
    assert capsys.readouterr().out == "printed 1\n"


def test_a_body_past_its_time_is_killed_with_what_it_has_started(fifo: Path) -> None:
    """The error names the limit; the pool goes on with another process."""

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run() -> tuple[str, int]:
        late = never_ends.submit(str(fifo))
        ends = square.submit(3)
        return repr(late.exception()), ends.result()

    told: list[list[int]] = []
    reader = threading.Thread(target=lambda: told.append(pids_from(fifo)))
    reader.start()
    journal = memory()
    outcome = start(run, journal=journal, using=waiting())
    reader.join(10)
    assert outcome.value == ("TaskTimeoutError('never_ends ran past its timeout of 0.3 s')", 9)
    assert [row.event for row in rows(journal, name="never_ends")] == ["failed"]
    assert [is_over(pid) for pid in told[0]] == [True, True]


def test_a_body_that_waits_for_its_turn_uses_up_no_time() -> None:
    """The limit counts from when a process begins with it: three bodies in a row, each within its own time."""

    @task(timeout_seconds=1.5)
    def takes_its_time(number: int) -> int:
        threading.Event().wait(0.6)
        return number

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run() -> list[int]:
        return [future.result() for future in takes_its_time.map(range(3))]

    assert value_of(run, using=waiting()) == [0, 1, 2]


def test_a_body_whose_process_dies_has_failed_and_others_go_on() -> None:
    """A pure task is retried like after any failure; the error says how the process ended."""

    @task(retries=1)
    def dies_once(path: str) -> int:
        marker = Path(path)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 5

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run(path: str) -> list[Any]:
        exited = exits.submit(3)
        again = dies_once.submit(path)
        return [exited.exception(), again.result(), square.submit(2).result()]

    with tempfile.TemporaryDirectory() as folder:
        error, again, after = value_of(run, f"{folder}/marker", using=waiting())
    assert (type(error), again, after) == (WorkerDied, 5, 4)
    assert "the process that ran exits ended by itself, with exit code 3" in str(error)


def test_a_side_effect_whose_process_dies_is_in_doubt() -> None:
    """Nobody knows whether it happened, so nothing runs it again."""

    @task(side_effect=True, not_done_on=ConnectionError, retries=3)
    def pays(fate: str) -> None:
        if fate == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "says so":
            message = "declined"
            raise NotDone(message)

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run() -> list[str]:
        return [type(pays.submit(fate).exception()).__name__ for fate in ("dies", "goes well")]

    journal = memory()
    assert start(run, journal=journal, using=waiting()).value == ["WorkerDied", "NoneType"]
    assert [row.event for row in rows(journal, name="pays")] == ["intent", "unknown", "intent", "completed"]


def test_a_side_effect_that_could_not_be_sent_has_not_happened() -> None:
    """Its body never began, so there is no doubt."""

    @task(side_effect=True)
    def pays(with_what: Any) -> None:
        del with_what

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run() -> str:
        return type(pays.submit(threading.Lock()).exception()).__name__

    journal = memory()
    assert start(run, journal=journal, using=waiting()).value == "NotSent"
    assert [row.event for row in rows(journal, name="pays")] == ["intent", "not_done"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_cancelling_a_run_kills_the_bodies_that_run(fifo: Path, colour: str) -> None:
    """They cannot stop by themselves, and their results would be refused."""
    journal = memory()

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def run() -> None:
        hangs.submit(str(fifo)).result()

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    async def run_async() -> None:
        await hangs.submit(str(fifo))

    told: list[int] = []

    def person() -> None:
        told.extend(pids_from(fifo))
        journal.request_cancel(last_run(journal), "enough")

    thread = threading.Thread(target=person)
    thread.start()
    outcome = start(run if colour == "sync" else run_async, journal=journal, using=waiting())
    thread.join(10)
    assert outcome.state is StateType.CANCELLED
    assert is_over(told[0])
    assert rows(journal, name="hangs") == []


def test_a_later_life_reuses_what_processes_have_done() -> None:
    """Where a body ran is no part of what it is: the same step is found in processes and in threads."""
    journal = memory()
    lives: list[int] = []

    def body() -> list[int]:
        done = [future.result() for future in square.map([1, 2, 3])]
        lives.append(len(lives))
        if len(lives) == 1:
            raise Death
        return done

    first: Flow[[], list[int]] = Flow(body, name="run", task_runner=ProcessPoolTaskRunner(max_workers=1))
    second: Flow[[], list[int]] = Flow(body, name="run")
    outcome = resume(second, die(first, journal=journal, using=waiting()), journal, using=waiting())
    assert (outcome.value, outcome.tally.reused, outcome.tally.executed) == ([1, 4, 9], 3, 0)


def test_a_cached_result_is_the_same_wherever_it_was_computed() -> None:
    """The key of a call does not depend on the task runner, values from functions around it included."""
    factor = 3

    @task(cache_policy=INPUTS)
    def scaled(x: int) -> int:
        return factor * x

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def processes() -> int:
        return scaled.submit(2).result()

    @flow
    def threads() -> int:
        return scaled.submit(2).result()

    journal = memory()
    assert start(processes, journal=journal, using=waiting()).value == 6
    outcome = start(threads, journal=journal, using=waiting())
    assert (outcome.value, outcome.tally.cached) == (6, 1)


# -- processes of a program


def _interruptible() -> None:
    """Ctrl-C ends a program also where these tests were started in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Program:
    """`tests/fundamentals/process_script.py` in a folder of its own, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fifo = folder / "fifo"
        os.mkfifo(self.fifo)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it, with the journal in its folder."""
        return subprocess.Popen(
            [sys.executable, Path(__file__).with_name("process_script.py"), self.folder, *words],
            env=os.environ | {"AGENTFLOW_HOME": str(self.folder / "home")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=_interruptible,  # noqa: PLW1509 - it only sets a signal
        )

    def resumed(self) -> dict[str, Any]:
        """What its next life says; the body that hung does not, any more."""
        (self.folder / "go").touch()
        with closing(SqliteJournal(self.folder / "home" / "agentflow.db", bytes(32))) as journal:
            run_id = last_run(journal)
        out, err = self.start(run_id).communicate(timeout=60)
        assert err == ""
        return json.loads(out)

    def ran(self) -> list[str]:
        """The bodies that have begun, in all lives."""
        return (self.folder / "ran").read_text().split()


WHOLE = {"boxes": [0, 10, 20, 30], "hung": 1, "label": "42", "odd": True}


def test_a_killed_flow_leaves_no_processes_and_reuses_what_they_had_finished(tmp_path: Path) -> None:
    """Kill -9 while a body runs: its process ends by itself, and the next life runs what had not finished."""
    program = Program(tmp_path)
    process = program.start()
    (worker,) = pids_from(program.fifo)
    process.kill()
    process.communicate()
    assert is_over(worker)
    assert program.resumed() == {"value": WHOLE, "error": "None", "reused": 4}
    assert program.ran() == ["0", "1", "2", "3", "hangs", "hangs"]


def test_ctrl_c_ends_the_processes_quietly(tmp_path: Path) -> None:
    """It reaches the flow only, which ends its processes; the run can be resumed."""
    program = Program(tmp_path)
    process = program.start()
    (worker,) = pids_from(program.fifo)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1
    assert "process_worker" not in err
    assert is_over(worker)
    assert program.resumed()["value"] == WHOLE
