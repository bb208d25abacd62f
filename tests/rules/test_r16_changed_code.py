"""R16: a run resumed under changed code reuses what is the same, says of each step what became of it and why.

A first version of a program is killed at every write of its journal; a second version goes on. Whatever had been
recorded is reused or listed; what runs, runs once; a side effect is never repeated, or replaced, without a word.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentflow import flow, task
from agentflow.engine.flow_run import Outcome
from agentflow.explaining import explain
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.model.waits import Verdict, WaitKind
from agentflow.tasks import Task
from tests.engine.crashing import Crash, CrashingJournal
from tests.faults import Measured
from tests.fundamentals.lives import answer, last_run, options, resume, start

RAN: list[str] = []


@pytest.fixture(autouse=True)
def _a_fresh_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second version is another program."""
    RAN.clear()
    version = {"now": "first"}

    def of_this_version(_: Any) -> str:
        return version["now"]

    monkeypatch.setattr("agentflow.beginning.fingerprint", of_this_version)
    VERSION.update(set=lambda name: version.update(now=name))


VERSION: dict[str, Callable[[str], None]] = {}


def made(name: str, *, effect: bool = False, **options: Any) -> Task[..., str]:
    """A task that leaves a trace of each execution."""

    @task(name=name, side_effect=effect, **options)
    def run(*args: Any, **kwargs: Any) -> str:
        RAN.append(" ".join([name, *map(str, args), *map(str, kwargs.values())]))
        return f"{name}!"

    return run


def made_async(name: str, **options: Any) -> Task[..., Any]:
    """The same, async."""

    @task(name=name, **options)
    async def run(*args: Any, **kwargs: Any) -> str:
        RAN.append(" ".join([name, *map(str, args), *map(str, kwargs.values())]))
        await asyncio.sleep(0)
        return f"{name}!"

    return run


a, b, c, d = made("a"), made("b"), made("c"), made("d")
pay, mail = made("pay", effect=True), made("mail", effect=True)


def one_flow(body: Callable[[], Any]) -> Flow[..., Any]:
    """The flow, in one of its versions: the name stays."""
    return flow(name="program")(body)


class Edit(NamedTuple):
    """Two versions of a program, and what the second one does with what the first had recorded when it was killed."""

    first: Callable[[], Any]
    second: Callable[[], Any]
    #: What the second version says of each step, where the first had recorded all of its steps.
    explained: set[tuple[str, str, str]]
    #: What runs in the second life then.
    ran: list[str]
    #: How a person answers a divergence; None: there is none.
    verdict: Verdict | None = None


REUSED = "reused"


def reused(*names: str) -> set[tuple[str, str, str]]:
    return {(name, REUSED, "") for name in names}


def straight(*calls: tuple[Task[..., Any], Any]) -> Callable[[], Any]:
    """A sync program: one call after the other."""

    def body() -> list[str]:
        return [call(argument) for call, argument in calls]

    return body


def first_program() -> Callable[[], Any]:
    return straight((a, 1), (b, 2), (pay, 3), (c, 4))


def gathered() -> Callable[[], Any]:
    first, second = made_async("a"), made_async("b")

    async def branch() -> str:
        return await second(2)

    async def body() -> list[Any]:
        return [*await asyncio.gather(first(1), branch()), await made_async("c")(4)]

    return body


def in_turn() -> Callable[[], Any]:
    async def body() -> list[str]:
        return [await made_async(name)(number) for name, number in (("a", 1), ("b", 2), ("c", 4))]

    return body


def awaited() -> Callable[[], Any]:
    @task(name="pay", side_effect=True)
    async def pay_async(*args: Any, **kwargs: Any) -> str:
        return pay.fn(*args, **kwargs)

    async def body() -> list[str]:
        found = [await made_async("a")(1), await made_async("b")(2)]
        return [*found, await pay_async(3), await made_async("c")(4)]

    return body


def with_default(default: int) -> Callable[[], Any]:
    @task(name="a")
    def has_default(number: int = default) -> str:
        RAN.append(f"a {number}")
        return "a!"

    def body() -> list[str]:
        return [has_default(), b(2)]

    return body


