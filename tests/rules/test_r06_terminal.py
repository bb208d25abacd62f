"""R6: how sure we are of who decided is recorded with the decision."""

from __future__ import annotations

import pytest

from agentflow import flow, task
from agentflow.approvals.decisions import decide
from agentflow.model.waits import Assurance, Channel, Verdict
from tests.fundamentals.lives import memory, open_wait, options, start


@pytest.mark.parametrize("assurance", list(Assurance))
@pytest.mark.parametrize("channel", list(Channel))
def test_a_decision_keeps_its_channel_and_assurance(channel: Channel, assurance: Assurance) -> None:
    """With the actor and the reason, for ever."""

    @task(side_effect=True, approval="always")
    def pay() -> None:
        raise AssertionError

    @flow
    def run() -> None:
        pay()

    journal = memory()
    start(run, journal=journal, using=options(gate=True))
    decide(
        journal,
        open_wait(journal).id,
        Verdict.DENIED,
        reason="no",
        actor="ann",
        channel=channel,
        assurance=assurance,
    )
    (wait,) = journal.list_waits(open_only=False)
    decision = wait.decision
    assert decision is not None
    assert (decision.channel, decision.assurance, decision.actor, decision.reason) == (
        channel,
        assurance,
        "ann",
        "no",
    )


def test_no_channel_is_one_that_a_model_can_reach() -> None:
    """Terminal, web, elicitation in the client, the owning process itself: nothing else decides."""
    assert {channel.value for channel in Channel} == {"terminal", "web", "mcp-elicitation", "code"}
