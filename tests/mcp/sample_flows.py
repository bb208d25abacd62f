"""The flows that the tests of this room serve. What really happens is appended to the file that WORLD names."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentflow import Flow, flow, request_input, sleep, task, wait_for_event


class Receipt(BaseModel):
    """What a refund gives."""

    order_id: str
    amount: int
    note: str = ""


class Address(BaseModel):
    """A flat object, as a form can ask for it."""

    street: str
    number: int = 1


def happen(what: str) -> None:
    """Leave a mark in the world outside."""
    with Path(os.environ["WORLD"]).open("a", encoding="utf-8") as world:
        world.write(what + "\n")


@task
def find_order(order_id: str) -> str:
    """Look an order up."""
    happen(f"find {order_id}")
    return order_id.upper()


@task(side_effect=True)
def refund(order_id: str, amount: int, note: str = "") -> Receipt:
    """Pay money back to a customer.

    Not shown in the form: a second paragraph.
    """
    happen(f"refund {order_id} {amount} {note}".strip())
    return Receipt(order_id=order_id, amount=amount, note=note)


@flow
def refund_order(order_id: str, amount: int = 5) -> Receipt:
    """Refund an order."""
    return refund(find_order(order_id), amount)


@flow
def refund_late(order_id: str) -> Receipt:
    """Refund an order once the shop is open."""
    found = find_order(order_id)
    if not Path(os.environ["WORLD"]).with_name("open").exists():
        raise LookupError("the shop is closed")
    return refund(found, 3)


@flow
def refund_two(first: str, second: str) -> list[Receipt]:
    """Refund two orders, at the same time."""
    futures = [refund.submit(first, 1), refund.submit(second, 2)]
    return [future.result() for future in futures]


@flow
def refund_in_turn(first: str, second: str) -> list[Receipt]:
    """Refund two orders, one after the other."""
    return [refund(first, 1), refund(second, 2)]


@flow(tags=["mcp:read-only", "mcp:idempotent", "mcp:closed-world"])
def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


@task
def step(number: int) -> int:
    """One of many."""
    return number


@flow
def count(steps: int) -> dict[str, int]:
    """Do some steps."""
    return {"total": sum(step(number) for number in range(steps))}


@flow
def broken(text: str) -> int:
    """Fail."""
    raise LookupError(text)


@flow
def lies() -> int:
    """Return something else than it says."""
    return "not a number"  # pyright: ignore[reportReturnType]


@flow
def untyped(value: Any) -> Any:
    """Say nothing of types."""
    return value


@flow
def ask_name() -> str:
    """Ask a person for a name."""
    return "Hello, " + request_input("What is your name?").result()


@flow
def ask_address() -> Address:
    """Ask a person for an address."""
    return request_input("Where to?", Address).result()


@flow
def nap(seconds: float = 3600) -> str:
    """Wait for a timer."""
    sleep(seconds).result()
    return "rested"


@flow
def hear() -> str:
    """Wait for an event."""
    return str(wait_for_event("bell").result())


@task(side_effect=True, approval="never")
def send() -> str:
    """Send something, and lose the line at the first try."""
    happen("sent")
    if Path(os.environ["WORLD"]).read_text(encoding="utf-8") == "sent\n":
        raise ConnectionResetError("the line broke")
    return "sent"


@flow(retries=1)
def send_once() -> str:
    """Send something, once."""
    return send()


@flow
def receipts(count: int) -> Iterator[Receipt]:
    """Receipts, one after the other."""
    for number in range(count):
        yield Receipt(order_id=f"A{number}", amount=number)


@flow
def refund_sometime(order_id: str) -> str:
    """Have an order refunded in the background; gives the id of that run."""
    return refund.delay(order_id, 3).run_id


#: Tests in the server's own process let `hold` go on with it.
GATE = threading.Event()


@task
def held() -> None:
    """Work until somebody opens the gate."""
    GATE.wait(30)


@flow
def hold() -> str:
    """Work for as long as the test wants."""
    held()
    return "let go"


_ALL: tuple[Flow[..., Any], ...] = (
    ask_address, ask_name, broken, count, greet, hear, hold, lies, nap,
    receipts, refund_in_turn, refund_late, refund_order, refund_sometime, refund_two, send_once, untyped,
)  # fmt: skip
FLOWS = {made.name: made for made in _ALL}
