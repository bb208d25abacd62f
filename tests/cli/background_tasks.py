"""Tasks that the tests serve from the command line, and a program that asks for them."""

import os
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow import task
from agentflow.futures import RunFuture


def note(what: str) -> None:
    """Leave a trace of what was really executed, in the file that WORLD names."""
    with Path(os.environ["WORLD"]).open("a") as world:
        world.write(f"{what}\n")


@task
def part(number: int) -> int:
    note(f"part {number}")
    return number * number


@task
def total(parts: int) -> int:
    """Holds before its last part, until the test opens the gate."""
    found = 0
    for number in range(parts):
        while number == parts - 1 and not Path(os.environ["WORLD"] + ".open").exists():
            select.select([], [], [], 0.01)
        found += part(number)
    return found


@task(side_effect=True, approval="always")
def pay(amount: int) -> str:
    note(f"pay {amount}")
    return f"paid {amount}"


@dataclass
class Shop:
    rate: int

    @task
    def price(self, amount: int) -> int:
        return amount * self.rate


def main() -> None:
    """Ask for a task, or read a result: ``ask total 3``, ``ask pay 5``, ``read RUN``."""
    if sys.argv[1] == "ask":
        known: dict[str, Any] = {"total": total, "pay": pay, "price": Shop(3).price}
        asked = known[sys.argv[2]]
        print(asked.delay(int(sys.argv[3])).run_id)
    else:
        future = RunFuture[object](sys.argv[2], "anything")
        print(future.result(timeout=60))


if __name__ == "__main__":
    main()
