"""Deployments as code defines them: ``flow.to_deployment(...)``, ``flow.serve(...)``. Runs of them: `deployments`.

A deployment is a row of the journal, not a thing of this process: whoever reads the journal can ask for a run of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentflow.engine.annotations import freeze
from agentflow.engine.context import CURRENT
from agentflow.engine.limits import declare, limit_config
from agentflow.engine.tags import check_tags
from agentflow.errors import DefinitionError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.deployments import Deployment, NewDeployment, full_name
from agentflow.model.limits import DEPLOYMENT_PREFIX, ConcurrencyLimitConfig
from agentflow.model.runs import Origin
from agentflow.payloads.digests import canonical
from agentflow.shells import shell_origin
from agentflow.signatures import Binder

_ON_DEMAND = "a run of a deployment begins when somebody asks for it"
_WHO_SERVES = "its runs are executed by whoever serves the flow"
_ALWAYS = "parameters are always checked"
_HERE = "what a serving process does is seen in the journal, by any other one"
#: Options of Prefect's that mean nothing here, and why.
_ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("interval", "cron", "rrule", "schedule", "schedules", "pause_on_shutdown"), _ON_DEMAND),
    **dict.fromkeys(("triggers", "scheduled_time"), _ON_DEMAND),
    **dict.fromkeys(("work_pool_name", "work_queue_name", "job_variables", "infra_overrides"), _WHO_SERVES),
    **dict.fromkeys(("webserver", "print_starting_message"), _HERE),
    "enforce_parameter_schema": _ALWAYS,
    "entrypoint_type": "a flow is found by its file and its name",
    "version_type": "`version` is a label of yours",
    "global_limit": "it is called concurrency_limit, as in to_deployment",
    "client": "the journal is the one that AGENTFLOW_DATABASE_URL names",
    "poll_interval": "the end of a run is seen at once, or within AGENTFLOW_POLL_INTERVAL",
}


def refuse_options(what: str, others: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise `DefinitionError` for options that there are not; None is unset."""
    unknown = sorted(option for option, value in others.items() if value is not None)
    if unknown:
        why = _ELSEWHERE.get(unknown[0])
        advice = f"{why}: take it away" if why else f"there are {', '.join(sorted(known))}"
        message = f"{what} has no option {unknown[0]}; {advice}"
        raise DefinitionError(message)


@dataclass(frozen=True)
class RunnerDeployment:
    """A deployment that is defined but not yet stored: made by `Flow.to_deployment`. Prefect's name."""

    #: Without the flow's.
    name: str
    flow: Any
    #: Arguments of its runs, by name; the flow has defaults for the others, or whoever asks for a run gives them.
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tags: frozenset[str] = frozenset()
    description: str = ""
    version: str = ""
    concurrency_limit: ConcurrencyLimitConfig | None = None
    #: None = as it was, and at first not.
    paused: bool | None = None
    #: Parameters that nobody can change.
    frozen: frozenset[str] = frozenset()

    @property
    def flow_name(self) -> str:
        """The name of its flow."""
        return self.flow.name

    @property
    def full_name(self) -> str:
        """``FLOW/NAME``, by which runs of it are asked for."""
        return full_name(self.flow.name, self.name)

    def apply(self, journal: Journal | None = None, *, origins: Iterable[Origin] = ()) -> Deployment:
        """Store it, or replace what has its name; returns it as it is then.

        Args:
            journal: Default: that of the run around, else the one that the environment names.
            origins: Who defines it; default: whoever asked for the run around, else whoever stands behind the process.
        """
        frame = CURRENT.get()
        if journal is None:
            journal = open_journal() if frame is None else frame.run.journal
        if not origins:
            origins = (shell_origin(),) if frame is None else frame.run.origins()
        flow = self.flow
        saved = journal.save_deployment(
            NewDeployment(
                name=self.full_name,
                flow=flow.name,
                entrypoint=flow.entrypoint,
                parameters=orjson.dumps(dict(self.parameters)),
                schema=orjson.dumps(self._schema()),
                origins=tuple(sorted(origins)),
                tags=tuple(sorted(self.tags)),
                description=self.description,
                version=self.version,
                concurrency_limit=self.concurrency_limit,
                paused=self.paused,
                cwd=os.getcwd(),  # noqa: PTH109 - a string is what is stored
                interpreter=sys.executable,
            )
        )
        declare(journal, DEPLOYMENT_PREFIX + saved.name, self.concurrency_limit)
        return saved

    def _schema(self) -> dict[str, Any]:
        """That of the flow's parameters, in which the frozen ones have one value."""
        schema: dict[str, Any] = self.flow.parameters_schema
        known: dict[str, Any] = schema["properties"]
        fixed = {
            name: {**known.get(name, {}), "const": self.parameters[name], "readOnly": True}
            for name in sorted(self.frozen)
        }
        return {**schema, "properties": {**known, **fixed}}


