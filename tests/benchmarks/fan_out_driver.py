"""A process that maps a task: FOLDER sync|async COUNT BYTES; prints seconds and memory as JSON."""

import gc
import json
import sys
import time
from pathlib import Path

from agentflow import flow, task
from agentflow.engine.active import Options
from agentflow.journal.sqlite import SqliteJournal
from agentflow.settings import Settings


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@task
def text(index: int, size: int) -> str:
    return f"{index}".ljust(size, "x")


@task
async def text_async(index: int, size: int) -> str:
    return f"{index}".ljust(size, "x")


@flow
def mapped(count: int, size: int) -> int:
    futures = text.map(range(count), size)
    futures.wait()
    gc.collect()
    return resident()


@flow
async def mapped_async(count: int, size: int) -> int:
    futures = text_async.map(range(count), size)
    for future in futures:
        await future.ended()
    gc.collect()
    return resident()


def main() -> None:
    folder, colour, count, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    journal = SqliteJournal(folder / f"{colour}-{count}-{size}.db", b"k" * 32)
    which = mapped if colour == "sync" else mapped_async
    which.run({"count": 10, "size": size}, journal=journal, options=Options(Settings(home=folder)))
    gc.collect()
    before, begin = resident(), time.perf_counter()
    outcome = which.run(
        {"count": count, "size": size}, journal=journal, options=Options(Settings(home=folder))
    )
    seconds = time.perf_counter() - begin
    journal.close()
    print(json.dumps({"seconds": seconds, "kilobytes_each": (outcome.value - before) / count / 1000}))


main()
