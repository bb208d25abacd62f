"""Rows of SQL stores to values and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any

import orjson

from agentflow.model.deployments import Deployment, NewDeployment
from agentflow.model.lives import Life, LifeEnd
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.waits import Assurance, Channel, Decision, Verdict, Wait, WaitKind

#: Where a row of table ``run`` has its epoch.
EPOCH = 15


def new_run_values(new: NewRun, state: StateType, owner: str) -> tuple[Any, ...]:
    """The parameters of ``create_run``; a run that somebody owns at once has epoch 1. `owner` "" = nobody."""
    running = state is StateType.RUNNING
    return (
        new.id,
        new.flow,
        new.name,
        new.entrypoint,
        new.parameters,
        new.fingerprint,
        ",".join(origin.value for origin in new.origins),
        state.value,
        new.created,
        new.created if running else None,
        1 if owner else 0,
        owner,
        new.cwd,
        new.interpreter,
        "\n".join(new.tags),
        new.parent,
        int(new.on_cancellation),
        new.deployment,
        new.deployment_version,
    )


def new_run(new: NewRun, state: StateType, owner: str, number: int) -> Run:
    """The run that ``create_run`` makes of `new`."""
    running = state is StateType.RUNNING
    return Run(
        number=number,
        id=new.id,
        flow=new.flow,
        name=new.name,
        entrypoint=new.entrypoint,
        parameters=new.parameters,
        fingerprint=new.fingerprint,
        origins=new.origins,
        state=state,
        message="",
        created=new.created,
        started=new.created if running else None,
        ended=None,
        result=None,
        error=None,
        epoch=1 if owner else 0,
        owner=owner,
        cwd=new.cwd,
        interpreter=new.interpreter,
        tags=new.tags,
        crashes=0,
        parent=new.parent,
        on_cancellation=new.on_cancellation,
        deployment=new.deployment,
        deployment_version=new.deployment_version,
    )


@cache
def _origins(text: str) -> tuple[Origin, ...]:
    return tuple(Origin(name) for name in text.split(","))


def run_from(row: Sequence[Any]) -> Run:
    """A row of table ``run``."""
    return Run(
        *row[:7],
        origins=_origins(row[7]),
        state=StateType(row[8]),
        message=row[9],
        created=row[10],
        started=row[11],
        ended=row[12],
        result=row[13],
        error=row[14],
        epoch=row[15],
        owner=row[16],
        cwd=row[17],
        interpreter=row[18],
        tags=tuple(row[19].split("\n")) if row[19] else (),
        crashes=row[20],
        parent=row[21],
        on_cancellation=bool(row[22]),
        deployment=row[23],
        deployment_version=row[24],
    )


def deployment_of(new: NewDeployment, before: Deployment | None, now: float) -> Deployment:
    """The deployment that a definition makes; where nothing of it differs from `before`, that one."""
    fields = {item.name: getattr(new, item.name) for item in dataclass_fields(new)}
    if new.paused is None:
        fields["paused"] = before is not None and before.paused
    made = Deployment(**fields, created=now if before is None else before.created, updated=now)
    return before if before is not None and replace(made, updated=before.updated) == before else made


def life_from(row: Sequence[Any]) -> Life:
    """A row of table ``life``."""
    return Life(*row[:8], end=LifeEnd(row[8]), message=row[9], account=row[10])


def first_life(run: Run) -> Life:
    """The first life of a run that began with it: under way, unless the run has completed in it."""
    life = Life(run.number, 1, run.created, run.owner, run.origins[0], run.fingerprint, 1)
    if run.state is not StateType.COMPLETED:
        return life
    return replace(life, ended=run.ended, end=LifeEnd.COMPLETED, message=run.message)


def wait_values(wait: Wait) -> tuple[Any, ...]:
    """The parameters of ``open_wait``."""
    return (
        wait.id,
        wait.run,
        wait.run_id,
        wait.flow,
        wait.step,
        wait.kind.value,
        wait.name,
        orjson.dumps(wait.question),
        orjson.dumps(wait.schema),
        wait.digest,
        wait.policy,
        wait.opened,
        wait.due,
    )


def wait_from(row: Sequence[Any]) -> Wait:
    """A row of table ``wait``."""
    return Wait(
        *row[:5],
        kind=WaitKind(row[5]),
        name=row[6],
        question=orjson.loads(row[7]),
        schema=orjson.loads(row[8]),
        digest=row[9],
        policy=row[10],
        opened=row[11],
        due=row[12],
        decision=None if row[13] is None else decision_from(row[13]),
        decided=row[14],
        allowed_digest=row[15],
        consumed=row[16],
    )


def decision_bytes(decision: Decision) -> bytes:
    """A decision as JSON."""
    return orjson.dumps(asdict(decision))


def decision_from(data: bytes) -> Decision:
    """A decision from JSON."""
    fields = orjson.loads(data)
    return Decision(
        verdict=Verdict(fields["verdict"]),
        answer=fields["answer"],
        reason=fields["reason"],
        actor=fields["actor"],
        channel=Channel(fields["channel"]),
        assurance=Assurance(fields["assurance"]),
    )
