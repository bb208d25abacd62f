"""A process that makes one serialised call: ``python -m tests.fundamentals.cache_driver FOLDER``.

It prints "waiting" when the key is taken, "running" when its task has begun and waits for a line, then its value and
how many hits it had.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from agentflow import flow, task
from agentflow.cache_policies import INPUTS
from agentflow.engine.active import Options
from agentflow.journal.protocol import CacheLock
from agentflow.journal.sqlite import SqliteJournal
from agentflow.settings import Settings
from tests.fundamentals.lives import KEY


class Telling(SqliteJournal):
    """Says that a key is taken."""

    def lock_key(self, lock: CacheLock, around: Sequence[bytes] = ()) -> CacheLock | None:
        holder = super().lock_key(lock, around)
        if holder != lock:
            print("waiting", flush=True)
        return holder


@task(cache_policy=INPUTS.configure(isolation_level="SERIALIZABLE"))
def work(x: int) -> int:
    print("running", flush=True)
    sys.stdin.readline()
    return x


@flow
def run() -> int:
    return work(1)


def main() -> None:
    """Make the call."""
    folder = Path(sys.argv[1])
    outcome = run.run(
        {}, journal=Telling(folder / "j.db", KEY), options=Options(settings=Settings(home=folder))
    )
    print(outcome.value, outcome.tally.cached, flush=True)


if __name__ == "__main__":
    main()
