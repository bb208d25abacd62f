"""Tasks whose bodies run in other processes, which import this module and little else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from agentflow import (
    concurrency,
    flow,
    get_run_context,
    get_run_logger,
    idempotency_key,
    rate_limit,
    sleep,
    task,
)
from agentflow.runtime import flow_run

LANGUAGE: ContextVar[str] = ContextVar("language", default="none")


class Refused(Exception):
    """An exception with a constructor of its own."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"code {code} at {where}")
        self.code, self.where = code, where


class Unpicklable(Exception):
    """An exception that holds what cannot be sent."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


@task
def square(x: int) -> int:
    return x * x


@task
async def square_async(x: int) -> int:
    await asyncio.sleep(0)
    return x * x


@task
def where() -> int:
    return os.getpid()


@task
def language() -> str:
    return LANGUAGE.get()


@task
def context() -> tuple[str, str, int, frozenset[str], str]:
    here = get_run_context()
    return here.flow, here.step, here.attempt, here.tags, idempotency_key()


@task(log_prints=True)
def talks() -> None:
    print("printed", 1)
    get_run_logger().warning("logged %d", 2)


@task
def refused() -> None:
    raise Refused(7, where="the gate")


@task
def refused_with_a_lock() -> None:
    raise Unpicklable


@task
def locked() -> Any:
    return threading.Lock()


@task
def takes(value: Any, other: int = 0) -> None:
    del value, other


@task
def exits(code: int) -> None:
    os._exit(code)


@task
def leaves() -> None:
    sys.exit(3)


@task
def own_timeout() -> None:
    message = "own"
    raise TimeoutError(message)


@task
def calls_others(x: int) -> int:
    return square(x) + asyncio.run(square_async(x))


@task(side_effect=True)
def pay(amount: int) -> int:
    return amount


@flow
def inner() -> int:
    return 1


@task
def asks_for(what: str) -> Any:
    if what == "an effect":
        return pay(1)
    if what == "a wait":
        return sleep(1).result()
    if what == "a slot":
        with concurrency("db"):
            return None
    if what in {"a rate", "its run"}:
        return rate_limit("api") if what == "a rate" else flow_run.id
    if what in {"a submit", "a delay"}:
        return square.submit(1).result() if what == "a submit" else square.delay(1).run_id
    return inner()


@task
def count(n: int) -> Iterator[int]:
    yield from range(n)


@task
async def count_async(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


@task(timeout_seconds=0.3)
def never_ends(fifo: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    tell(fifo, f"{os.getpid()} {child.pid}")
    signal.pause()


@task
def hangs(fifo: str) -> None:
    tell(fifo, str(os.getpid()))
    signal.pause()


def tell(fifo: str, text: str) -> None:
    with Path(fifo).open("w") as file:
        file.write(text)


@task
def marked_pid(number: int) -> int:
    return os.getpid() + 0 * number
