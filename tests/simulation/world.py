"""The simulated world: processes that run the real workers and engine over one store, what befalls them, who judges.

Everything is decided by the seed. What must hold is checked while it goes on and when it is over.
"""

from __future__ import annotations

import collections
import hashlib
import random
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from agentflow.approvals.decisions import decide
from agentflow.approvals.gate import PolicyGate
from agentflow.engine.active import Options
from agentflow.engine.context import current_frame
from agentflow.errors import DecisionRefusedError, RunFinishedError
from agentflow.flows import Flow
from agentflow.journal.protocol import RunFilter
from agentflow.model.limits import Limit
from agentflow.model.lives import LifeEnd, end_of
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import ENDS, StepRow
from agentflow.model.waits import Channel, Verdict, Wait, WaitKind
from agentflow.payloads.codec import Codec
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker
from tests.simulation import programs, standins
from tests.simulation.store import KEY, READS, Node, Store
from tests.simulation.turns import Killed, Process, StuckError, Turns

LEASE, POLL, MOST_CRASHES = 6.0, 1.0, 3
#: How long a run that moves may be nobody's: a lease, a look, and what verbs take.
OWNERLESS = LEASE + 3 * POLL
HORIZON = 1800.0
_FLOWS: dict[str, Flow[..., Any]] = {
    "program": programs.simulated,
    "program-async": programs.simulated_async,
}


class BrokenError(AssertionError):
    """Something that must hold does not."""


@dataclass
class Plan:
    """What a seed makes of a world."""

    runs: int
    crash: float
    freeze: float
    cancel: float
    #: How many crashes and freezes there are at the most.
    disasters: int

    @classmethod
    def of(cls, rng: random.Random) -> Plan:
        """One drawn by lot."""
        return cls(
            rng.randint(1, 4),
            rng.choice((0.0, 0.01, 0.03, 0.1)),
            rng.choice((0.0, 0.005, 0.02)),
            rng.choice((0.0, 0.0, 0.3)),
            rng.randint(0, 8),
        )


@dataclass
class Happened:
    """What really happened outside of the journal."""

    paid: collections.Counter[int] = field(default_factory=collections.Counter[int])
    keys: dict[int, set[str]] = field(default_factory=lambda: collections.defaultdict(set))
    failed: set[int] = field(default_factory=set[int])
    #: Who is inside of what has slots: process, and run.
    inside: dict[str, list[tuple[Node, int, int]]] = field(
        default_factory=lambda: collections.defaultdict(list)
    )


