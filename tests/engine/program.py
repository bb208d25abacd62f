"""A program of a user's: runs the flow that it is told to and says what it sees. Usage: ``program FLOW [HANDLER]``."""

import asyncio
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

from agentflow import flow, sleep, task
from agentflow.errors import Stopping

GATE = Path(os.environ["GATE"])


def say(word: str) -> None:
    print(word, flush=True)


def hold() -> None:
    say("holding")
    while not GATE.exists():
        select.select([], [], [], 0.01)


def tidy(*_: Any) -> None:
    say("tidied")


@task
def first() -> int:
    return 1


@task
def held() -> None:
    hold()


@task
async def held_async() -> None:
    say("holding")
    await asyncio.Event().wait()


@task
def last() -> None:
    say("began too late")


@task(side_effect=True)
def pay() -> str:
    hold()
    return "paid"


@task(retries=1, retry_delay_seconds=3600)
def fails() -> None:
    say("holding")
    raise ValueError


@flow
def below() -> None:
    held()


@flow
def in_task() -> None:
    first()
    try:
        held()
    finally:
        say("unwound")
    last()


@flow
def in_sub_flow() -> None:
    first()
    below()


@flow
def in_thread() -> None:
    first()
    held.submit().result()


@flow
def in_delay() -> None:
    first()
    fails()


@flow
def in_wait() -> None:
    first()
    say("holding")
    sleep(3600).result()


@flow
def in_effect() -> None:
    first()
    pay()
    last()


@flow(on_cancellation=tidy)
def hooked() -> None:
    first()
    held()


@flow
async def in_async_task() -> None:
    first()
    await asyncio.gather(held_async(), held_async())


@flow
async def in_async_wait() -> None:
    first()
    say("holding")
    await sleep(3600)


@flow
async def in_blocked_loop() -> None:
    first()
    held()


@flow(on_cancellation=tidy)
async def hooked_async() -> None:
    first()
    await held_async()


async def two_at_once() -> None:
    await asyncio.gather(in_async_wait(), in_async_task())


async def on_a_loop_with_a_handler() -> None:
    task = asyncio.current_task()
    assert task is not None

    def mine() -> None:
        say("mine")
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, mine)
    await in_async_task()


@task
def takes_a_while() -> str:
    select.select([], [], [], 1.0)  # several times the patience of the process
    return "done"


@flow
def later() -> str:
    return takes_a_while()


def goes_on() -> None:
    try:
        in_task()
    except Stopping:
        say(later())


def mine(_number: int, _frame: Any) -> None:
    say("mine")


if __name__ == "__main__":
    if "mine" in sys.argv:
        signal.signal(signal.SIGTERM, mine)
    which = globals()[sys.argv[1]]
    try:
        answer = which()
        if asyncio.iscoroutine(answer):
            asyncio.run(answer)
    except BaseException as error:
        say(type(error).__name__)
        GATE.touch()  # the interpreter waits for threads before it ends
        raise
