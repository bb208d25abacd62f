"""The part of the random programs that defines deployments, pauses and removes them, and asks for runs of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from agentflow.errors import DeploymentNotFoundError, DeploymentPausedError
from agentflow.journal.protocol import DeploymentFilter
from agentflow.model.deployments import NewDeployment
from agentflow.model.limits import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from agentflow.model.runs import NewRun, Origin
from agentflow.model.states import StateType
from tests.journal.cache_rules import faults, stores
from tests.journal.history_rules import HistoryRules, repeats
from tests.journal.oracle import Failure
from tests.journal.striking import Fault

deployment_names = st.sampled_from(["a/x", "a/y", "b/x"])
limits = st.none() | st.builds(
    ConcurrencyLimitConfig, st.integers(1, 2), st.sampled_from(sorted(ConcurrencyLimitStrategy))
)


def definition(name: str, **rest: Any) -> NewDeployment:
    return NewDeployment(name, name.partition("/")[0], "f.py:f", **rest)


definitions = st.builds(
    definition,
    name=deployment_names,
    parameters=st.sampled_from([b"{}", b'{"day":1}']),
    schema=st.just(b"{}"),
    origins=st.sampled_from([(Origin.PERSON,), (Origin.PERSON, Origin.MODEL)]),
    tags=st.sampled_from([(), ("t",), ("t", "u")]),
    version=st.sampled_from(["", "1"]),
    concurrency_limit=limits,
    paused=st.none() | st.booleans(),
)
wanted_deployments = st.builds(
    DeploymentFilter,
    limit=st.integers(1, 3),
    flow=st.sampled_from(["", "a"]),
    after=st.sampled_from(["", "a/x"]),
    tags=st.sampled_from([(), ("t",), ("t", "u")]),
)


class DeploymentRules(HistoryRules):
    """Every store knows the same deployments, and lets the same runs of them be made."""

    @rule(which=stores, new=definitions, fault=faults, repeat=repeats)
    def define(self, which: int, new: NewDeployment, fault: Fault | None, repeat: bool) -> None:
        self.both(which, fault, lambda journal: journal.save_deployment(new), repeat=repeat)

    @rule(which=stores, name=deployment_names, paused=st.booleans(), fault=faults, repeat=repeats)
    def pause(self, which: int, name: str, paused: bool, fault: Fault | None, repeat: bool) -> None:
        self.both(which, fault, lambda journal: journal.pause_deployment(name, paused=paused), repeat=repeat)

    @rule(which=stores, name=deployment_names, fault=faults)
    def remove(self, which: int, name: str, fault: Fault | None) -> None:
        self.both(which, fault, lambda journal: journal.delete_deployment(name))

    @rule(which=stores, wanted=wanted_deployments)
    def look_at_deployments(self, which: int, wanted: DeploymentFilter) -> None:
        self.both(which, None, lambda journal: journal.list_deployments(wanted))

    @rule(which=stores, name=deployment_names, fault=faults)
    def ask_for_a_run(self, which: int, name: str, fault: Fault | None) -> None:
        new = NewRun(
            f"asked-{len(self.ids)}", "a", "f.py:f", b"{}", "", Origin.PERSON, self.now, deployment=name
        )  # fmt: skip
        known = self.oracle.get_deployment(name)
        said = self.both(which, fault, lambda journal: journal.create_run(new, state=StateType.PENDING))
        made = self.oracle.get_run(new.id)
        if made is not None:
            self.ids.append(new.id)
        if isinstance(said, Failure):
            assert said.kind is (DeploymentNotFoundError if known is None else DeploymentPausedError)
            assert known is None or known.paused
