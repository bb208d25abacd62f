"""Verbs of deployments."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from agentflow.model.deployments import Deployment, NewDeployment


class DeploymentFilter(NamedTuple):
    """Which deployments to list, by name."""

    limit: int = 1000
    flow: str = ""
    #: Only names that come after this one: the last one of the page before.
    after: str = ""
    #: Only deployments that have all of these tags.
    tags: tuple[str, ...] = ()


class DeploymentVerbs(Protocol):
    """Deployments defined, paused, removed. Runs of them are made with the verbs of runs."""

    def save_deployment(self, new: NewDeployment) -> Deployment:
        """Define a deployment, or replace the definition of the one of that name; returns it as it is now."""
        ...

    def pause_deployment(self, name: str, *, paused: bool) -> Deployment:
        """Let it take no new runs, or take them again. Raises `DeploymentNotFoundError`."""
        ...

    def delete_deployment(self, name: str) -> bool:
        """Remove a deployment; its runs stay. False if there is none."""
        ...

    def get_deployment(self, name: str) -> Deployment | None:
        """The deployment of that name."""
        ...

    def list_deployments(self, wanted: DeploymentFilter) -> list[Deployment]:
        """Deployments by name."""
        ...
