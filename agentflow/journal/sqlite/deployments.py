"""Verbs of deployments."""

from __future__ import annotations

import apsw

from agentflow.errors import DeploymentNotFoundError
from agentflow.journal.protocol.deployments import DeploymentFilter
from agentflow.journal.sql.deployments import deployment_from, deployment_values
from agentflow.journal.sql.filters import deployments_wanted
from agentflow.journal.sqlite.base import SQL, SqliteBase
from agentflow.model.deployments import Deployment, NewDeployment


class SqliteDeployments(SqliteBase):
    """See `agentflow.journal.protocol.deployments.DeploymentVerbs`."""

    def save_deployment(self, new: NewDeployment) -> Deployment:
        def work(db: apsw.Connection) -> Deployment:
            row = db.execute(SQL["put_deployment"], deployment_values(new, self._clock())).get
            return deployment_from(row)

        saved = self._commit(work, durable=True)
        self._notify()
        return saved

    def pause_deployment(self, name: str, *, paused: bool) -> Deployment:
        def work(db: apsw.Connection) -> Deployment:
            row = db.execute(SQL["pause_deployment"], (int(paused), self._clock(), name)).get
            if row is None:
                raise DeploymentNotFoundError(name)
            return deployment_from(row)

        changed = self._commit(work, durable=True)
        self._notify()
        return changed

    def delete_deployment(self, name: str) -> bool:
        def work(db: apsw.Connection) -> bool:
            db.execute(SQL["drop_deployment"], (name,))
            return bool(db.changes())

        found = self._commit(work, durable=True)
        self._notify()
        return found

    def get_deployment(self, name: str) -> Deployment | None:
        row = self._one(SQL["deployment"], (name,))
        return None if row is None else deployment_from(row)

    def list_deployments(self, wanted: DeploymentFilter) -> list[Deployment]:
        where, values = deployments_wanted(wanted)
        sql = f"SELECT * FROM deployment WHERE {where} ORDER BY name LIMIT ?"  # noqa: S608 - fixed texts
        return [deployment_from(row) for row in self._all(sql, (*values, wanted.limit))]
