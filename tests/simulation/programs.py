"""The flows of the simulation: random programs of steps, effects, waits, slots and sub-flows, whose result is known.

Each can be run in both colours: by a sync flow of sync tasks, or by an async flow of async ones.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
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


# -- what steps do
def pure(k: int, x: int) -> dict[str, int]:
    Here.world.body(k)
    return given(k, x)


def tagged(k: int, x: int) -> dict[str, int]:
    Here.world.enter(TAG, 2)
    Here.world.body(k)
    Here.world.leave(TAG)
    return given(k, x)


def inside(k: int, x: int) -> dict[str, int]:
    Here.world.enter(SLOTS, 1)
    Here.world.body(k)
    Here.world.leave(SLOTS)
    return given(k, x)


def flaky(k: int, x: int) -> dict[str, int]:
    Here.world.body(k)
    if Here.world.fails(k):
        raise OSError("not yet")
    return given(k, x)


def pay(k: int, x: int) -> dict[str, int]:
    Here.world.pay(k)
    return given(k, x)


def charge(k: int, x: int) -> dict[str, int]:
    Here.world.charge(k, idempotency_key())
    if Here.world.fails(k):
        raise OSError("not yet")
    return given(k, x)


_EFFECT = {"side_effect": True}
#: What a step does, and the options of its task.
_BODIES: dict[str, tuple[Callable[[int, int], dict[str, int]], dict[str, Any]]] = {
    "pure": (pure, {}),
    "tagged": (tagged, {"tags": [TAG]}),
    "inside": (inside, {}),
    "flaky": (flaky, {"retries": 2, "retry_delay_seconds": 3}),
    "pay": (pay, _EFFECT),
    "signed": (pay, {**_EFFECT, "approval": "always"}),
    "charge": (charge, {**_EFFECT, "idempotent": True, "retries": 2, "retry_delay_seconds": 1}),
}


def _awaiting(body: Callable[[int, int], dict[str, int]]) -> Callable[[int, int], Awaitable[dict[str, int]]]:
    """The same, letting others of its loop move before and after it."""

    async def awaited(k: int, x: int) -> dict[str, int]:
        await asyncio.sleep(0)
        value = body(k, x)
        await asyncio.sleep(0)
        return value

    return awaited


_SYNC: dict[str, Any] = {name: task(name=name, **options)(body) for name, (body, options) in _BODIES.items()}
_ASYNC: dict[str, Any] = {
    name: task(name=f"{name}-async", **options)(_awaiting(body)) for name, (body, options) in _BODIES.items()
}


# -- what is around them
@task
def around(k: int, program: Program, x: int) -> int:
    return go(program, x)


@task
async def around_async(k: int, program: Program, x: int) -> int:
    return await go_async(program, x)


@flow(name="below")
def below(k: int, program: Program, x: int) -> int:
    return go(program, x)


@flow(name="below-async")
async def below_async(k: int, program: Program, x: int) -> int:
    return await go_async(program, x)


@flow(name="below-again", retries=1, retry_delay_seconds=2)
def below_again(k: int, program: Program, x: int) -> int:
    return _first_in_vain(k, program, go(program, x))


@flow(name="below-again-async", retries=1, retry_delay_seconds=2)
async def below_again_async(k: int, program: Program, x: int) -> int:
    return _first_in_vain(k, program, await go_async(program, x))


def _first_in_vain(k: int, program: Program, x: int) -> int:
    if Here.world.fails(k):
        Here.world.again(steps_of(program))
        raise OSError("not yet")
    return x


_AROUND: dict[str, Any] = {"around": around, "below": below, "again": below_again}
_AROUND_ASYNC: dict[str, Any] = {
    "around": around_async,
    "below": below_async,
    "again": below_again_async,
}


# -- programs
@flow(name="program")
def simulated(number: int, program: Program) -> int:
    return go(program, number)


@flow(name="program-async")
async def simulated_async(number: int, program: Program) -> int:
    return await go_async(program, number)


def go(program: Program, x: int) -> int:
    """Run a program."""
    for op in program:
        name, k = op[0], op[1]
        if name == "submit":
            futures = [_SYNC["pure"].submit(k, x) for k in op[2]]
            x = _sum([future.result()["x"] for future in futures])
        elif name == "away":  # on the loop in the background
            x = _ASYNC[op[2]].submit(k, x).result()["x"]
        elif name == "branches":
            threads = [around.submit(k, branch, x) for k, branch in op[2]]
            x = _sum([thread.result() for thread in threads])
        elif name == "limited":
            with concurrency(SLOTS):
                x = _SYNC["inside"](k, x)["x"]
        elif name in _WAITS:
            x = mixed(k, x) + int(_wait(op).result() or 0)
        else:
            x = _AROUND[name](k, op[2], x) if name in _AROUND else _SYNC[name](k, x)["x"]
    return x


async def go_async(program: Program, x: int) -> int:
    """Run a program in the other colour."""
    for op in program:
        name, k = op[0], op[1]
        if name == "submit":
            x = _sum([one["x"] for one in await asyncio.gather(*(_ASYNC["pure"](k, x) for k in op[2]))])
        elif name == "away":  # in a thread
            x = (await _SYNC[op[2]].submit(k, x))["x"]
        elif name == "branches":
            x = _sum(await asyncio.gather(*(go_async(branch, x) for _, branch in op[2])))
        elif name == "limited":
            async with concurrency(SLOTS):
                x = (await _ASYNC["inside"](k, x))["x"]
        elif name in _WAITS:
            x = mixed(k, x) + int(await _wait(op) or 0)
        else:
            x = await _AROUND_ASYNC[name](k, op[2], x) if name in _AROUND else (await _ASYNC[name](k, x))["x"]
    return x


def _sum(values: list[int]) -> int:
    return sum(values) % _MODULUS


_WAITS = ("event", "input", "sleep")


def _wait(op: Op) -> Any:
    name, k = op[0], op[1]
    if name == "event":
        return wait_for_event(f"news-{k}")
    return request_input(f"number {k}?", int) if name == "input" else sleep(op[2])


# -- what is known of them
def within(op: Op) -> list[Program]:
    """The programs that are part of an operation."""
    if op[0] == "branches":
        return [branch for _, branch in op[2]]
    return [op[2]] if op[0] in _AROUND else []


def expected(program: Program, x: int) -> int:
    """What a program gives when nothing happens to it."""
    for op in program:
        name, k = op[0], op[1]
        if name == "submit":
            x = _sum([mixed(one, x) for one in op[2]])
        elif parts := within(op):
            x = _sum([expected(part, x) for part in parts]) if name == "branches" else expected(parts[0], x)
        else:
            x = mixed(k, x) + (k if name in ("event", "input") else 0)
    return x


def steps_of(program: Program) -> list[int]:
    """The steps of a program."""
    steps: list[int] = []
    for op in program:
        steps += op[2] if op[0] == "submit" else [op[1]]
        for part in within(op):
            steps += steps_of(part)
    return steps


def named(program: Program, *names: str) -> list[int]:
    """The numbers of the steps of a program that do one of these things."""
    own = [op[1] for op in program if op[0] in names or (op[0] == "away" and op[2] in names)]
    return own + [k for op in program for part in within(op) for k in named(part, *names)]


_PLAIN = (
    "pure", "pure", "tagged", "flaky", "pay", "pay", "signed", "charge", "submit", "limited", "event", "input",
    "sleep", "away",
)  # fmt: skip
_NESTED = (*_AROUND, "branches")


def make(rng: random.Random, number: int) -> Program:
    """A program; each of its steps has a number of its own."""
    left = iter(range(number * 1000, (number + 1) * 1000))

    def one(name: str, depth: int) -> Op:
        k = next(left)
        if name in _AROUND:
            return [name, k, some(3, depth - 1)]
        if name == "branches":
            return [name, k, [[next(left), some(2, depth - 1)] for _ in range(2)]]
        if name == "submit":
            return [name, k, [next(left) for _ in range(rng.randint(2, 4))]]
        if name == "away":
            return [name, k, rng.choice(("pure", "flaky", "charge", "pay"))]
        return [name, k, rng.choice((0.5, 7, 90))] if name == "sleep" else [name, k]

    def some(most: int, depth: int) -> Program:
        names = (*_PLAIN, *_PLAIN, *_NESTED) if depth else _PLAIN
        return [one(rng.choice(names), depth) for _ in range(rng.randint(1, most))]

    return some(5, 2)
