"""Generators with tasks and side effects in and between their items, killed at every single write."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any, cast

import pytest

from agentflow import flow, get_run_context, task
from agentflow.approvals.decisions import decide
from agentflow.model.runs import Run
from agentflow.model.waits import Channel, Verdict, WaitKind
from agentflow.payloads.codec import Codec
from tests.engine.crashing import Crash, CrashingJournal
from tests.fundamentals.lives import last_run, options

RAN: Counter[str] = Counter()


@task
def pure(name: str) -> str:
    RAN[name] += 1
    return name


@task(side_effect=True)
def effect(name: str) -> str:
    RAN[name] += 1
    return name


@task(name="effect", side_effect=True)
async def effect_async(name: str) -> str:
    RAN[name] += 1
    return name


@task
def items(who: str, n: int) -> Iterator[str]:
    for number in range(n):
        yield pure(f"{who}{number}")
        effect(f"{who} effect {number}")


@task
async def items_async(who: str, n: int) -> AsyncIterator[str]:
    for number in range(n):
        await asyncio.sleep(0)
        yield pure(f"{who}{number}")
        await effect_async(f"{who} effect {number}")


@task(retries=2)
def flaky() -> Iterator[str]:
    yield pure("flaky")
    if get_run_context().attempt < 3:
        raise ValueError


@flow
def inner() -> Iterator[str]:
    for item in items("inner", 2):
        effect(f"around {item}")
        yield item


@flow
def program() -> list[Any]:
    found: list[Any] = []
    for a, b in zip(items("a", 3), items("b", 2), strict=False):
        effect(f"between {len(found)}")
        found += [a, b, pure("same")]
    for item in items("left", 5):
        found += [item, pure("same")]
        if item == "left1":
            break
    with closing(cast("Any", items("closed", 5))) as stream:
        found.append(next(stream))
        effect("after the first")
        found.append(next(stream))
    found += list(inner())
    found += [pure("same"), *flaky(), *items.submit("submitted", 2).result()]
    effect("last")
    return found


@flow
async def program_async() -> list[Any]:
    found: list[Any] = []
    one, other = items_async("a", 3), items_async("b", 2)
    async for a in one:
        b = await anext(other, None)
        await effect_async(f"between {len(found)}")
        found += [a, b, pure("same")]
    stream = cast("Any", items_async("closed", 5))
    found.append(await anext(stream))
    await effect_async("after the first")
    found.append(await anext(stream))
    await stream.aclose()
    found += await items_async.submit("submitted", 2)
    await effect_async("last")
    return found


def live(chosen: Any, journal: CrashingJournal, run_id: str) -> Any:
    """One life; None where it crashed."""
    try:
        if run_id:
            outcome = chosen.resume(run_id, journal=journal, options=options())
        else:
            outcome = chosen.run({}, journal=journal, options=options())
    except Crash:
        return None
    if outcome.error is not None:
        raise outcome.error
    return outcome


def say_that_it_happened(journal: CrashingJournal) -> None:
    for wait in journal.list_waits(kinds=frozenset({WaitKind.IN_DOUBT})):
        named = wait.question["arguments"]["name"]
        verdict = Verdict.HAPPENED if RAN[named] else Verdict.RUN_AGAIN
        decide(journal, wait.id, verdict, answer=named, actor="ann", channel=Channel.CODE)


def whole_life(chosen: Any, at: int) -> tuple[Any, dict[str, int], int]:
    """The value of a run that is killed at write `at`; how often each effect ran; how many writes there were."""
    codec = Codec(b"k" * 32)
    journal = CrashingJournal()
    journal.at = at
    RAN.clear()
    outcome, run_id = live(chosen, journal, ""), ""
    writes = journal.writes
    while outcome is None or not outcome.state.is_final:
        journal.revive()
        run_id = run_id or last_run(journal)
        stored = cast("Run", journal.get_run(run_id))
        if stored.state.is_final:  # it was killed right after its last write
            return codec.decode(stored.result or b""), effects_of(RAN), writes
        say_that_it_happened(journal)
        journal.release_run(stored)
        outcome = live(chosen, journal, run_id)
    return outcome.value, effects_of(RAN), writes


def effects_of(ran: Counter[str]) -> dict[str, int]:
    pure_ones = re.compile(r"[a-z]+\d|same|flaky")
    return {name: count for name, count in ran.items() if not pure_ones.fullmatch(name)}


@pytest.mark.parametrize("chosen", [program, program_async], ids=["sync", "async"])
def test_wherever_it_is_killed_the_run_ends_alike(chosen: Any) -> None:
    """The same items reach the flow in the same order, and no side effect happens twice."""
    expected, effects, writes = whole_life(chosen, 0)
    assert writes > 60
    assert set(effects.values()) == {1}
    for at in range(1, writes + 1):
        value, again, _ = whole_life(chosen, at)
        assert value == expected, at
        assert again == effects, at
