"""Rows of deployments of SQL stores to values and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentflow.model.deployments import Deployment, NewDeployment
from agentflow.model.limits import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from agentflow.model.runs import Origin


def deployment_values(new: NewDeployment, now: float) -> tuple[Any, ...]:
    """The parameters of ``put_deployment``: the columns, and whether `paused` is given."""
    limit = new.concurrency_limit
    return (
        new.name, new.flow, new.entrypoint, new.parameters, new.schema,
        ",".join(origin.value for origin in new.origins), "\n".join(new.tags), new.description, new.version,
        0 if limit is None else limit.limit, "" if limit is None else limit.collision_strategy.value,
        int(bool(new.paused)), new.cwd, new.interpreter, now, int(new.paused is not None),
    )  # fmt: skip


def deployment_from(row: Sequence[Any]) -> Deployment:
    """A row of table ``deployment``."""
    return Deployment(
        *row[:5],
        origins=tuple(Origin(name) for name in row[5].split(",")),
        tags=tuple(row[6].split("\n")) if row[6] else (),
        description=row[7],
        version=row[8],
        concurrency_limit=ConcurrencyLimitConfig(row[9], ConcurrencyLimitStrategy(row[10]))
        if row[9]
        else None,
        paused=bool(row[11]),
        cwd=row[12],
        interpreter=row[13],
        created=row[14],
        updated=row[15],
    )
