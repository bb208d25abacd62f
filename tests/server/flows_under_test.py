"""Flows that the tests of the server run."""

import threading
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, Field

from agentflow import flow, get_run_logger, request_input, task, wait_for_event

sent: list[dict[str, Any]] = []
"""What `send` has really done, in its order."""
charges: list[int] = []


class Note(BaseModel):
    title: str
    lines: list[str] = []


class Answer(BaseModel):
    mood: Literal["good", "bad"] = Field(description="How is it going?")
    score: int = Field(ge=1, le=10)
    remark: str | None = None


@task
def read(number: int) -> Note:
    get_run_logger().info("reading %d", number)
    return Note(title=f"note {number}", lines=["one", "two"])


@task(side_effect=True, approval="always")
def send(note: Note, to: str, amount: Decimal, copies: int, text: str, *, urgent: bool = False) -> str:
    """Sends a note to somebody."""
    sent.append(
        {"to": to, "amount": amount, "copies": copies, "text": text, "urgent": urgent, "title": note.title}
    )
    return f"sent to {to}"


@flow
def post(to: str = "bob", text: str = "Dear Bob,\n\nhow are you?\n") -> str:
    """Posts a note."""
    return send(read(1), to, Decimal("12.50"), 2, text)


@task(side_effect=True)
def charge(amount: int) -> str:
    charges.append(amount)
    raise TimeoutError("the bank did not answer")


@flow(retries=1)
def bill(amount: int = 7) -> str:
    return charge(amount)


@flow
def survey() -> dict[str, Any]:
    return request_input("How was it?", Answer).result().model_dump()


@flow
def number() -> int:
    return request_input("Which number?", int).result() + 1


@flow
def parcel() -> Any:
    read(7)
    return wait_for_event("delivered").result()


@flow
def broken(text: str = "<script>alert(1)</script>") -> None:
    read(3)
    raise ValueError(text)


@flow
def echo(value: Any = None) -> Any:
    return value


@task
def double(number: int) -> int:
    return number * 2


@flow
def many(count: int = 10_000) -> int:
    return sum(double(number) for number in range(count))


line_is_up = threading.Event()
"""What `ring` needs."""


@task
def ring(number: int) -> str:
    if not line_is_up.is_set():
        raise ConnectionError("the line is down")
    return f"rang {number}"


@task(side_effect=True)
def notify(to: str, text: str) -> str:
    sent.append({"to": to, "text": text})
    return f"told {to}"


@flow
def call_up(to: str = "bob", number: int = 5) -> list[str]:
    """Reads, rings and tells."""
    read(number)
    return [ring(number), notify(to, "it rang")]


gate = threading.Event()
"""What `hold` waits for."""


@task
def hold() -> str:
    gate.wait(20)
    return "released"


@flow
def held() -> str:
    return hold()


FLOWS = {item.name: item for item in (post, bill, survey, number, parcel, broken, echo, many, held, call_up)}
