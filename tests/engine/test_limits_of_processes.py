"""Limits hold among real processes, and what a killed one held is free at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.limits import Limit
from tests.engine.limit_driver import KEY, TURNS

ROOT = Path(__file__).parents[2]
LIMIT, PROCESSES = 3, 5
LEASE = 30.0


def process(folder: Path, what: str) -> subprocess.Popen[str]:
    """A process that is ready to begin."""
    command = [
        sys.executable,
        "-m",
        "tests.engine.limit_driver",
        str(folder / "j.db"),
        str(folder / "log"),
        what,
    ]
    made = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n"
    return made


def go(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()


def journal_in(folder: Path) -> SqliteJournal:
    return SqliteJournal(folder / "j.db", KEY)


def events(folder: Path) -> list[tuple[str, int, int]]:
    """What the processes have logged, in the order of the machine's clock."""
    path = folder / "log"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return sorted(((what, int(pid), int(at)) for what, pid, at in lines), key=lambda event: event[2])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["blocks", "tags", "flow", "process"])
def test_never_more_than_the_limit_at_once(tmp_path: Path, what: str) -> None:
    """Five processes share three slots: by blocks in tasks, by a tag, by runs of a flow, by blocks without a flow."""
    journal = journal_in(tmp_path)
    journal.set_limit(Limit({"tags": "tag:db", "flow": "flow:limited"}.get(what, "db"), LIMIT))
    everybody = [process(tmp_path, what) for _ in range(PROCESSES)]
    for one in everybody:
        go(one)
    for one in everybody:
        one.communicate()
        assert one.returncode == 0
    now = most = 0
    for event, _, _ in events(tmp_path):
        now += 1 if event == "begin" else -1
        most = max(most, now)
    turns = TURNS // 3 if what == "flow" else TURNS
    assert len(events(tmp_path)) == 2 * PROCESSES * turns
    assert most <= LIMIT
    assert most > 1, "they never met"
    assert journal.list_slots() == []
    journal.close()


@pytest.mark.parametrize("what", ["hold", "hold-process"])
def test_what_a_killed_process_held_is_free_at_once(tmp_path: Path, what: str) -> None:
    """Long before its lease is over, whoever waits has the slot; nobody had to be told."""
    journal = journal_in(tmp_path)
    journal.set_limit(Limit("db", 1))
    first, second = process(tmp_path, what), process(tmp_path, what)
    go(first)
    _until(lambda: len(events(tmp_path)) == 1)
    go(second)
    _until(lambda: bool(journal.list_slots(waiting_only=True)))
    assert len(events(tmp_path)) == 1
    first.kill()
    first.wait()
    killed = time.monotonic_ns()
    _until(lambda: len(events(tmp_path)) == 2)
    (_, holder, _), (_, heir, at) = events(tmp_path)
    assert (holder, heir) == (first.pid, second.pid)
    assert (at - killed) / 1e9 < LEASE / 3
    second.kill()
    second.wait()
    assert journal.list_slots() == []
    for one in (first, second):
        one.communicate()
    journal.close()


def _until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does, which nothing here can be told of."""
    deadline = time.monotonic() + LEASE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        pause.wait(0.005)
