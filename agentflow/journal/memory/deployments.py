"""Verbs of deployments."""

from __future__ import annotations

from dataclasses import replace

from agentflow.errors import DeploymentNotFoundError
from agentflow.journal.memory.base import MemoryBase
from agentflow.journal.protocol.deployments import DeploymentFilter
from agentflow.journal.rows import deployment_of
from agentflow.model.deployments import Deployment, NewDeployment


class MemoryDeployments(MemoryBase):
    """See `agentflow.journal.protocol.deployments.DeploymentVerbs`."""

    def save_deployment(self, new: NewDeployment) -> Deployment:
        with self._lock:
            made = self._deployments[new.name] = deployment_of(
                new, self._deployments.get(new.name), self._clock()
            )
        self._notify()
        return made

    def pause_deployment(self, name: str, *, paused: bool) -> Deployment:
        with self._lock:
            found = self._deployments.get(name)
            if found is None:
                raise DeploymentNotFoundError(name)
            if found.paused is not paused:
                found = self._deployments[name] = replace(found, paused=paused, updated=self._clock())
        self._notify()
        return found

    def delete_deployment(self, name: str) -> bool:
        with self._lock:
            found = self._deployments.pop(name, None)
        self._notify()
        return found is not None

    def get_deployment(self, name: str) -> Deployment | None:
        return self._deployments.get(name)

    def list_deployments(self, wanted: DeploymentFilter) -> list[Deployment]:
        with self._lock:
            return [
                found
                for name, found in sorted(self._deployments.items())
                if name > wanted.after
                and (not wanted.flow or found.flow == wanted.flow)
                and set(wanted.tags).issubset(found.tags)
            ][: wanted.limit]