class World:
    """One simulation. `run` it once."""

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        self.seed = seed
        #: What happened, in order; only where it is kept.
        self.trace: list[str] = []
        self._keep, self._digest = keep, hashlib.blake2b(digest_size=8)
        self.turns = Turns(seed, self.note)
        self.plan = Plan.of(self.turns.rng)
        self.programs = {
            number: programs.make(self.turns.rng, number) for number in range(1, self.plan.runs + 1)
        }
        #: The flow that runs a program: sync or async.
        self.colours = {number: self.turns.rng.choice(sorted(_FLOWS)) for number in self.programs}
        self.store = Store(lambda: self.turns.now, LEASE)
        self.happened = Happened()
        self.disasters = 0
        self.nodes: dict[Process, Node] = {}
        #: Steps that have ended, by `k`; the run that a number belongs to.
        self.ended: set[int] = set()
        self.numbers: dict[int, Run] = {}
        self._ownerless: dict[int, float] = {}
        self._codec = Codec(KEY, allow_pickle=False)

    def note(self, *what: object) -> None:
        """Remember that this happened."""
        line = f"{self.turns.now - 1_790_000_000:.3f} " + " ".join(map(str, what))
        self._digest.update(line.encode())
        if self._keep:
            self.trace.append(line)

    @property
    def course(self) -> str:
        """The digest of all that happened: equal for the same seed."""
        return self._digest.hexdigest()

    # -- the whole
    def run(self) -> None:
        """From the first run to the last. Raises `BrokenError`, `StuckError`."""
        with standins.installed(self.turns):
            programs.Here.world = self
            outside = self._process("outside")
            self.outside = self.nodes[outside]
            self.store.tables.set_limit(Limit(programs.SLOTS, 1))
            self.store.tables.set_limit(Limit(f"tag:{programs.TAG}", 2))
            for name in ("server", "worker-1", "worker-2"):
                self.turns.spawn(outside, partial(self._supervise, name), f"supervisor of {name}")
            for name, act in (
                ("persons", self._persons),
                ("senders", self._senders),
                ("cancels", self._cancels),
            ):
                self.turns.spawn(outside, act, name)
            try:
                self.turns.run(self._is_over, HORIZON)
                self._judge()
            finally:
                self.turns.end(self.nodes)

    def _is_over(self) -> bool:
        runs = self.store.runs
        return len(runs) >= self.plan.runs and all(
            run.state.is_final and run.state is not StateType.CRASHED for run in runs.values()
        )

    def _process(self, name: str) -> Process:
        self._begins_to_move()
        process = Process(self.turns, name)
        process.moves = self._begins_to_move
        node = self.nodes[process] = Node(self.store, name, self)
        self.turns.spawn(process, lambda: self._beat(node), "heart")
        return process

    def _beat(self, node: Node) -> None:
        while True:
            self.turns.block(LEASE / 3)
            node.holdings.renew()

    # -- processes
    def _supervise(self, name: str) -> None:
        """Start a process, and start it again whenever it has died."""
        while True:
            process = self._process(name)
            self.note("starts", name)
            self.turns.spawn(process, partial(self._serve, process), "main")
            while not process.dead:
                self.turns.block(0.5)
            self.turns.block(self.turns.rng.uniform(0, 4))

    def _serve(self, process: Process) -> None:
        node = self.nodes[process]
        worker = InlineWorker(node, _FLOWS, options=self.options(), on_error=partial(self.note, "says"))
        worker.start()
        if process.name != "server":
            return
        for number, program in self.programs.items():
            self.turns.block(self.turns.rng.uniform(0, 5))
            if not any(number == self._number_of(run) for run in node.list_runs(RunFilter(limit=100))):
                self.note("asks for", number)
                asked = {"number": number, "program": program}
                worker.start_run(self.colours[number], asked, origin=Origin.PERSON)

    def _number_of(self, run: Run) -> int:
        return int(self._codec.decode(run.parameters)["number"])

    def options(self) -> Options:
        """Those of every worker."""
        return Options(
            settings=Settings(
                lease=LEASE,
                max_crashes=MOST_CRASHES,
                poll_interval=POLL,
                quiet_grace=0.05,
                retention_days=0,
                suspend_after=5.0,
                max_workers=3,
            ),
            clock=lambda: self.turns.now,
            random=self.turns.rng.random,
            suspend_after=5.0,
            gate=PolicyGate(),
        )

    # -- fate
    def before(self, node: Node, verb: str) -> None:
        self._point(node, verb, "before")

    def after(self, node: Node, verb: str, given: tuple[Any, ...]) -> None:
        if verb not in READS:
            self.note(self.turns.me().process.name, verb)
        if verb in ("append", "try_append"):
            self._see_rows(given[2])
        self._watch(verb)

    def returned(self, node: Node, verb: str) -> None:
        self._point(node, verb, "after")

    def _point(self, node: Node, verb: str, when: str) -> None:
        turns = self.turns
        process = turns.me().process
        if process.dead:
            raise Killed
        if process.name != "outside" and verb not in READS and self.disasters < self.plan.disasters:
            drawn = turns.rng.random()
            if drawn < self.plan.crash:
                self.disasters += 1
                self.note("dies", when, verb)
                process.kill()
            elif drawn < self.plan.crash + self.plan.freeze:
                self.disasters += 1
                process.freeze(turns.rng.choice((1.0, LEASE + 1, 3 * LEASE)))
                turns.give_way()
        if turns.rng.random() < 0.05:
            turns.block(turns.rng.random() * 0.2)
        else:
            turns.give_way()

    # -- what is outside of the journal
    def body(self, k: int) -> None:
        """A step's body begins: it must not have ended before."""
        if k in self.ended and not self._is_stale():
            raise self._broken(f"step {k} had ended, and runs again")
        self._point(self._here(), "body", "in")

    def pay(self, k: int) -> None:
        """Money moves."""
        self.note("pays", k)
        self.happened.paid[k] += 1
        if self.happened.paid[k] > 1:
            raise self._broken(f"{k} is paid twice")
        self._point(self._here(), "pay", "after")

    def charge(self, k: int, key: str) -> None:
        """Money moves, once for each key."""
        self.happened.keys[k].add(key)
        self._point(self._here(), "charge", "after")

    def fails(self, k: int) -> bool:
        """The first time, it does."""
        first = k not in self.happened.failed
        self.happened.failed.add(k)
        return first

    def again(self, steps: list[int]) -> None:
        """The attempt around them has failed by its own code: they run once more."""
        self.ended.difference_update(steps)

    def enter(self, name: str, limit: int) -> None:
        """Others that own their runs and are inside are as many as there may be, at the most."""
        node = self._here()
        run = self._run_of_body()
        inside = self.happened.inside[name]
        inside.append((node, run.number, run.epoch))
        live = [one for one in inside if self._owns(*one)]
        inside[:] = live
        if len(live) > limit:
            raise self._broken(f"{len(live)} are inside of {name}, which has {limit}")
        self._point(node, "enter", "after")

    def leave(self, name: str) -> None:
        """It is over."""
        node = self._here()
        run = self._run_of_body()
        if (node, run.number, run.epoch) in self.happened.inside[name]:
            self.happened.inside[name].remove((node, run.number, run.epoch))

    def _owns(self, node: Node, number: int, epoch: int) -> bool:
        stored = self.store.runs[number]
        self.store.bury()
        dead = next(process for process, own in self.nodes.items() if own is node).dead
        return not dead and node.holdings.owns(number) and stored.epoch == epoch

    def _here(self) -> Node:
        return self.nodes[self.turns.me().process]

    def _run_of_body(self) -> Run:
        return current_frame("the simulation").run.run

    def _is_stale(self) -> bool:
        """Whether whoever moves has lost its run: what it still does is refused, and has no effect."""
        node = self._here()
        run = self._run_of_body()
        return not self._owns(node, run.number, run.epoch)

    def _broken(self, what: str) -> BrokenError:
        error = BrokenError(f"seed {self.seed}: {what}")
        self.turns.failures.append(str(error))
        return error

    # -- checked all the time
    def _see_rows(self, rows: list[StepRow]) -> None:
        for row in rows:
            if row.event == "completed" and row.kind == "task" and row.value and b'"k"' in row.value:
                self.ended.add(int(orjson.loads(row.value)["k"]))

    def _watch(self, verb: str) -> None:
        if verb in READS and verb != "due_runs":
            return
        held: collections.Counter[str] = collections.Counter()
        for mine in self.store.tables.slots.values():
            for slot in mine.values():
                if slot.granted is not None and self.outside.is_alive(slot.run, slot.epoch) is not False:
                    held[slot.limit] += slot.slots
        for name, count in held.items():
            if count > self.store.tables.accounts[name].limit.limit:
                raise self._broken(f"{count} slots of {name} are held")
        now = self.turns.now
        for number, run in self.store.runs.items():
            if run.state is not StateType.RUNNING or self.store.is_live(number) or not self._somebody_works():
                self._ownerless.pop(number, None)
            elif now > self._ownerless.setdefault(number, now) + OWNERLESS:
                raise self._broken(f"run {number} is nobody's for {now - self._ownerless[number]:.1f} s")

    def _begins_to_move(self) -> None:
        """Where nobody else works, nobody could have taken anything up."""
        if not self._somebody_works():
            self._ownerless.clear()

    def _somebody_works(self) -> bool:
        return any(
            process.name != "outside" and not (process.dead or process.frozen) for process in self.nodes
        )

    # -- people and others
    def _persons(self) -> None:
        while True:
            self.turns.block(self.turns.rng.uniform(0.5, 6))
            for wait in self.outside.list_waits():
                if self.turns.rng.random() < 0.7:
                    with suppress(DecisionRefusedError):
                        self._answer(wait)
            for run in self.outside.list_runs(RunFilter(states=(StateType.CRASHED,))):
                self._check_parked(run)
                _FLOWS[run.flow].reopen(run.id, self.outside)

    def _check_parked(self, run: Run) -> None:
        """Only after as many lives in a row as are allowed, and each of them had died."""
        lives = self.store.lives[run.number][-1 - MOST_CRASHES : -1]
        if len(lives) < MOST_CRASHES or any(life.end is not LifeEnd.CRASHED for life in lives):
            raise self._broken(f"run {run.number} is parked after {lives}")
        self.note("parked", run.number)

    def _answer(self, wait: Wait) -> None:
        k = self._k_of(wait)
        if wait.kind is WaitKind.APPROVAL:
            self._decide(wait, Verdict.APPROVED)
        elif wait.kind is WaitKind.INPUT:
            self._decide(wait, Verdict.ANSWERED, int(wait.name.split()[1].rstrip("?")))
        elif wait.kind is WaitKind.IN_DOUBT:
            # who looks whether it happened must not look while it may still be happening
            if any(p.frozen or self.turns.now < p.thawed + 5 for p in self.nodes if not p.dead):
                return
            happened = self.happened.paid[k] > 0
            self.note("looked at", k, happened)
            value = programs.given(**wait.question["arguments"]) if happened else None
            self._decide(wait, Verdict.HAPPENED if happened else Verdict.RUN_AGAIN, value)
        elif wait.kind is not WaitKind.TIMER and wait.kind is not WaitKind.EVENT:
            raise self._broken(f"unexpected question {wait}")

    @staticmethod
    def _k_of(wait: Wait) -> int:
        return int(wait.question.get("arguments", {}).get("k", 0))

    def _decide(self, wait: Wait, verdict: Verdict, value: Any = None) -> None:
        decide(
            self.outside,
            wait.id,
            verdict,
            answer=value,
            actor="ann",
            channel=Channel.CODE,
            now=self.turns.now,
        )

    def _senders(self) -> None:
        """Events come before, during or after the wait; and again where somebody asks again."""
        early = {number: programs.named(program, "event") for number, program in self.programs.items()}
        while True:
            self.turns.block(self.turns.rng.uniform(0.5, 20))
            for run in self.outside.list_runs(RunFilter(limit=100)):
                todo = early[self._number_of(run)]
                if todo and self.turns.rng.random() < 0.4:
                    self._send(run.id, f"news-{todo.pop(0)}")
            for wait in self.outside.list_waits(kinds=frozenset({WaitKind.EVENT})):
                if self.turns.rng.random() < 0.5:
                    self._send(wait.run_id, wait.name)

    def _send(self, run_id: str, name: str) -> None:
        with suppress(RunFinishedError):
            self.outside.send_event(run_id, name, name.partition("-")[2].encode(), self.turns.now)

    def _cancels(self) -> None:
        for _ in range(self.plan.runs):
            self.turns.block(self.turns.rng.uniform(1, 60))
            if self.turns.rng.random() < self.plan.cancel:
                runs = self.outside.list_runs(RunFilter(limit=100))
                if runs:
                    with suppress(RunFinishedError):
                        self.outside.request_cancel(self.turns.rng.choice(runs).id, "enough")

    # -- when all is over
    def _judge(self) -> None:
        runs = self.store.runs.values()
        for run in runs:
            self._judge_end(run)
            self._judge_rows(run)
        numbers = collections.Counter(map(self._number_of, runs))
        if set(numbers) != set(self.programs):
            raise self._broken(f"runs are missing: {numbers}")
        if held := [
            slot for slot in self.store.tables.list_slots() if self.outside.is_alive(slot.run, slot.epoch)
        ]:
            raise self._broken(f"slots are still held: {held}")

    def _judge_end(self, run: Run) -> None:
        number = self._number_of(run)
        program = self.programs[number]
        if run.state is StateType.COMPLETED:
            value, right = self._codec.decode(run.result or b"null"), programs.expected(program, number)
            if value != right:
                raise self._broken(f"run {number} gave {value} instead of {right}")
            for k in programs.named(program, "pay", "signed"):
                if self.happened.paid[k] != 1:
                    raise self._broken(f"{k} was paid {self.happened.paid[k]} times")
        elif run.state is not StateType.CANCELLED:
            raise self._broken(f"run {number} ended as {run.state}: {run.message}")
        for k in programs.named(program, "charge"):
            if len(self.happened.keys[k]) > 1:
                raise self._broken(f"{k} was charged under {len(self.happened.keys[k])} keys")

    def _judge_rows(self, run: Run) -> None:
        rows = self.store.rows[run.number]
        ends = collections.Counter(
            (row.scope, row.key, row.branch, row.occurrence, row.attempt) for row in rows if row.event in ENDS
        )
        if twice := [place for place, count in ends.items() if count > 1]:
            names = {
                row.name
                for row in rows
                if (row.scope, row.key, row.branch, row.occurrence, row.attempt) in twice
            }
            raise self._broken(f"steps of run {run.number} ended twice: {names}")
        lives = self.store.lives.get(run.number, [])  # none: it was cancelled before anybody took it up
        if run.state is not StateType.CANCELLED and (not lives or lives[-1].end is not end_of(run.state)):
            raise self._broken(f"run {run.number} is {run.state}, its last lives {lives[-1:]}")
        if len(lives) != run.epoch:
            raise self._broken(f"run {run.number} was claimed {run.epoch} times and lived {len(lives)} times")


def simulate(seed: int, *, keep: bool = False) -> World:
    """A world, from its beginning to its end. What goes wrong is raised, with the seed in its text."""
    world = World(seed, keep=keep)
    try:
        world.run()
    except StuckError as error:
        left = [run for run in world.store.runs.values() if not run.state.is_final]
        told = ", ".join(f"run {run.number} is {run.state} ({run.message or run.crashes})" for run in left)
        raise BrokenError(f"seed {seed}: {error}" + (f": {told}" if told else "")) from error
    return world