def returning(kind: Callable[[str], Any]) -> Callable[[], Any]:
    @task(name="a")
    def returns(number: int) -> Any:
        RAN.append(f"a {number}")
        return kind(f"{number}")

    def body() -> list[Any]:
        return [returns(1), b(2)]

    return body


OTHER_ARGUMENTS = "recorded with other arguments"
NO_SUCH_NAME = "no step of this name was recorded"
NOBODY = "nobody asked for it"
EDITS: dict[str, Edit] = {
    "nothing": Edit(first_program(), first_program(), reused("a", "b", "pay", "c"), []),
    "a step added in front": Edit(
        first_program(),
        straight((d, 0), (a, 1), (b, 2), (pay, 3), (c, 4)),
        reused("a", "b", "pay", "c") | {("d", "new", NO_SUCH_NAME)},
        ["d 0"],
    ),
    "a step removed": Edit(
        first_program(),
        straight((b, 2), (pay, 3), (c, 4)),
        reused("b", "pay", "c") | {("a", "removed", NOBODY)},
        [],
    ),
    "steps reordered": Edit(
        first_program(), straight((b, 2), (a, 1), (pay, 3), (c, 4)), reused("a", "b", "pay", "c"), []
    ),
    "a step moved behind an effect": Edit(
        first_program(), straight((a, 1), (pay, 3), (b, 2), (c, 4)), reused("a", "b", "pay", "c"), []
    ),
    "a step renamed": Edit(
        first_program(),
        straight((made("b2"), 2), (a, 1), (pay, 3), (c, 4)),
        reused("a", "pay", "c") | {("b", "removed", NOBODY), ("b2", "new", NO_SUCH_NAME)},
        ["b2 2"],
    ),
    "a step renamed, with its alias": Edit(
        first_program(),
        straight((a, 1), (made("b2", aliases=["b"]), 2), (pay, 3), (c, 4)),
        reused("a", "pay", "c") | {("b", "taken over", "recorded under an earlier name of the task")},
        [],
    ),
    "an effect renamed, with its alias": Edit(
        first_program(),
        straight((a, 1), (b, 2), (made("pay2", effect=True, aliases=["pay"]), 3), (c, 4)),
        reused("a", "b", "c") | {("pay", "taken over", "recorded under an earlier name of the task")},
        [],
    ),
    "an argument changed": Edit(
        first_program(),
        straight((a, 1), (b, 20), (pay, 3), (c, 4)),
        reused("a", "pay", "c") | {("b", "removed", NOBODY), ("b", "new", OTHER_ARGUMENTS)},
        ["b 20"],
    ),
    "a default changed": Edit(
        with_default(1),
        with_default(5),
        reused("b") | {("a", "removed", NOBODY), ("a", "new", OTHER_ARGUMENTS)},
        ["a 5"],
    ),
    "a return type changed": Edit(returning(str), returning(int), reused("a", "b"), []),
    "a step asked for twice": Edit(
        first_program(),
        straight((a, 1), (a, 1), (b, 2), (pay, 3), (c, 4)),
        reused("a", "b", "pay", "c")
        | {("a", "new", "recorded fewer times, or on the other side of a side effect")},
        ["a 1"],
    ),
    "an effect's argument changed, and a person says: fail": Edit(
        first_program(),
        straight((a, 1), (b, 2), (pay, 30), (c, 4)),
        reused("a", "b")
        | {
            ("pay", "removed", NOBODY),
            ("c", "removed", NOBODY),
            (
                "pay",
                "new",
                "stopped before it began: another side effect was recorded at its place, and a person said: fail",
            ),
        },
        [],
        Verdict.FAIL,
    ),
    "an effect's argument changed, and a person says: continue": Edit(
        first_program(),
        straight((a, 1), (b, 2), (pay, 30), (c, 4)),
        reused("a", "b", "c") | {("pay", "removed", NOBODY), ("pay", "new", OTHER_ARGUMENTS)},
        ["pay 30"],
        Verdict.CONTINUE,
    ),
    "an effect inserted before another": Edit(
        first_program(),
        straight((a, 1), (b, 2), (mail, 0), (pay, 3), (c, 4)),
        reused("a", "b", "pay", "c") | {("mail", "new", NO_SUCH_NAME)},
        ["mail 0"],
        Verdict.CONTINUE,
    ),
    "an effect inserted behind another": Edit(
        first_program(),
        straight((a, 1), (b, 2), (pay, 3), (mail, 0), (c, 4)),
        reused("a", "b", "pay", "c") | {("mail", "new", NO_SUCH_NAME)},
        ["mail 0"],
    ),
    "an effect removed": Edit(
        first_program(),
        straight((a, 1), (b, 2), (c, 4)),
        reused("a", "b", "c") | {("pay", "removed", NOBODY)},
        [],
    ),
    "a call moved into a branch": Edit(
        in_turn(),
        gathered(),
        reused("c") | {(name, "taken over", "recorded in another branch") for name in "ab"},
        [],
    ),
    "a call moved out of its branch": Edit(
        gathered(),
        in_turn(),
        reused("c") | {(name, "taken over", "recorded in another branch") for name in "ab"},
        [],
    ),
    "sync made async": Edit(first_program(), awaited(), reused("a", "b", "pay", "c"), []),
    "async made sync": Edit(awaited(), first_program(), reused("a", "b", "pay", "c"), []),
}


