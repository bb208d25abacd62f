"""The flows of the simulation: random programs of steps, effects, waits, slots and sub-flows, whose result is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from agentflow import concurrency, flow, request_input, sleep, task, wait_for_event
from agentflow.run_context import idempotency_key

Op = list[Any]
Program = list[Op]
SLOTS = "machine"
TAG = "scarce"
_MODULUS = 99_991


class Outside(Protocol):
    """What the bodies of steps meet: the world outside of the journal."""

    def body(self, k: int) -> None:
        """The body of step `k` begins."""
        ...

    def pay(self, k: int) -> None:
        """A payment that must happen once."""
        ...

    def charge(self, k: int, key: str) -> None:
        """A payment whose receiver knows it again by its key."""
        ...

    def fails(self, k: int) -> bool:
        """Whether something that works at the second attempt fails now."""
        ...

    def again(self, steps: list[int]) -> None:
        """These steps may run again, for the code around them has failed."""
        ...

    def enter(self, name: str, limit: int) -> None:
        """Somebody begins to use what has so many slots."""
        ...

    def leave(self, name: str) -> None:
        """And ends."""
        ...


class Here:
    """The world of the moment."""

    world: Outside


def mixed(k: int, x: int) -> int:
    """What a step gives."""
    return (x * 31 + k * 7 + 1) % _MODULUS


def given(k: int, x: int) -> dict[str, int]:
    """The value that a step records: by `k` it is known again."""
    return {"k": k, "x": mixed(k, x)}


@task
def pure(k: int, x: int) -> dict[str, int]:
    Here.world.body(k)
    return given(k, x)


@task(tags=[TAG])
def tagged(k: int, x: int) -> dict[str, int]:
    Here.world.enter(TAG, 2)
    Here.world.body(k)
    Here.world.leave(TAG)
    return given(k, x)


@task
def inside(k: int, x: int) -> dict[str, int]:
    Here.world.enter(SLOTS, 1)
    Here.world.body(k)
    Here.world.leave(SLOTS)
    return given(k, x)


@task(retries=2, retry_delay_seconds=3)
def flaky(k: int, x: int) -> dict[str, int]:
    Here.world.body(k)
    if Here.world.fails(k):
        raise OSError("not yet")
    return given(k, x)


@task(side_effect=True)
def pay(k: int, x: int) -> dict[str, int]:
    Here.world.pay(k)
    return given(k, x)


@task(side_effect=True, approval="always")
def signed(k: int, x: int) -> dict[str, int]:
    Here.world.pay(k)
    return given(k, x)


@task(side_effect=True, idempotent=True, retries=2, retry_delay_seconds=1)
def charge(k: int, x: int) -> dict[str, int]:
    Here.world.charge(k, idempotency_key())
    if Here.world.fails(k):
        raise OSError("not yet")
    return given(k, x)


@task
def around(k: int, program: Program, x: int) -> int:
    return go(program, x)


@flow(name="below")
def below(k: int, program: Program, x: int) -> int:
    return go(program, x)


@flow(name="below-again", retries=1, retry_delay_seconds=2)
def below_again(k: int, program: Program, x: int) -> int:
    x = go(program, x)
    if Here.world.fails(k):
        Here.world.again(steps_of(program))
        raise OSError("not yet")
    return x


@flow(name="program")
def simulated(number: int, program: Program) -> int:
    return go(program, number)


def go(program: Program, x: int) -> int:
    """Run a program."""
    for op in program:
        x = _STEPS[op[0]](op, x)
    return x


def _step(op: Op, x: int) -> int:
    return _TASKS[op[0]](op[1], x)["x"]


def _submitted(op: Op, x: int) -> int:
    futures = [pure.submit(k, x) for k in op[2]]
    return sum(future.result()["x"] for future in futures) % _MODULUS


def _limited(op: Op, x: int) -> int:
    with concurrency(SLOTS):
        return inside(op[1], x)["x"]


def _waited(op: Op, x: int) -> int:
    name, k = op[0], op[1]
    if name == "event":
        return mixed(k, x) + int(wait_for_event(f"news-{k}").result())
    if name == "input":
        return mixed(k, x) + request_input(f"number {k}?", int).result()
    sleep(op[2]).result()
    return mixed(k, x)


def _nested(op: Op, x: int) -> int:
    return _AROUND[op[0]](op[1], op[2], x)


_TASKS: dict[str, Callable[[int, int], dict[str, int]]] = {
    "pure": pure, "tagged": tagged, "flaky": flaky, "pay": pay, "signed": signed, "charge": charge,
}  # fmt: skip
_AROUND: dict[str, Callable[[int, Program, int], int]] = {
    "around": around,
    "below": below,
    "again": below_again,
}
_STEPS: dict[str, Callable[[Op, int], int]] = {
    **dict.fromkeys(_TASKS, _step),
    **dict.fromkeys(_AROUND, _nested),
    **dict.fromkeys(("event", "input", "sleep"), _waited),
    "submit": _submitted,
    "limited": _limited,
}


def expected(program: Program, x: int) -> int:
    """What a program gives when nothing happens to it."""
    for op in program:
        name, k = op[0], op[1]
        if name in _AROUND:
            x = expected(op[2], x)
        elif name == "submit":
            x = sum(mixed(one, x) for one in op[2]) % _MODULUS
        elif name in ("event", "input"):
            x = mixed(k, x) + k
        else:
            x = mixed(k, x)
    return x


def steps_of(program: Program) -> list[int]:
    """The steps of a program."""
    steps: list[int] = []
    for op in program:
        steps += op[2] if op[0] == "submit" else [op[1]]
        steps += steps_of(op[2]) if op[0] in _AROUND else []
    return steps


def paid_by(program: Program) -> list[int]:
    """The payments of a program."""
    own = [op[1] for op in program if op[0] in ("pay", "signed")]
    return own + [k for op in program if op[0] in _AROUND for k in paid_by(op[2])]


def charged_by(program: Program) -> list[int]:
    """The charges of a program."""
    own = [op[1] for op in program if op[0] == "charge"]
    return own + [k for op in program if op[0] in _AROUND for k in charged_by(op[2])]


_PLAIN = (
    "pure", "pure", "tagged", "flaky", "pay", "pay", "signed", "charge", "submit", "limited", "event", "input",
    "sleep",
)  # fmt: skip


def make(rng: random.Random, number: int) -> Program:
    """A program; each of its steps has a number of its own."""
    left = iter(range(number * 1000, (number + 1) * 1000))

    def one(name: str, depth: int) -> Op:
        k = next(left)
        if name in _AROUND:
            return [name, k, some(3, depth - 1)]
        if name == "submit":
            return [name, k, [next(left) for _ in range(rng.randint(2, 4))]]
        return [name, k, rng.choice((0.5, 7, 90))] if name == "sleep" else [name, k]

    def some(most: int, depth: int) -> Program:
        names = (*_PLAIN, *_AROUND) if depth else _PLAIN
        return [one(rng.choice(names), depth) for _ in range(rng.randint(1, most))]

    return some(5, 2)
