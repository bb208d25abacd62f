"""Verbs of deployments."""

from __future__ import annotations

from agentflow.errors import DeploymentNotFoundError
from agentflow.journal.postgres.base import PostgresBase
from agentflow.journal.postgres.connections import Session
from agentflow.journal.postgres.statements import SQL
from agentflow.journal.protocol.deployments import DeploymentFilter
from agentflow.journal.sql.deployments import deployment_from, deployment_values
from agentflow.journal.sql.filters import deployments_wanted
from agentflow.model.deployments import Deployment, NewDeployment


class PostgresDeployments(PostgresBase):
    """See `agentflow.journal.protocol.deployments.DeploymentVerbs`."""

    def save_deployment(self, new: NewDeployment) -> Deployment:
        def work(db: Session) -> Deployment:
            row = db.one(SQL["put_deployment"], deployment_values(new, self._now(db)))
            if row is None:
                raise DeploymentNotFoundError(new.name)
            return deployment_from(row)

        saved = self._commit(work)
        self._notify()
        return saved

    def pause_deployment(self, name: str, *, paused: bool) -> Deployment:
        def work(db: Session) -> Deployment:
            row = db.one(SQL["pause_deployment"], (int(paused), self._now(db), name))
            if row is None:
                raise DeploymentNotFoundError(name)
            return deployment_from(row)

        changed = self._commit(work)
        self._notify()
        return changed

    def delete_deployment(self, name: str) -> bool:
        found = self._commit(lambda db: bool(db.do(SQL["drop_deployment"], (name,))))
        self._notify()
        return found

    def get_deployment(self, name: str) -> Deployment | None:
        row = self._one(SQL["deployment"], (name,))
        return None if row is None else deployment_from(row)

    def list_deployments(self, wanted: DeploymentFilter) -> list[Deployment]:
        where, values = deployments_wanted(wanted)
        sql = f"SELECT * FROM deployment WHERE {where} ORDER BY name LIMIT ?"  # noqa: S608 - fixed texts
        return [deployment_from(row) for row in self._find(sql, (*values, wanted.limit))]