def first_life(program: Callable[[], Any], at: int) -> tuple[CrashingJournal, bool]:
    """The first version, killed at a write (0 = right before its end); False where it had fewer writes."""
    VERSION["set"]("first")
    journal = CrashingJournal()
    journal.at = at
    try:
        start(one_flow(program), journal=journal, using=options())
    except Crash:
        journal.revive()
        journal.close()
        return journal, True
    return journal, False


def seen_through(program: Callable[[], Any], journal: Journal, verdict: Verdict | None) -> Outcome:
    """The second version, whose questions are answered as a person would."""
    VERSION["set"]("second")
    run = one_flow(program)
    outcome = resume(run, last_run(journal), journal)
    for _ in range(6):
        if not outcome.waiting_for:
            return outcome
        [wait] = outcome.waiting_for
        if wait.kind is WaitKind.IN_DOUBT:
            answer(journal, Verdict.HAPPENED, f"{wait.name}!")
        else:
            assert wait.kind is WaitKind.DIVERGENCE
            assert {"asked", "recorded"} <= wait.question.keys()
            assert verdict is not None, wait.question
            answer(journal, verdict)
        outcome = resume(run, last_run(journal), journal)
    return outcome


def explained(journal: Journal) -> set[tuple[str, str, str]]:
    run = journal.get_run(last_run(journal))
    assert run is not None
    explanation = explain(journal, run)
    assert explanation is not None
    assert explanation.changed or explanation.life.first == 1
    return {(verdict.name, verdict.how, verdict.reason) for verdict in explanation.verdicts}


def ran_ever(journal: Journal) -> set[str]:
    """The steps that some life says it ran."""
    run = journal.get_run(last_run(journal))
    assert run is not None
    lives = [explain(journal, run, life.number) for life in journal.lives(run.number)]
    told = [verdict for life in lives if life is not None for verdict in life.verdicts]
    return {verdict.name for verdict in told if verdict.how in ("new", "re-executed")}


def last_write(program: Callable[[], Any]) -> int:
    """The last write before the one that ends the run."""
    journal, _ = first_life(program, 0)
    return journal.writes - 2


@pytest.mark.parametrize("name", sorted(EDITS))
def test_each_step_is_reused_or_explained(name: str) -> None:
    """The first version had recorded all its steps, but not its end."""
    edit = EDITS[name]
    journal, died = first_life(edit.first, last_write(edit.first) + 1)
    assert died
    RAN.clear()
    seen_through(edit.second, journal, edit.verdict)
    assert (sorted(RAN), explained(journal)) == (sorted(edit.ran), edit.explained)


