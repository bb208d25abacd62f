"""Large values are stored and read beside the event loop of an async flow: its other branches go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer

from agentflow import flow, task
from agentflow.background import RunFuture
from agentflow.cache_policies import INPUTS
from agentflow.engine.active import Options
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from agentflow.payloads.encryption import new_key
from tests.fundamentals.lives import Death, die, resume, rows, start
from tests.journal.tcp_proxy import TcpProxy
from tests.payloads.keeping import keeping, stored

RAN: list[Any] = []
ALIVE = [True]
TURNS = [0]
PROXY: list[TcpProxy] = []
MANY = 300
"""Turns of a loop that nothing blocks while fifty megabytes are moved: far fewer than there are."""


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()
    ALIVE[0] = True
    TURNS[0] = 0


@pytest.fixture(scope="module")
def bucket() -> Iterator[int]:
    """The port of an S3 of our own, with one bucket."""
    s3 = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    s3.start()
    _, port = s3.get_host_and_port()
    urlopen(Request(f"http://127.0.0.1:{port}/values", method="PUT"), timeout=30).close()
    yield port
    s3.stop()


@pytest.fixture
def slow(bucket: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Options]:
    """Options of runs whose values are in the bucket, behind a network that can hold requests."""
    with TcpProxy(bucket) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        PROXY[:] = [proxy]
        yield keeping(payloads_url="s3://values/slow")
    PROXY.clear()


async def turning() -> None:
    """Count turns of the loop."""
    while True:
        await asyncio.sleep(0)
        TURNS[0] += 1


async def held() -> None:
    """The network holds a request now."""
    assert await asyncio.to_thread(PROXY[0].held.wait, 30)


async def letting_go() -> None:
    """Another branch, without which the network holds what it has for ever."""
    if ALIVE[0]:
        await held()
        PROXY[0].let_go.set()


async def helped(awaitable: Awaitable[Any]) -> Any:
    """What it gives, with another branch that lets it come."""
    other = asyncio.ensure_future(letting_go())
    value = await awaitable
    await other
    return value


@task
async def made(size: int) -> bytes:
    RAN.append(size)
    TURNS[0] = 0
    return b"%09d," % size * (size // 10)


@task(retries=1)
async def made_with_options(size: int) -> bytes:
    return await made.fn(size)


@task(side_effect=True, approval="never")
async def made_effectively(size: int) -> bytes:
    return await made.fn(size)


@task(cache_policy=INPUTS)
async def made_once(size: int) -> bytes:
    return await made.fn(size)


@task
async def items(size: int) -> AsyncGenerator[bytes]:
    yield await made.fn(size)


@task
async def length(value: bytes) -> int:
    return len(value)


TASKS: list[Any] = [made, made_with_options, made_effectively, made_once]


@flow
async def counting(which: int, size: int) -> int:
    """How often the loop turned between the end of a task and its caller's getting the value."""
    other = asyncio.ensure_future(turning())
    value = await TASKS[which](size)
    other.cancel()
    turns = TURNS[0]
    assert len(value) == size
    return turns


@pytest.mark.parametrize("which", range(len(TASKS)), ids=lambda which: TASKS[which].name)
def test_other_branches_turn_while_a_value_is_stored(journal: SqliteJournal, which: int) -> None:
    """Whatever options the task has; written to the disk, flushed and encrypted in another thread."""
    outcome = start(
        counting, which, 20_000_000, journal=journal, using=keeping(encryption_keys=new_key("k1"))
    )
    assert outcome.value > MANY
    assert len(stored(journal)) == 1


def test_a_small_value_costs_no_turn_more(journal: SqliteJournal) -> None:
    """It is in its row when the loop has settled."""
    assert start(counting, 0, 500, journal=journal, using=keeping()).value < MANY / 10


@flow
async def holding(verb: str, which: int) -> int:
    """A large value that comes only when another branch lets it."""
    PROXY[0].arm("hold" if ALIVE[0] else "", verb)
    value = await helped(TASKS[which](50_000))
    if not ALIVE[0]:
        raise Death
    return len(value)


@pytest.mark.parametrize("which", range(len(TASKS)), ids=lambda which: TASKS[which].name)
def test_a_slow_store_holds_nobody_else_up(journal: SqliteJournal, slow: Options, which: int) -> None:
    """While it takes a value, and, in a later life, while it gives it."""
    assert start(holding, "PUT", which, journal=journal, using=slow).value == 50_000
    ALIVE[0] = False
    run_id = die(holding, "GET", which, journal=journal, using=slow)
    ALIVE[0], RAN[:] = True, []
    again = resume(holding, run_id, journal, slow)
    assert (again.state, again.value, RAN) == (StateType.COMPLETED, 50_000, [])


@flow
async def reading(how: str) -> int:
    """Values that were stored before are read at their reader's own time."""
    future: Any = made.submit(50_000)
    await future.ended()
    PROXY[0].arm("hold", "GET")
    if how == "await":
        return len(await helped(future))
    called = length(future) if how == "call" else length.submit(future)
    return await helped(called)


@pytest.mark.parametrize("how", ["await", "call", "submit"])
def test_a_future_is_read_beside_the_loop(journal: SqliteJournal, slow: Options, how: str) -> None:
    """Awaited, or handed on to another task."""
    assert start(reading, how, journal=journal, using=slow).value == 50_000


