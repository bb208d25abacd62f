"""The workloads on which workflow engines are compared, one at a time: prints one JSON line with seconds and figures.

    python -m tests.benchmarks.bench_agentflow W1 --n 1000 --reps 5

W1 steps one after another, sync; W2 the same on an event loop; W3 a fan-out (``-o mode=async`` for gather); W4 runs of
nothing; W4cold whole processes that run nothing; W5 hits in the cache (``-o mode=replay``: finished steps replayed); W6
steps that return 100 kB; W7 growth with the number of steps; W8 one-step runs enqueued, then drained by one worker;
W8list the newest 50 of many runs; W9 importing; W10 killed in the middle, then resumed; W10g the same with branches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentflow import INPUTS, flow, task
from agentflow.flows import Flow, default_options
from agentflow.journal.protocol import RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.ids import new_id
from agentflow.model.runs import NewRun, Origin
from agentflow.model.states import StateType
from agentflow.workers.inline import InlineWorker

KEY = b"k" * 32
Measure = Callable[[Path, int, str], dict[str, Any]]


@task
def noop(i: int) -> int:
    return i


@task
async def anoop(i: int) -> int:
    return i


@task(cache_policy=INPUTS)
def cnoop(i: int) -> int:
    return i


@task
def big(i: int) -> str:
    return f"{i}".ljust(100_000, "x")


@flow
def seq(n: int) -> int:
    return sum(noop(i) for i in range(n))


@flow
async def aseq(n: int) -> int:
    total = 0
    for i in range(n):
        total += await anoop(i)
    return total


@flow
def fan(n: int) -> int:
    return sum(future.result() for future in [noop.submit(i) for i in range(n)])


@flow
async def afan(n: int) -> int:
    return sum(await asyncio.gather(*[anoop(i) for i in range(n)]))


@flow
def empty() -> int:
    return 1


@flow
def cached(n: int) -> None:
    for i in range(n):
        cnoop(i)


@flow
def payload(n: int) -> None:
    for i in range(n):
        big(i)


@flow
def one(i: int) -> int:
    return noop(i)


class Ended(BaseException):
    """Ends a life without ending its run."""


cut: list[bool] = []


@flow
def replayed(n: int) -> float:
    began = time.perf_counter()
    for i in range(n):
        noop(i)
    if cut:
        raise Ended
    return time.perf_counter() - began


def journal_in(folder: Path) -> SqliteJournal:
    """The journal of that folder."""
    return SqliteJournal(folder / "journal.db", KEY)


def timed(folder: Path, which: Flow[..., Any], arguments: dict[str, Any], *, warm: bool = True) -> float:
    """Seconds of a run in a journal that has seen one of its kind already."""
    journal = journal_in(folder)
    if warm:
        which.run(dict.fromkeys(arguments, 3), journal=journal)
    began = time.perf_counter()
    outcome = which.run(arguments, journal=journal)
    seconds = time.perf_counter() - began
    assert outcome.state is StateType.COMPLETED, outcome
    journal.close()
    return seconds


def whole_run(which: Flow[..., Any]) -> Measure:
    """Seconds of a run of `n` steps, start and end included."""
    return lambda folder, n, _: {"seconds": timed(folder, which, {"n": n})}


def fan_out(folder: Path, n: int, mode: str) -> dict[str, Any]:
    return {"seconds": timed(folder, afan if mode == "async" else fan, {"n": n})}


def runs_of_nothing(folder: Path, n: int, _mode: str) -> dict[str, Any]:
    journal = journal_in(folder)
    empty.run({}, journal=journal)
    began = time.perf_counter()
    for _ in range(n):
        empty.run({}, journal=journal)
    seconds = time.perf_counter() - began
    journal.close()
    return {"seconds": seconds}


def whole_process(code: str, folder: Path) -> float:
    """Seconds of a Python process that runs `code`, from its start to its end."""
    began = time.perf_counter()
    environment = {**os.environ, "AGENTFLOW_HOME": str(folder)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def cold(folder: Path, n: int, _: str) -> dict[str, Any]:
    code = "from agentflow import flow\n@flow\ndef f(): return 1\nassert f() == 1"
    first = whole_process(code, folder)
    return {
        "seconds": statistics.median(whole_process(code, folder) for _ in range(n)) * n,
        "empty_home_s": first,
    }


def again(folder: Path, n: int, mode: str) -> dict[str, Any]:
    journal = journal_in(folder)
    if mode != "replay":
        cached.run({"n": n}, journal=journal)
        journal.close()
        return {"seconds": timed(folder, cached, {"n": n}, warm=False)}
    cut.append(True)
    try:
        replayed.run({"n": n}, journal=journal)
    except Ended:
        cut.clear()
    (run,) = journal.due_runs(time.time())
    began = time.perf_counter()
    outcome = replayed.resume(run.id, journal=journal)
    seconds = time.perf_counter() - began
    assert outcome.tally.reused == n, outcome
    journal.close()
    return {"seconds": seconds, "steps_s": outcome.value}


def growth(folder: Path, n: int, _: str) -> dict[str, Any]:
    each = {str(count): timed(folder, seq, {"n": count}) / count * 1e6 for count in (n // 10, n, 10 * n)}
    return {"seconds": each[str(n)] * n / 1e6, "us_by_n": each}


def queue(folder: Path, n: int, _: str) -> dict[str, Any]:
    journal = journal_in(folder)
    options = default_options(0.0)
    began = time.perf_counter()
    runs = [
        journal.create_run(one.new_run({"i": i}, journal, options, Origin.PERSON), state=StateType.PENDING)
        for i in range(n)
    ]
    enqueued = time.perf_counter() - began
    began = time.perf_counter()
    with InlineWorker(journal, {one.name: one}, options=options) as worker:
        for run in runs:
            worker.await_run(run.id, 600, until_asked=False)
        drained = time.perf_counter() - began
    done = len(journal.list_runs(RunFilter(limit=n + 1, states=(StateType.COMPLETED,))))
    assert done == n
    journal.close()
    return {"seconds": drained, "enqueue_s": enqueued}


def listing(folder: Path, n: int, _mode: str) -> dict[str, Any]:
    journal = journal_in(folder)
    for i in range(n):
        new = NewRun(new_id(), "one", "f.py:one", b"{}", "", Origin.PERSON, time.time())
        run = journal.create_run(new)
        end = StateType.FAILED if i % 50 == 0 else StateType.COMPLETED
        journal.set_state(run.number, run.epoch, end, durable=False, release=True)
    found: dict[str, float] = {}
    for name, wanted in {"": RunFilter(), "failed": RunFilter(states=(StateType.FAILED,))}.items():
        taken: list[float] = []
        for _ in range(20):
            began = time.perf_counter()
            assert len(journal.list_runs(wanted)) == min(50, n // 50 if name else n)
            taken.append(time.perf_counter() - began)
        found[name] = statistics.median(taken)
    journal.close()
    return {"seconds": found[""] * n, "list_s": found[""], "failed_s": found["failed"]}


def importing(folder: Path, n: int, _: str) -> dict[str, Any]:
    own = statistics.median(whole_process("from agentflow import flow, task", folder) for _ in range(n))
    bare = statistics.median(whole_process("pass", folder) for _ in range(n))
    return {"seconds": (own - bare) * n, "process_s": own, "bare_s": bare}


# -- killed in the middle
def happen(folder: str, ident: str, at: int) -> None:
    """Leave a mark; the process dies right after mark number `at`, before the step is recorded."""
    with Path(folder, "marks").open("a", encoding="utf-8") as file:
        file.write(ident + "\n")
    if at and len(Path(folder, "marks").read_text(encoding="utf-8").splitlines()) == at:
        os.kill(os.getpid(), signal.SIGKILL)


@task
def marked(folder: str, i: int) -> int:
    happen(folder, str(i), int(os.environ.get("BENCH_DIE_AT", "0")))
    return i


@task
async def amarked(folder: str, branch: int, i: int) -> int:
    await asyncio.sleep(0)
    happen(folder, f"{branch}-{i}", int(os.environ.get("BENCH_DIE_AT", "0")))
    return i


@flow
def fragile(folder: str, n: int) -> int:
    return sum(marked(folder, i) for i in range(n))


@flow
async def fragile_branches(folder: str, n: int) -> int:
    async def branch(number: int) -> int:
        return sum([await amarked(folder, number, i) for i in range(20)])

    return sum(await asyncio.gather(*[branch(number) for number in range(n)]))


FRAGILE: dict[str, Flow[..., Any]] = {"W10": fragile, "W10g": fragile_branches}


def killed(name: str) -> Measure:
    """Seconds of the whole process that resumes a run which was killed half way, and what ran twice."""

    def measure(folder: Path, n: int, _: str) -> dict[str, Any]:
        total = n if name == "W10" else 20 * n
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.bench_agentflow",
            "--child",
            name,
            str(folder),
            str(n),
        ]
        first = subprocess.run(command, env={**os.environ, "BENCH_DIE_AT": str(total // 2)}, check=False)
        assert first.returncode == -signal.SIGKILL
        before = (folder / "marks").read_text(encoding="utf-8").splitlines()
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        marks = (folder / "marks").read_text(encoding="utf-8").splitlines()
        assert len(set(marks)) == total
        return {"seconds": seconds, "marks_before": len(before), "ran_twice": len(marks) - total}

    return measure


def child(name: str, folder: Path, n: int) -> None:
    """A process that runs or resumes a fragile flow."""
    journal = journal_in(folder)
    due = journal.due_runs(time.time())
    which, arguments = FRAGILE[name], {"folder": str(folder), "n": n}
    outcome = which.resume(due[0].id, journal=journal) if due else which.run(arguments, journal=journal)
    assert outcome.state is StateType.COMPLETED, outcome
    journal.close()


#: By name: the usual size, and how it is measured.
WORKLOADS: dict[str, tuple[int, Measure]] = {
    "W1": (1000, whole_run(seq)),
    "W2": (1000, whole_run(aseq)),
    "W3": (1000, fan_out),
    "W4": (200, runs_of_nothing),
    "W4cold": (5, cold),
    "W5": (1000, again),
    "W6": (200, whole_run(payload)),
    "W7": (1000, growth),
    "W8": (10_000, queue),
    "W8list": (100_000, listing),
    "W9": (7, importing),
    "W10": (1000, killed("W10")),
    "W10g": (50, killed("W10g")),
}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("--n", type=int, default=None)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("-o", "--opt", action="append", default=[])
    given = parser.parse_args()
    mode = dict(item.split("=", 1) for item in given.opt).get("mode", "")
    usual, measure = WORKLOADS[given.workload]
    n = given.n or usual
    samples: list[float] = []
    figures: dict[str, Any] = {}
    for _ in range(given.reps):
        with tempfile.TemporaryDirectory(prefix="agentflow-bench-") as folder:
            figures = measure(Path(folder), n, mode)
        samples.append(figures.pop("seconds"))
    middle = statistics.median(samples)
    print(
        json.dumps(
            {
                "peer": "agentflow",
                "workload": given.workload,
                "n": n,
                "mode": mode,
                "reps": given.reps,
                "median_s": round(middle, 6),
                "min_s": round(min(samples), 6),
                "us_per_op": round(middle / n * 1e6, 2),
                "ops_per_s": round(n / middle, 1),
            }
            | figures
        )
    )


if __name__ == "__main__":
    main()
