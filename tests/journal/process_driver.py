"""Many processes on one journal; what each saw is printed. The parent has no threads and no open journal.

Usage: ``python -m tests.journal.process_driver SCENE FOLDER [ARGUMENTS]``, one JSON object on the output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from agentflow.errors import Fenced, JournalUnavailable, RunOwnedError
from agentflow.journal.protocol import RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from tests.journal.faulty_disk import child

KEY = b"k" * 32


class Process:
    """A forked process that does one thing after another, as it is told."""

    def __init__(self, body: Callable[[IO[str], Callable[[object], None]], None]) -> None:
        here, there = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(here[1])
            os.close(there[0])
            with os.fdopen(here[0]) as told, os.fdopen(there[1], "w", buffering=1) as answers:
                child_life(lambda: body(told, lambda said: print(json.dumps(said), file=answers, flush=True)))
        os.close(here[0])
        os.close(there[1])
        self._tell, self._answers = os.fdopen(here[1], "w", buffering=1), os.fdopen(there[0])

    def ask(self, word: str = "go") -> Any:
        """Say `word`, and wait for what it says to that."""
        self.tell(word)
        return self.hear()

    def tell(self, word: str = "go") -> None:
        self._tell.write(word + "\n")
        self._tell.flush()

    def hear(self) -> Any:
        line = self._answers.readline()
        return json.loads(line) if line else None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        """Let it end; the youngest first, for they have inherited their elders' pipes."""
        self._tell.close()
        self._answers.close()
        os.waitpid(self.pid, 0)


def child_life(body: Callable[[], None]) -> None:
    """Run `body`, then end the process without its parent's exit handlers."""
    code = 1
    try:
        body()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def new(run_id: str) -> NewRun:
    return NewRun(run_id, "f", "f.py:f", b"{}", "fp", Origin.PERSON, 1.0)


def row(run: Run, sequence: int) -> StepRow:
    return StepRow(
        (run.number << 32) + sequence, "completed", "task", "step", b"", b"k", b"", 0, 0, 0, 0, 0, 1.0, 2.0,
        b"x" * 100, None,
    )  # fmt: skip


# -- many writers
def write(path: Path, name: str, commits: int, say: Callable[[object], None]) -> None:
    """Commit as fast as it goes, every tenth time durably."""
    longest, errors = 0.0, list[str]()
    journal = SqliteJournal(path, KEY)
    run = journal.create_run(new(name))
    for sequence in range(1, commits + 1):
        begin = time.perf_counter()
        try:
            journal.append(run.number, run.epoch, [row(run, sequence)], durable=sequence % 10 == 0)
        except (Exception, JournalUnavailable) as error:  # noqa: BLE001 - whatever reaches a caller is reported
            errors.append(repr(error))
        longest = max(longest, time.perf_counter() - begin)
    journal.close()
    say({"errors": errors, "longest": longest})


def crowd(path: Path, processes: int, commits: int) -> dict[str, Any]:
    """So many processes, so many commits each, all begin at once on a file that does not exist yet."""

    def life(name: str) -> Callable[[IO[str], Callable[[object], None]], None]:
        def body(told: IO[str], say: Callable[[object], None]) -> None:
            told.readline()
            write(path, name, commits, say)

        return body

    everybody = [Process(life(f"run-{number}")) for number in range(processes)]
    begin = time.perf_counter()
    for process in everybody:
        process.tell()
    heard = [process.hear() for process in everybody]
    seconds = time.perf_counter() - begin
    for process in everybody:
        process.end()
    found: dict[str, Any] = {"heard": heard, "seconds": seconds}
    journal = SqliteJournal(path, KEY)
    found["steps"] = [len(journal.steps(run.number)) for run in journal.list_runs(RunFilter(limit=1000))]
    journal.close()
    return found


# -- ownership
def attempt(call: Callable[[], Any]) -> Any:
    """What a call returns, or how it is refused."""
    try:
        return call()
    except (RunOwnedError, Fenced, JournalUnavailable) as error:
        return {"error": type(error).__name__, "text": str(error), "owner": getattr(error, "owner", "")}


def worker(path: Path) -> Process:
    """A process with a journal, to which verbs are told."""

    def body(told: IO[str], say: Callable[[object], None]) -> None:
        journal = SqliteJournal(path, KEY)
        held: list[Run] = []

        def own(run: Run) -> int:
            held.append(run)
            return run.epoch

        def known() -> Run:
            (run,) = journal.list_runs(RunFilter(limit=1))
            return run

        def write_one() -> str:
            run = held[-1]
            journal.append(run.number, run.epoch, [row(run, len(journal.steps(run.number)) + 1)])
            return "written"

        verbs: dict[str, Callable[[], object]] = {
            "create": lambda: own(journal.create_run(new("run"))),
            "claim": lambda: own(journal.claim_run("run")),
            "take": lambda: own(journal.claim_run("run", take_over=True)),
            "write": write_one,
            "release": lambda: journal.release_run(held[-1]),
            "due": lambda: [run.id for run in journal.due_runs(time.time())],
            "owned": lambda: journal.is_owned(known()),
            "cancel": lambda: journal.request_cancel("run", "enough").state.value,
            "finish": lambda: journal.set_state(
                held[-1].number, held[-1].epoch, StateType.COMPLETED, release=True
            ),
            "close": journal.close,
        }
        for word in told:
            verb = verbs[word.strip()]
            say(attempt(verb))

    return Process(body)


