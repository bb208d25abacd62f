"""Flows that workers run in processes of their own: well-behaved ones, and ones that do not stop."""

import os
import select
import signal
import subprocess
import sys
from collections import deque
from itertools import repeat
from pathlib import Path

from agentflow import flow, get_run_context, task, wait_for_event
from agentflow.states import State

WORLD = Path(os.environ.get("WORLD", os.devnull))


def note(what: str) -> None:
    """Leave a trace of what was really executed."""
    with WORLD.open("a") as world:
        world.write(f"{what} {os.getpid()}\n")


def is_open() -> bool:
    """Whether the test has opened the gate."""
    return WORLD.with_suffix(".open").exists()


@task
def step(number: int) -> int:
    note(f"step {number}")
    return number


@task
def hold() -> int:
    note("hold")
    while not is_open():
        select.select([], [], [], 0.01)
    return 1


@flow
def simple(number: int = 1) -> int:
    """Two steps."""
    print("printed by the flow")
    return step(number) + step(number + 1)


@flow(log_prints=True)
def talkative() -> None:
    print("recorded once")
    sys.stderr.write("complained\n")


@flow
def held() -> int:
    return step(1) + hold()


@flow
def waits() -> str:
    return wait_for_event("word", str).result()


@flow
def deaf() -> None:
    """Ignores SIGTERM, and never comes to a next step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(
        ["/bin/sh", "-c", "trap '' TERM; while :; do read x; done"], stdin=subprocess.PIPE
    )
    note(f"deaf {child.pid}")
    while True:
        try:
            select.select([], [], [], 0.01)
        except BaseException:  # noqa: BLE001 - what the worker must cope with
            note("interrupted")


def tell_of_it(*_: object) -> None:
    note("tidied")


@flow(on_cancellation=tell_of_it)
def deaf_with_hooks() -> None:
    """The same, and somebody wants to know."""
    deaf.fn()


@flow
def stuck_in_c() -> None:
    """Never lets Python run again, not even for a signal."""
    note("stuck")
    deque(repeat(1), maxlen=0)


@task(side_effect=True)
def pay(to: str) -> str:
    note(f"pay {to}")
    while not is_open():
        select.select([], [], [], 0.01)
    return "paid"


@flow
def paying() -> str:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return pay("bob")


@flow
def crashing() -> None:
    step(get_run_context().attempt)
    os._exit(9)


@flow
def crashing_once() -> int:
    one = step(1)
    if not is_open():
        WORLD.with_suffix(".open").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return one


def tell_of_crash(_flow: object, _run: object, state: State[object]) -> None:
    note(f"told-of {state.type.value}")


@flow(on_crashed=[tell_of_crash])
def poison(how: str) -> str:
    """Takes its process down in each life, until the gate is open."""
    step(7)
    if not is_open():
        die(how)
    return "lived"


def die(how: str) -> None:
    """By an exit, by what the kernel does to who needs too much memory, or by a signal."""
    if how == "exit":
        os._exit(9)
    hoard: list[bytes] = []
    while how == "memory":
        hoard.append(b"x" * (1 << 24))
    os.kill(os.getpid(), getattr(signal, how))


@flow
def innocent() -> int:
    return hold()
