"""Random programs over the engine, crashed at journal writes and resumed under another completion order."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

from agentflow import as_completed, first, flow, sleep, task
from agentflow.engine.active import Options
from agentflow.engine.flow_run import Outcome
from agentflow.flows import Flow
from agentflow.model.states import StateType
from agentflow.model.steps import StepEvent
from agentflow.model.waits import Channel, Decision, Verdict, Wait, WaitKind, binding
from agentflow.settings import Settings
from tests.engine.crashing import Crash, CrashingJournal

Program = list[Any]


@dataclass
class World:
    """What lies outside of the journal: counters of what really happened."""

    seed: int
    samples: int = 0
    polls: collections.Counter[Any] = field(default_factory=collections.Counter[Any])
    flaky: collections.Counter[Any] = field(default_factory=collections.Counter[Any])
    paid: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    ran: list[Any] = field(default_factory=list[Any])
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)


class Universe:
    """Holds the world of the moment."""

    now = World(0)


UNIVERSE = Universe()


async def turns() -> None:
    """Give way to others, for a random number of turns."""
    for _ in range(UNIVERSE.now.rng.choice((0, 0, 1, 2, 5, 9))):
        await asyncio.sleep(0)


@task
async def pure(k: int, x: int) -> int:
    await turns()
    return (k * 31 + x * 7 + 1) % 997


@task
async def sample(k: int) -> int:
    await turns()
    UNIVERSE.now.samples += 1
    return UNIVERSE.now.samples + k


@task
async def status(k: int) -> bool:
    UNIVERSE.now.polls[k] += 1
    await turns()
    return UNIVERSE.now.polls[k] >= 3


@task
async def check(k: int) -> bool:
    UNIVERSE.now.polls["c", k] += 1
    await turns()
    return UNIVERSE.now.polls["c", k] >= 3


@task(retries=3)
async def poll_by_retry(k: int) -> int:
    if not await check(k):
        message = "not ready"
        raise RuntimeError(message)
    return k


@task
async def bad(k: int, x: int) -> int:
    await turns()
    raise ValueError(k, x)


@task(retries=4)
async def flaky(k: int, x: int) -> int:
    await turns()
    UNIVERSE.now.flaky[k, x] += 1
    if UNIVERSE.now.flaky[k, x] <= 2:
        message = "flaky"
        raise KeyError(message)
    return (x + k) % 997


@task(side_effect=True)
async def pay(k: int, x: int) -> int:
    await turns()
    UNIVERSE.now.paid.append((k, x))
    return x


@task
async def nested(prog: Program, x: int) -> int:
    return await go(prog, x)


@task(retries=2)
async def retried(prog: Program, k: int, x: int) -> int:
    result = await go(prog, x)
    UNIVERSE.now.flaky["r", k, x] += 1
    if UNIVERSE.now.flaky["r", k, x] <= 1:
        message = "late"
        raise KeyError(message)
    return result


@flow
async def sub(prog: Program, x: int) -> int:
    return await go(prog, x)


@task
async def slow(x: int) -> int:
    for _ in range(60):
        await asyncio.sleep(0)
    return x


async def go(prog: Program, x: int) -> int:  # noqa: C901, PLR0912 - an interpreter
    """Run a program."""
    for op in prog:
        name, k = op[0], op[1]
        if name == "pure":
            x = await pure(k, x)
        elif name == "const":
            x = (x + await pure(k, 0)) % 997
        elif name == "raw":
            await turns()
        elif name == "sample":
            x = (x + await sample(k)) % 997
        elif name == "poll":
            while not await status(k):
                await pure(0, 0)
        elif name == "pollretry":
            x = (x + await poll_by_retry(k)) % 997
        elif name == "caught":
            try:
                await bad(k, x)
            except ValueError as error:
                x = (x + 5 + error.args[0]) % 997
        elif name == "flaky":
            x = await flaky(k, x)
        elif name == "effect":
            x = (x + await pay(k, x)) % 997
        elif name == "nested":
            x = await nested(op[2], x)
        elif name == "retried":
            x = await retried(op[2], k, x)
        elif name == "sub":
            x = await sub(op[2], x)
        elif name == "loop":
            for _ in range(x % 3 + 1):
                x = await go(op[2], x)
        elif name == "gather":
            x = sum(await asyncio.gather(*[go(part, x) for part in op[2]])) % 997
        elif name == "calls":
            x = sum(await asyncio.gather(pay(k, x), pure(k, x), pay(k + 1, x))) % 997
        elif name == "accum":
            x = await _accumulate(op[2], x)
        elif name == "group":
            x = await _group(op[2], k, x)
        elif name == "sleep":
            await sleep(0.0005 * k)
        elif name == "first":
            won = await first(*[go(part, x) for part in op[2]], late=sleep(30))
            x = (x + won.value) % 997
        elif name == "done":
            async for future in as_completed(pure.map([k, k + 1, k + 2], x)):
                x = (x * 3 + await future) % 997
        elif name == "submit":
            futures = [pure.submit(k, x), pure.submit(k + 1, x), pure.submit(k, x)]
            x = sum([await future for future in futures]) % 997
    return x


async def _accumulate(parts: list[Program], x: int) -> int:
    found: list[int] = []

    async def one(part: Program) -> None:
        found.append(await go(part, x))

    await asyncio.gather(*[one(part) for part in parts])
    for value in found:
        x = (x * 3 + value) % 997
    return x


async def _group(parts: list[Program], k: int, x: int) -> int:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(bad(k, x))
            group.create_task(slow(x))
            for part in parts:
                group.create_task(go(part, x))
    except* ValueError:
        x = (x + 1) % 997
    return x


@flow
async def program(prog: Program) -> int:
    return await go(prog, 1)


def options() -> Options:
    """No gate, eviction at once, a short grace: tests do not wait."""
    settings = Settings(quiet_grace=0.001, poll_interval=0.01)

    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    return Options(settings=settings, suspend_after=0.0, sleep=lambda _: None, sleep_async=no_sleep)


def live(
    which: Flow[..., Any], arguments: dict[str, Any], journal: CrashingJournal, run_id: str = ""
) -> Outcome:
    """One life of a run."""
    if not run_id:
        return which.run(arguments, journal=journal, options=options())
    return which.resume(run_id, journal=journal, options=options(), take_over=True)


@dataclass
class Trial:
    """What came of crashing one program at one write and resuming it."""

    fault: str = ""
    asked: int = 0
    points: int = 0


def ended(journal: CrashingJournal) -> set[tuple[bytes, bytes, bytes, int]]:
    """The steps that have a final row."""
    finals = {event.value for event in StepEvent if event.is_end}
    return {
        (row.scope, row.key, row.branch, row.occurrence) for row in journal.steps(1) if row.event in finals
    }


class StoppedError(Exception):
    """The run stopped before an effect, with the difference shown: right where chance decides what comes."""


def may_diverge(prog: Program) -> bool:
    """Whether an effect may rightly be asked for with other arguments: after raw awaits, or in a retry with chance."""
    text = repr(prog)
    return "'raw'" in text or ("'retried'" in text and not deterministic(prog))


def is_short(wait: Wait) -> bool:
    """Whether it is over in a moment."""
    return wait.kind is WaitKind.TIMER and wait.due is not None and wait.due < time.time() + 1


def answer_doubts(journal: CrashingJournal, outcome: Outcome, prog: Program) -> int:
    """A person looks at what really happened, and says so."""
    count = 0
    known = collections.Counter(
        (found["k"], found["x"])
        for row in journal.steps(1)
        if row.name == "pay"
        and row.event == "completed"
        and (found := json.loads(row.detail or b"{}").get("arguments"))
    )
    for wait in journal.list_waits(number=1):
        if wait.kind is WaitKind.TIMER:
            count += is_short(wait)
            continue
        if wait.kind is WaitKind.DIVERGENCE and may_diverge(prog):
            raise StoppedError
        if wait.kind is not WaitKind.IN_DOUBT:
            message = f"unexpected question: {wait}"
            raise AssertionError(message)
        arguments = wait.question["arguments"]
        paid = (arguments["k"], arguments["x"])
        happened = UNIVERSE.now.paid.count(paid) > known[paid]
        known[paid] += happened
        verdict = Verdict.HAPPENED if happened else Verdict.RUN_AGAIN
        decision = Decision(verdict, arguments["x"] if happened else None, channel=Channel.CODE)
        journal.decide(
            wait.id, decision, now=0.0, allowed_digest=binding(wait.name, wait.question["executed"])
        )
        count += 1
    if not count:
        message = f"nothing to answer, yet {outcome}"
        raise AssertionError(message)
    return count


def crash_once(prog: Program, seed: int, at: int, expected: Outcome, paid: int) -> Trial:
    """Crash at write `at`, resume until the end, compare."""
    UNIVERSE.now = World(seed)
    trial = Trial(points=1)
    journal = CrashingJournal()
    journal.at = at
    with contextlib.suppress(Crash, BaseExceptionGroup):
        live(program, {"prog": prog}, journal)
    if journal.get_run_of(1) is None:
        return trial
    run_id = journal.get_run_of(1)
    before_rows = ended(journal)
    journal.revive()
    UNIVERSE.now.rng = random.Random(at * 7919 + seed)
    while True:
        known = journal.get_run(run_id or "")
        if known is None or known.state.is_final:
            trial.fault = "" if known and known.state is StateType.COMPLETED else f"ended as {known}"
            return trial
        count = len(journal.steps(1))
        outcome = live(program, {}, journal, run_id or "")
        again = [
            row
            for row in journal.steps(1)[count:]
            if (row.scope, row.key, row.branch, row.occurrence) in before_rows
        ]
        if again:
            trial.fault = f"finished steps ran again: {[row.name for row in again]}"
            return trial
        if outcome.state is not StateType.PAUSED:
            break
        try:
            trial.asked += answer_doubts(journal, outcome, prog)
        except StoppedError:
            return trial
    trial.fault = judge(prog, outcome, expected, paid)
    return trial


def judge(prog: Program, outcome: Outcome, expected: Outcome, paid: int) -> str:
    """What is wrong with the end of a resumed run; "" = nothing."""
    if outcome.state is not StateType.COMPLETED:
        return f"{outcome.state}: {outcome.error!r}"
    if outcome.unclaimed and not may_diverge(prog):
        return f"recorded effects not asked for: {outcome.unclaimed}"
    if deterministic(prog) and outcome.value != expected.value:
        return f"{outcome.value} instead of {expected.value}"
    if deterministic(prog) and len(UNIVERSE.now.paid) != paid:
        return f"{len(UNIVERSE.now.paid)} payments instead of {paid}: {UNIVERSE.now.paid}"
    return ""


def check_program(prog: Program, seed: int, most_points: int = 10) -> tuple[str, int, int]:
    """Run a program uninterrupted, then with a crash at (at most so many of) its writes: fault, points, questions."""
    UNIVERSE.now = World(seed)
    journal = CrashingJournal()
    expected = live(program, {"prog": prog}, journal)
    while expected.state is StateType.PAUSED and any(is_short(wait) for wait in expected.waiting_for):
        expected = live(program, {}, journal, expected.run_id)
    if expected.state is StateType.PAUSED and may_diverge(prog):
        return "", 0, 0
    if expected.state is not StateType.COMPLETED:
        return f"uninterrupted: {expected.state} {expected.error!r}", 0, 0
    paid = len(UNIVERSE.now.paid)
    points = range(1, journal.writes + 1)
    chosen = list(points) if len(points) <= most_points else random.Random(seed).sample(points, most_points)
    total = asked = 0
    for at in sorted(chosen):
        trial = crash_once(prog, seed, at, expected, paid)
        total += trial.points
        asked += trial.asked
        if trial.fault:
            return f"crash at write {at} of {journal.writes}: {trial.fault}", total, asked
    return "", total, asked


def deterministic(prog: Program) -> bool:
    """Whether the result does not depend on the order of completion or on chance."""
    return not any(
        f"'{word}'" in repr(prog)
        for word in ("sample", "accum", "poll", "pollretry", "group", "first", "done")
    )