def ownership(path: Path) -> dict[str, Any]:
    """An owner, one that takes over, and an onlooker; then the first lets go and the second is killed."""
    first, second, third = worker(path), worker(path), worker(path)
    seen: dict[str, Any] = {"pid": first.pid, "created": first.ask("create"), "refused": second.ask("claim")}
    seen["taken"] = second.ask("take")
    seen["stale"] = first.ask("write")
    seen["fresh"] = second.ask("write")
    seen["while both live"] = [third.ask("due"), third.ask("owned"), third.ask("claim")["error"]]
    first.ask("release")
    seen["after the first let go"] = [third.ask("due"), third.ask("owned"), third.ask("claim")["error"]]
    first.kill()
    seen["after the first died"] = [third.ask("due"), third.ask("owned"), third.ask("claim")["error"]]
    second.kill()
    seen["after the second died"] = [third.ask("due"), third.ask("owned")]
    seen["recovered"] = third.ask("claim")
    third.ask("finish")
    seen["finished"] = [third.ask("due"), third.ask("owned")]
    third.end()
    return seen


def handing_on(path: Path) -> dict[str, Any]:
    """Runs go from process to process by release, by close and by death; one that is owned is asked to stop."""
    first, second = worker(path), worker(path)
    first.ask("create")
    first.ask("release")
    seen: dict[str, Any] = {"released": second.ask("due"), "claimed": second.ask("claim")}
    seen["asked to stop"] = first.ask("cancel")
    second.ask("close")
    seen["closed"] = first.ask("due")
    second.kill()
    seen["stopped"] = first.ask("cancel")
    first.end()
    return seen


def fork(path: Path) -> dict[str, Any]:
    """A process forks while its journal is open and owns a run; the child is refused, the parent goes on."""
    seen: dict[str, Any] = {}

    def body(told: IO[str], say: Callable[[object], None]) -> None:
        journal = SqliteJournal(path, KEY)
        run = journal.create_run(new("run"))
        reader, writer = os.pipe()

        def inherited() -> None:
            calls: list[Callable[[], Any]] = [
                lambda: journal.append(run.number, run.epoch, [row(run, 1)]),
                lambda: journal.try_append(run.number, run.epoch, [row(run, 1), row(run, 2)]),
                lambda: journal.claim_run("run", take_over=True),
                lambda: journal.steps(run.number),
            ]
            answers = [attempt(call) for call in calls]
            journal.close()
            own = SqliteJournal(path, KEY)
            answers.append(attempt(lambda: own.claim_run("run")))
            own.close()
            os.write(writer, json.dumps(answers).encode())

        status = child(inherited)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answers = json.load(pipe)
        journal.append(run.number, run.epoch, [row(run, 1)], durable=True)
        still = SqliteJournal(
            path, KEY
        )  # a second one in the same process, closed while the first owns the run
        refused = attempt(lambda: still.claim_run("run"))
        still.close()
        say(
            {
                "status": status,
                "answers": answers,
                "refused": refused,
                "steps": len(journal.steps(run.number)),
            }
        )
        told.readline()

    parent, onlooker = Process(body), worker(path)
    seen |= parent.hear()
    seen["owned"] = onlooker.ask("owned")
    onlooker.end()
    parent.end()
    return seen


class Holding(SqliteJournal):
    """A journal whose process can be killed while it has the turn to write."""

    def hold(self) -> None:
        self._committer.turnstile.enter()


def wait_for_the_end(told: IO[str]) -> None:
    told.read()


def orphan(path: Path) -> dict[str, Any]:
    """A process dies while it writes; a child that it had forked lives on. Others can write."""

    def body(told: IO[str], say: Callable[[object], None]) -> None:
        journal = Holding(path, KEY)
        journal.hold()
        pid = os.fork()
        if pid == 0:
            child_life(lambda: wait_for_the_end(told))
        say(pid)
        told.readline()

    parent = Process(body)
    survivor = parent.hear()
    os.kill(parent.pid, signal.SIGKILL)
    onlooker = worker(path)
    seen: dict[str, Any] = {"created": onlooker.ask("create")}
    os.kill(survivor, 0)
    onlooker.end()
    parent.end()
    return seen


SCENES: dict[str, Callable[..., dict[str, Any]]] = {
    "crowd": crowd,
    "ownership": ownership,
    "handing_on": handing_on,
    "fork": fork,
    "orphan": orphan,
}


def main() -> None:
    """Play one scene."""
    scene, folder, *numbers = sys.argv[1:]
    print(json.dumps(SCENES[scene](Path(folder) / "j.db", *map(int, numbers))))


if __name__ == "__main__":
    main()
