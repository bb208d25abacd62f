"""Right and wrong calls of the public API; the test beside this file has pyright judge each line marked here.

``# error`` on a line: pyright must find an error there, and nowhere else. Never imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from agentflow import (
    Flow,
    State,
    Task,
    TaskFuture,
    flow,
    recorded,
    request_input,
    sleep,
    task,
    unmapped,
    wait_for_event,
)
from agentflow.futures import TaskFutureList
from agentflow.states import Completed


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task(retries=3, retry_delay_seconds=[1, 5], tags=["a"])
async def fetch(url: str) -> bytes:
    return url.encode()


@task(side_effect=True, not_done_on=ConnectionError, approval="always")
def pay(amount: int) -> str:
    return str(amount)


class Shop:
    @task
    def price(self, amount: int) -> float:
        return amount * 1.5

    @flow
    def sell(self, amount: int) -> float:
        return self.price(amount)


@flow
def inner(x: int) -> list[int]:
    return [x]


@flow(retries=2, timeout_seconds=5, log_prints=True)
async def outer(name: str, *, count: int = 1) -> dict[str, int]:
    # calls
    assert_type(add(1), int)
    assert_type(add(1, y=2), int)
    assert_type(await fetch("u"), bytes)
    assert_type(pay(5), str)
    assert_type(inner(3), list[int])
    assert_type(Shop().price(3), float)
    assert_type(Shop().sell(3), float)

    # futures
    assert_type(add.submit(1), TaskFuture[int])
    assert_type(add.submit(1).result(), int)
    assert_type(await add.submit(1), int)
    assert_type(fetch.submit("u"), TaskFuture[bytes])
    assert_type(await fetch.submit("u"), bytes)
    assert_type(add.map([1, 2], unmapped(3)), TaskFutureList[int])
    assert_type(fetch.map(["u"]), TaskFutureList[bytes])
    assert_type([future.result() for future in add.map([1])], list[int])
    assert_type(Shop().price.submit(3), TaskFuture[float])

    # waits
    assert_type(await wait_for_event("paid", int), int)
    assert_type(wait_for_event("paid", int, timeout=5).result(), int)
    assert_type(await wait_for_event("paid"), Any)
    assert_type(await request_input("Why?"), str)
    assert_type(await request_input("How many?", int), int)
    assert_type(await sleep(5), None)

    # recorded
    assert_type(recorded.random(), float)

    # what is wrong
    add("1")  # error
    add()  # error
    add(1, z=2)  # error
    await add(1)  # error
    await fetch(5)  # error
    add.submit("1")  # error
    add.submit()  # error
    fetch.submit(1)  # error
    fetch.submit("u").result().nothing()  # error
    inner("x")  # error
    text: str = add(1)  # error
    number: int = await fetch("u")  # error
    request_input("How many?", int, timeout="soon")  # error
    sleep("soon")  # error
    return {name: count, text: number}


@flow
async def asks_for_states() -> None:
    assert_type(add(1, return_state=True), State[int])
    assert_type(add(1, return_state=True).result(), int)
    assert_type(await fetch("u", return_state=True), State[bytes])
    assert_type(add(1, wait_for=[add.submit(1)]), int)
    assert_type(await fetch("u", wait_for=[add.submit(1)]), bytes)
    assert_type(add.submit(1, return_state=True), State[int])
    assert_type(fetch.submit("u", return_state=True), State[bytes])
    assert_type(add.submit(1, wait_for=[add.submit(1)]), TaskFuture[int])
    assert_type(fetch.submit("u", wait_for=[add.submit(1)]), TaskFuture[bytes])
    assert_type(add.map([1], return_state=True), list[State[int]])
    assert_type(add.submit(1).state, State[int])
    assert_type(inner(3, return_state=True), State[list[int]])
    assert_type(Shop().price(3, return_state=True), State[float])
    assert_type(Shop().sell(3, return_state=True), State[float])
    assert_type(Completed(data=3), State[int])


@flow
async def uses_flows() -> None:
    assert_type(await outer("x", count=2), dict[str, int])
    await outer(5)  # error
    await outer("x", 2)  # error
    await outer("x", amount=2)  # error


# definitions
task(retries="3")(len)  # error
task(unknown=1)(len)  # error
flow(timeout_seconds="soon")(len)  # error
assert_type(add, Task[[int, int], int])  # error
taken: Callable[[int], int] = add
refused: Callable[[str], int] = add  # error
whole: Flow[..., list[int]] = inner
other: Flow[..., list[str]] = inner  # error
assert_type(add.with_options(retries=2)(1), int)
assert_type(inner.with_options(retries=2)(1), list[int])
