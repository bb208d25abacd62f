"""A process that works under a limit, for the tests of several of them.

Usage: ``python -m tests.engine.limit_driver JOURNAL LOG WHAT``: writes ``begin`` and ``end`` with the monotonic clock
of the machine to LOG. WHAT: ``blocks``, ``tags``, ``flow``, ``process`` (many short turns), ``crowd`` (very many tasks
that all wait at once), or ``hold``, ``hold-tag``, ``hold-flow``, ``hold-process``, ``hold-deployed``: one
turn that lasts until the process is killed, or until its standard input ends. ``deployed`` executes runs of deployments
that others ask for, until then.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from agentflow import concurrency, flow, task
from agentflow.engine.active import Options
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal
from agentflow.journal.sqlite import SqliteJournal
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker

KEY = b"k" * 32
TURNS = 9
CROWD = 250
LEASE = 0.5
LOG = [Path("log")]


def log(what: str) -> None:
    """One line, written at once."""
    descriptor = os.open(LOG[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {os.getpid()} {time.monotonic_ns()}\n".encode())
    os.close(descriptor)


def work() -> None:
    """What must not be done by too many at once."""
    log("begin")
    sum(range(300_000))
    log("end")


@task
def turn(number: int) -> int:
    with concurrency("db"):
        work()
    return number


@task(tags=["db"])
async def tagged(number: int) -> int:
    work()
    await asyncio.sleep(0)
    return number


@flow
def blocks() -> None:
    for number in range(TURNS):
        turn(number)


@flow
async def tags() -> None:
    await asyncio.gather(*(tagged(number) for number in range(TURNS)))


@flow(concurrency_limit=3)
def limited() -> None:
    work()


@task(side_effect=True, approval="never")
def pay() -> None:
    log("paid")


@flow
def hold() -> None:
    with concurrency("db"):
        log("begin")
        sys.stdin.read()
        pay()


@task(tags=["db"])
def tagged_turn() -> None:
    log("begin")
    sys.stdin.read()
    pay()


@flow
def hold_tag() -> None:
    tagged_turn()


@flow(name="limited")
def hold_flow() -> None:
    log("begin")
    sys.stdin.read()
    pay()


@flow
def deployed() -> None:
    work()


@flow(name="deployed")
def hold_deployed() -> None:
    log("begin")
    sys.stdin.read()
    pay()


@task(tags=["db"])
async def short(number: int) -> int:
    log("begin")
    await asyncio.sleep(0)
    log("end")
    return number


@flow
async def crowd() -> int:
    return sum(await asyncio.gather(*(short(number) for number in range(CROWD))))


FLOWS = {
    "blocks": blocks,
    "tags": tags,
    "crowd": crowd,
    "hold": hold,
    "hold-tag": hold_tag,
    "hold-flow": hold_flow,
}


def _always(journal: Journal) -> Callable[[Settings], Journal]:
    def opened(_: Settings) -> Journal:
        return journal

    return opened


def open_in(where: str) -> Journal:
    """The journal at an address of PostgreSQL, or in a file."""
    if where.startswith("postgresql:"):
        return PostgresJournal(where, KEY, lease=LEASE)
    return SqliteJournal(Path(where), KEY)


def main() -> None:
    """Do what the command line says."""
    where, log_file, what = sys.argv[1:]
    LOG[0] = Path(log_file)
    journal = open_in(where)
    options = Options(settings=Settings(lease=LEASE))
    with patch("agentflow.concurrency.open_journal", _always(journal)):
        print("ready", flush=True)
        sys.stdin.readline()
        if what == "process":
            for _ in range(TURNS):
                with concurrency("db"):
                    work()
        elif what == "hold-process":
            with concurrency("db"):
                log("begin")
                sys.stdin.read()
            log("end")
        elif what in ("deployed", "hold-deployed"):
            served = deployed if what == "deployed" else hold_deployed
            worker = InlineWorker(journal, {"deployed": served}, options=replace(options, suspend_after=60.0))
            with worker:
                sys.stdin.read()
        elif what == "flow":
            for _ in range(TURNS // 3):
                limited.run({}, journal=journal, options=options)
        else:
            FLOWS[what].run({}, journal=journal, options=options)


if __name__ == "__main__":
    main()