@pytest.mark.fault(17, "changed code after a kill at every write")
@pytest.mark.parametrize("name", sorted(EDITS))
def test_wherever_the_first_version_was_killed_nothing_is_silently_wrong(name: str, fault: Measured) -> None:
    """What ran before its kill and is still asked for does not run again; no effect happens twice; all is explained."""
    edit = EDITS[name]
    for at in range(1, last_write(edit.first) + 2):
        RAN.clear()
        journal, died = first_life(edit.first, at)
        assert died
        recorded = {row.name for row in journal.steps(1) if row.event == "completed"}
        before = list(RAN)
        RAN.clear()
        outcome = seen_through(edit.second, journal, edit.verdict)
        assert outcome.error is None or edit.verdict is Verdict.FAIL, at
        told = explained(journal)
        allowed = set(edit.ran) | {done for done in before if done.split()[0] not in recorded}
        again = [done for done in RAN if done in before and done not in allowed]
        effects = [done for done in RAN if done.startswith(("pay", "mail"))]
        fault(1, lost=len(again), doubled=len(effects) - len(set(effects)))
        assert again == [], (at, again)
        assert all(RAN.count(effect) <= 1 for effect in RAN if effect.startswith(("pay", "mail"))), at
        twice = [done for done in RAN if done in before and done.startswith("pay")]
        assert twice == [], at
        assert {verdict[0] for verdict in told} >= recorded, (at, told)
        assert {done.split()[0] for done in RAN} <= ran_ever(journal), (at, told)


SCRIPT = """
import os
from agentflow import flow, task

def say(*words: object) -> None:
    with open("said", "a") as file:
        print(*words, file=file)

@task
def read(number: int) -> int:
    say("read", number)
    return number
{more}
@task(side_effect=True)
def pay(amount: int) -> str:
    say("pay", amount)
    return f"paid {{amount}}"

@task
def last() -> str:
    if {dies}:
        os._exit(9)
    say("last")
    return "last"

@flow
def program() -> list:
    return [{calls}, pay(7), last()]
"""


def test_a_file_that_is_edited_between_two_processes(tmp_path: Path) -> None:
    """The second process finds what the first recorded, and `runs show` says what became of it."""
    path = tmp_path / "program.py"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFLOW_")}
    environment["AGENTFLOW_HOME"] = str(tmp_path / "home")

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agentflow.cli.main", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    path.write_text(SCRIPT.format(more="", dies=True, calls="read(1), read(2)"))
    assert command("run", f"{path}:program").returncode == 9
    said = tmp_path / "said"
    assert said.read_text() == "read 1\nread 2\npay 7\n"
    said.unlink()
    [run] = json.loads(command("runs", "ls", "--json").stdout)
    more = "\n@task\ndef check(number: int) -> int:\n    say('check', number)\n    return number\n"
    path.write_text(SCRIPT.format(more=more, dies=False, calls="read(1), check(5), read(3)"))
    resumed = command("runs", "resume", run["run_id"], "--json")
    assert (resumed.returncode, json.loads(resumed.stdout)["result"]) == (0, [1, 5, 3, "paid 7", "last"])
    assert said.read_text() == "check 5\nread 3\nlast\n"
    view = json.loads(command("runs", "show", run["run_id"], "--json").stdout)
    assert view["explanation"]["changed_code"] is True
    assert sorted(
        (group["name"], group["how"], group["reason"]) for group in view["explanation"]["groups"]
    ) == [
        ("check", "new", NO_SUCH_NAME),
        ("last", "new", NO_SUCH_NAME),
        ("pay", "reused", ""),
        ("read", "new", OTHER_ARGUMENTS),
        ("read", "removed", NOBODY),
        ("read", "reused", ""),
    ]
    assert [life["end"] for life in view["lives"]] == ["crashed", "completed"]
    shown = command("runs", "show", run["run_id"]).stdout
    assert "life 2 under changed code: 2 reused, 1 removed, 3 new" in shown
    assert f"read {NOBODY}" not in shown
    assert NO_SUCH_NAME in shown
    first = command("runs", "show", run["run_id"], "--life", "1")
    assert (first.returncode, "life 1" in first.stdout) == (0, False)
    assert command("runs", "show", run["run_id"], "--life", "9").returncode == 2