@flow
async def impatient() -> bool:
    future: Any = made.submit(50_000)
    await future.ended()
    PROXY[0].arm("hold", "GET")
    asyncio.get_running_loop().call_later(0.1, PROXY[0].let_go.set)
    try:
        async with asyncio.timeout(0.05):
            await future
    except TimeoutError:
        return len(await future) == 50_000
    return False


def test_a_timeout_around_a_value_that_does_not_come_is_one(journal: SqliteJournal, slow: Options) -> None:
    """As around anything else that is awaited; afterwards the value can be had."""
    assert start(impatient, journal=journal, using=slow).value


@flow
async def consuming() -> list[int]:
    sizes: list[int] = []

    async def consume() -> None:
        async for item in items(50_000):
            sizes.append(len(item))  # noqa: PERF401 - a loop is meant

    PROXY[0].arm("hold" if ALIVE[0] else "", "GET" if RAN else "PUT")
    await helped(consume())
    if not ALIVE[0]:
        raise Death
    return sizes


def test_items_of_a_generator_are_moved_beside_the_loop(journal: SqliteJournal, slow: Options) -> None:
    """When they are made, and when they are given again."""
    assert start(consuming, journal=journal, using=slow).value == [50_000]
    ALIVE[0], RAN[:] = False, []
    run_id = die(consuming, journal=journal, using=slow)
    ALIVE[0] = True
    assert resume(consuming, run_id, journal, slow).value == [50_000]
    assert RAN == [50_000]


def test_a_cached_result_is_read_beside_the_loop(journal: SqliteJournal, slow: Options) -> None:
    """By a run that takes another one's."""
    start(counting, 3, 50_000, journal=journal, using=slow)
    assert start(holding, "GET", 3, journal=journal, using=slow).tally.cached == 1


@flow
async def large() -> bytes:
    return await made(50_000)


def test_the_result_of_another_run_is_read_beside_the_loop(
    journal: SqliteJournal, slow: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever awaits it, inside or outside of a flow."""
    monkeypatch.setenv("AGENTFLOW_PAYLOADS_URL", "s3://values/slow")
    run_id = start(large, journal=journal, using=slow).run_id

    async def waiting() -> int:
        PROXY[0].arm("hold", "GET")
        return len(await helped(RunFuture[bytes](run_id, "large").within(journal)))

    assert asyncio.run(waiting()) == 50_000


@task(side_effect=True, approval="never")
async def paid(size: int) -> bytes:
    RAN.append("paid")
    return b"x" * size


@flow
async def giving_up() -> int:
    PROXY[0].arm("hold", "PUT")
    waiting = asyncio.ensure_future(paid(60_000))
    await held()
    waiting.cancel()
    await letting_go()
    await asyncio.wait([waiting])
    return len(await paid(60_000))


def test_an_effect_is_done_although_nobody_waits_while_its_value_is_stored(
    journal: SqliteJournal, slow: Options
) -> None:
    """Its end is in the journal with its value: it is never in doubt for that."""
    outcome = start(giving_up, journal=journal, using=slow)
    first, second = rows(journal, "completed", name="paid")
    assert (outcome.value, RAN, first.value) == (60_000, ["paid", "paid"], second.value)


@task
async def part(number: int) -> bytes:
    RAN.append(number)
    for _ in range(number * 7 % 5):
        await asyncio.sleep(0)
    return b"%d" % number * (3_000_000 if number % 3 == 0 else 2_000 if number % 3 == 1 else 10)


@task
async def told(order: list[int]) -> int:
    RAN.append(order)
    return len(order)


@flow
async def interleaving(how: str) -> int:
    """What it asks for next depends on the order in which values reached its branches."""
    order: list[int] = []

    async def branch(number: int) -> None:
        value = await (part(number) if how == "call" else part.submit(number))
        order.append(number)
        await told([len(value), *order])

    await asyncio.gather(*(branch(number) for number in range(12)))
    if not ALIVE[0]:
        raise Death
    return await told(order)


@pytest.mark.parametrize("how", ["call", "submit"])
def test_values_reach_their_callers_in_the_same_order_in_every_life(journal: SqliteJournal, how: str) -> None:
    """However long each takes to read: a later life asks for nothing that the first one has not asked for."""
    ALIVE[0] = False
    run_id = die(interleaving, how, journal=journal, using=keeping())
    ALIVE[0], RAN[:] = True, []
    outcome = resume(interleaving, run_id, journal, keeping())
    assert (outcome.value, outcome.tally.reused, len(RAN)) == (12, 24, 1)


SHARED = bytearray(200_000)


@task
async def shared() -> bytearray:
    return SHARED


@flow
async def scribbling() -> bytes:
    """Another branch changes what a task has returned, while that is stored."""
    PROXY[0].arm("hold", "PUT")

    async def scribble() -> None:
        await held()
        SHARED[:] = b"\1" * len(SHARED)
        await letting_go()

    value, _ = await asyncio.gather(shared(), scribble())
    return bytes(value)


def test_what_is_stored_is_what_was_returned(journal: SqliteJournal, slow: Options) -> None:
    """Whoever changes it afterwards changes something else."""
    assert start(scribbling, journal=journal, using=slow).value == bytes(200_000)
