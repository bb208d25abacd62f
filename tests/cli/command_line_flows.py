"""Flows that the tests run from the command line."""

import asyncio
import os
import select
from pathlib import Path

from pydantic import BaseModel

from agentflow import (
    INPUTS,
    State,
    concurrency,
    flow,
    get_run_logger,
    request_input,
    sleep,
    states,
    task,
    wait_for_event,
)


class Address(BaseModel):
    """Where something goes."""

    town: str
    number: int = 1


def note(what: str) -> None:
    """Leave a trace of what was really executed, in the file that WORLD names."""
    with Path(os.environ["WORLD"]).open("a") as world:
        world.write(f"{what}\n")


def is_open() -> bool:
    """Whether the test has opened the gate."""
    return Path(os.environ["WORLD"] + ".open").exists()


@task
def double(number: int) -> int:
    note(f"double {number}")
    return 2 * number


@task(side_effect=True, approval="always")
def pay(to: str, amount: int) -> str:
    """Pay somebody."""
    note(f"pay {amount} to {to}")
    return f"paid {amount} to {to}"


@flow
def doubled(numbers: list[int], to: Address | None = None) -> int:
    print("printed by the flow")
    get_run_logger().info("logged by the flow")
    return sum(double(number) for number in numbers)


@task(task_run_name="number four", tags=["extra"])
def named(number: int) -> int:
    return number


@task
def measured() -> State[int]:
    return states.Completed(data=1, message="half of it", name="Partial")


@flow
def enough() -> State[str]:
    measured()
    return states.Completed(data="so far", message="not all", name="Enough")


@flow(flow_run_name="labelled {number}", tags=["big", "red"])
def labelled(number: int) -> int:
    return named(number)


@flow
def payment(amount: int = 3, to: str = "bob") -> str:
    return pay(to, double(amount))


@flow
def careful(amount: int = 3) -> str:
    address = request_input("Where to?", Address).result()
    return f"{amount} to {address.town} {address.number}"


@flow
def broken() -> None:
    raise ValueError("no\nway")


@flow
async def waits_for_event() -> str:
    word: str = await wait_for_event("word", str)
    return word


@flow
async def waits_for_much(names: int = 7) -> None:
    """For each of several events twice, and for two timers."""
    events = [wait_for_event(f"event {number // 2}", str) for number in range(2 * names)]
    await asyncio.gather(sleep(3600), sleep(7200), *events)


@flow
async def waits_for_long() -> None:
    await sleep(3600)


@task
def hold(number: int) -> int:
    note(f"hold {number}")
    while not is_open():
        select.select([], [], [], 0.01)
    return number


@flow
def held() -> int:
    return double(1) + hold(2)


@task
async def hold_async(number: int) -> int:
    note(f"hold {number}")
    while not is_open():
        await asyncio.to_thread(select.select, [], [], [], 0.01)
    return number


@flow
def held_half_way() -> int:
    return double(1) + hold(2) + double(3)


@flow
async def held_async() -> int:
    return await hold_async(2)


@task(side_effect=True)
def risky(to: str) -> str:
    note(f"risky {to}")
    if not is_open():
        os._exit(9)
    return "done"


@flow
def doubtful() -> str:
    return risky("bob")


@task
def check(number: int) -> int:
    note(f"check {number}")
    if not is_open():
        raise ValueError("not yet")
    return number


@flow
def checked() -> int:
    return double(1) + check(2) + double(3)


@task(cache_policy=INPUTS)
def squared(number: int) -> int:
    note(f"squared {number}")
    return number * number


@flow
def squares(numbers: list[int]) -> int:
    return sum(squared(number) for number in numbers)


@task(side_effect=True, approval="never")
def free(to: str, amount: int) -> str:
    note(f"free {amount} to {to}")
    return f"free {amount} to {to}"


@flow
def paid_twice(to: str = "bob") -> str:
    double(1)
    free("ann", 2)
    double(3)
    return free(to, 3)


@flow
def limited() -> int:
    with concurrency("db"):
        return double(1)


@flow
def errand(amount: int = 1) -> str:
    amount += double(1) + hold(2)
    address = request_input("Where to?", Address).result()
    return pay(address.town, amount)


@flow
def echoed(text: str) -> str:
    """What it was given."""
    return text
