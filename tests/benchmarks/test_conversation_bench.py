"""What a long conversation leaves in the journal: answers, never the conversation itself; for ``make bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agentflow.agents.openai
from agentflow import flow
from agentflow.engine.active import Options
from agentflow.journal.sqlite import SqliteJournal
from agentflow.settings import Settings
from agentflow.testing.models import ModelRequest, Reply, ScriptedModelServer
from tests.benchmarks.measure import KEY

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
CALLS, TOKENS, MOST = 100, 200_000, 2_000_000
#: About four letters a token.
WORDS = "refund " * (TOKENS * 4 // 7)


def answer(request: ModelRequest) -> Reply:
    """A few hundred tokens."""
    return Reply("The order was sent on Monday. " * 40)


def test_a_hundred_calls_on_a_long_conversation_stay_small(tmp_path: Path) -> None:
    """Each call sends all 200,000 tokens again; the journal's file stays under 2 MB."""
    with (
        ScriptedModelServer(answer) as server,
        agentflow.agents.openai.client(api_key="sk-test", base_url=server.openai_url) as client,
    ):

        @flow
        def converse() -> int:
            messages: list[Any] = [{"role": "user", "content": WORDS}]
            for number in range(CALLS):
                reply = client.chat.completions.create(model="gpt-5", messages=messages)
                messages.append({"role": "assistant", "content": reply.choices[0].message.content})
                messages.append({"role": "user", "content": f"and number {number}?"})
            return len(messages)

        journal = SqliteJournal(tmp_path / "j.db", KEY)
        outcome = converse.run({}, journal=journal, options=Options(settings=Settings(home=tmp_path)))
        size = journal.facts()["bytes"]
        journal.close()
    print(f"\n{CALLS} calls on {TOKENS:,} tokens: {size / 1e6:.2f} MB of journal")
    assert (outcome.value, len(server.requests)) == (2 * CALLS + 1, CALLS)
    assert size < MOST
