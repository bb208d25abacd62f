"""Calls with a cache policy: an earlier result found, or why there is none; a new one kept.

What makes calls equal is in `agentflow.engine.caching`, waiting for an equal call in `agentflow.engine.cache_locks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from agentflow.engine.cache_misses import ago, explain, run_name
from agentflow.engine.caching import (
    KeyedRun,
    KeyedTask,
    KeyPart,
    NoKey,
    TaskRunContext,
    closure_of,
    is_private,
    joined,
)
from agentflow.engine.endings import CACHED
from agentflow.engine.logs import run_log
from agentflow.engine.records import Place
from agentflow.engine.step import Call, body_frame
from agentflow.engine.step_rows import end_row, start_rows
from agentflow.errors import CorruptRecord
from agentflow.journal.protocol import CacheFilter, CacheRow
from agentflow.model.steps import StepKind
from agentflow.payloads.envelopes import takes_long

if TYPE_CHECKING:
    from agentflow.engine.context import Frame
    from agentflow.engine.runtime import Runtime

#: How many of a task's newest entries a miss is compared with.
_COMPARED = 8


class _Keyed:
    """A call as its policy sees it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.arguments = call.arguments()

    @property
    def closure(self) -> Mapping[str, Any]:
        return closure_of(self._call.fn)

    @property
    def flow_parameters(self) -> Mapping[str, Any]:
        frame = next(body for body in self._call.frame.enclosing() if body.policy.kind is StepKind.FLOW)
        return self._call.run.parameters if frame.parent is None else frame.parameters

    @property
    def context(self) -> TaskRunContext:
        policy, run = self._call.policy, self._call.run.run
        source = b"" if policy.source is None else policy.source()
        return TaskRunContext(
            KeyedTask(policy.name, self._call.fn, policy.identity, source),
            KeyedRun(policy.name, run.id, policy.tags),
            self.arguments,
        )


class Lookup:
    """What the cache had for a call, and what it will be told of it."""

    #: The key; None where the call has none, and is not cached.
    key: bytes | None = None
    #: This call computes the key, and whoever wants it waits.
    is_locked: bool = False
    #: What the key is made of, part -> digest; known after a miss.
    parts: Mapping[str, str] = {}
    #: An earlier result that was found, not read yet.
    found: CacheRow | None = None
    #: The earlier result with its decoded value.
    hit: tuple[CacheRow, Any] | None = None
    #: Why there is none.
    why: str = ""
    #: Id of the run with whose result the key was compared.
    compared: str = ""
    #: Why this call's own result is not kept.
    unstored: str = ""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._named: list[KeyPart] = []
        policy = call.policy
        rule = policy.cache_policy
        if rule is None:
            return
        try:
            self._named = list(rule.parts(_Keyed(call)))
        except NoKey as reason:
            self.why = str(reason)
            run_log(call.run, f"{policy.name} is not cached: {reason}", step=policy.name)
            return
        self.key = call.run.hasher.digest(policy.identity.encode() + b"\0" + joined(self._named))
        self.look()

    def look(self) -> None:
        """Look for an earlier result, now; then it is to be `read`."""
        call, key = self._call, self.key
        if key is None:
            return
        run = call.run
        found = None
        if call.policy.refresh_cache:
            self.why = "refresh_cache: it always runs"
        else:
            found = run.journal.cached(key)
            if found is None:
                self._explain()
            elif found.is_good(now := run.clock()):
                self.found = found
            else:
                self.why = (
                    f"the result of run {run_name(found.run_id)} expired {ago(now - (found.expires or now))}"
                )
                self.compared = found.run_id

    async def read(self, rt: Runtime) -> None:
        """Take the value of another run that was found; where this process cannot read it, the task runs."""
        found, self.found = self.found, None
        if found is not None:
            await self._decode(found, rt)
        if self.hit is None and self._named:
            self.parts = self._digests()
            self._named = []  # the arguments themselves may be large

    async def _decode(self, found: CacheRow, rt: Runtime) -> None:
        run, name = self._call.run, self._call.policy.name
        try:
            if takes_long(found.value):
                value = run.codec.read(await rt.transfer(partial(run.codec.open, found.value)))
            else:
                value = run.codec.decode(found.value)
            self.hit = (found, value)
        except CorruptRecord as error:
            self.why = f"the result of run {run_name(found.run_id)} cannot be read here: {error}"
            self.compared = found.run_id
            run_log(run, f"{name}: the cached result is not used: {error}", step=name)

    def _explain(self) -> None:
        if not self.parts:
            self.parts = self._digests()
        wanted = CacheFilter(task=self._call.policy.identity, limit=_COMPARED)
        self.why, self.compared = explain(self.parts, self._call.run.journal.cache_entries(wanted))

    def _digests(self) -> dict[str, str]:
        digest = self._call.run.hasher.digest
        return {f"{kind}:{name}": digest(data)[:8].hex() for kind, name, data in self._named}

    def detail(self) -> dict[str, Any]:
        """What the row of the call's end says of the cache."""
        if self.hit is not None:
            found = self.hit[0]
            age = max(0.0, self._call.run.clock() - found.created)
            return {"cache": {"result": "hit", "from_run": found.run_id, "age_s": round(age, 3)}}
        told: dict[str, Any] = {"result": "miss" if self.key is not None else "uncached", "why": self.why}
        if self.compared:
            told["compared_with"] = self.compared
        if self.unstored:
            told["unstored"] = self.unstored
        return {"cache": told}

    def entry(self, data: bytes, *, unpure: bool) -> CacheRow | None:
        """What later calls may use of this one's result; nothing where a side effect ran below it."""
        if self.key is None:
            return None
        if unpure:
            self.unstored = "a side effect ran below it"
            return None
        policy, run = self._call.policy, self._call.run
        now = run.clock()
        expires = None if policy.cache_expiration is None else now + policy.cache_expiration.total_seconds()
        return CacheRow(
            self.key,
            data,
            now,
            expires,
            run.number,
            run.run.id,
            policy.identity,
            policy.name,
            orjson.dumps(self.parts),
            int(is_private(policy.cache_policy)),
        )


async def take(call: Call, place: Place, look: Lookup, found: tuple[CacheRow, Any], rt: Runtime) -> Any:
    """A hit across runs becomes a row of this run before it is delivered: expiry must not change a replay."""
    run = call.run
    row, value = found
    await rt.settled(run)
    run.check(call.frame)
    child: Frame = body_frame(call, place, None)
    if call.ending is not None:
        call.ending.state = CACHED
    rows = [*start_rows(call.frame), end_row(call, child, "cached", row.value, look.detail())]
    await rt.commit(run, rows)
    run.tally.cached += 1
    if call.policy.kind is StepKind.MODEL:
        run.model_spoke = True
    return value