class Deployable:
    """What a flow can do to be run by whoever asks; mixed into `Flow`, which has the rest."""

    name: str
    version: str
    description: str
    tags: frozenset[str]
    binder: Binder
    validate_parameters: bool

    def to_deployment(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        tags: Iterable[str] | None = None,
        description: str | None = None,
        version: str | None = None,
        concurrency_limit: int | ConcurrencyLimitConfig | None = None,
        paused: bool | None = None,
        **others: Any,
    ) -> RunnerDeployment:
        """A deployment of this flow, to be served (`serve`) or stored (its `apply`).

        Args:
            name: Its name; together with the flow's, ``FLOW/NAME``, it is unique. No slash.
            parameters: Arguments of its runs, by name, where they differ from the flow's defaults; ``freeze(value)``
                is one that nobody can change.
            tags: Labels of its runs, beside the flow's.
            description: What it is for; default: the flow's.
            version: A label of yours; default: the flow's.
            concurrency_limit: How many of its runs are executed at once, over all processes of the journal; the next
                ones wait, or (`ConcurrencyLimitConfig`) are cancelled. ``agentflow limits set deployment:FLOW/NAME N``
                overrides it.
            paused: Whether it takes no new runs; default: as it was, and at first it takes them.
            others: Nothing; an option of Prefect's that there is not is refused with the reason.

        Raises:
            DefinitionError: for a name that is none, an option that there is not, a parameter that JSON cannot keep.
            ParameterError: for parameters that the flow does not have, or that do not fit.
        """
        refuse_options(f"{self.name}: a deployment", others, _OPTIONS)
        given = dict(parameters or {})
        frozen = frozenset(name for name, value in given.items() if isinstance(value, freeze))
        given |= {name: given[name].unwrap() for name in frozen}
        return RunnerDeployment(
            name=full_name(self.name, name).rpartition("/")[2],
            flow=self,
            parameters=self._kept(given),
            frozen=frozen,
            tags=self.tags | check_tags(tags or ()),
            description=self.description if description is None else description,
            version=self.version if version is None else version,
            concurrency_limit=limit_config(f"{self.name}/{name}", concurrency_limit),
            paused=paused,
        )

    def _kept(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as JSON, from which the flow reads the same values again."""
        values = self.binder.named(parameters)
        validated = self.binder.validate(values) if self.validate_parameters else values
        try:
            kept: dict[str, Any] = to_jsonable_python(dict(parameters))
            again = self.binder.named(kept)
            again = self.binder.validate(again) if self.validate_parameters else again
        except (PydanticSerializationError, ValueError) as error:
            message = f"{self.name}: a parameter cannot be kept as JSON: {error}"
            raise DefinitionError(message) from None
        lost = [name for name, value in validated.items() if canonical([value]) != canonical([again[name]])]
        if lost:
            message = (
                f"{self.name}: {', '.join(lost)} would come back from JSON as something else; annotate the parameter, "
                "or give it with each run"
            )
            raise DefinitionError(message)
        return kept

    def serve(self, name: str | None = None, *, limit: int | None = None, **options: Any) -> Any:
        """Define a deployment of this flow and execute its runs, until the process is told to stop.

        Blocks; on a thread whose event loop runs it gives a coroutine instead. For several: `agentflow.serve`.

        Args:
            name: As for `to_deployment`; default: the flow's.
            limit: How many runs are under way in this process at once; None = as many as ``max_runs`` of the settings
                allows.
            options: Those of `to_deployment`. Raises as that does.
        """
        from agentflow.workers.background import serve  # noqa: PLC0415 - the room above

        refuse_options(
            f"{self.name}.serve()", {key: options[key] for key in options.keys() - _OPTIONS}, _OPTIONS
        )
        return serve(self.to_deployment(self.name if name is None else name, **options), limit=limit)


_OPTIONS = frozenset(Deployable.to_deployment.__kwdefaults__ or ())
