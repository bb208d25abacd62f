"""Raw clients when the model's API fails: what is tried again, what is recorded, which error the caller gets."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

import agentflow.agents.openai
from agentflow import flow, task
from agentflow.agents.failures import is_transient, retry_after
from agentflow.errors import UsageError
from agentflow.model.states import StateType
from agentflow.testing.models import Fault, Reply, ScriptedModelServer
from tests.agents.lives import Lives
from tests.agents.test_clients import ASYNC, USER, chat, flow_of, make_client, responses_stream, script


@pytest.mark.parametrize("kind", ASYNC)
@pytest.mark.parametrize(
    ("fault", "naps"),
    [
        (Fault.status(429, retry_after=30), [30.0]),
        (Fault.status(529), [0.5]),
        (Fault.status(400, headers={"x-should-retry": "true"}), [0.5]),
        (Fault.drop(), [0.5]),
    ],
    ids=["429", "529", "asked-for", "drop"],
)
async def test_a_transient_failure_is_tried_again(
    tmp_path: Path, kind: str, fault: Fault, naps: list[float]
) -> None:
    """Rate limits, overload and lost connections cost a pause, as long as the provider asks, and nothing else."""
    with ScriptedModelServer(script) as server:
        server.faults.append(fault)
        lives = Lives(tmp_path, flow_of(server, kind))
        outcome = await lives.live()
        keys = {request.headers["idempotency-key"] for request in server.requests}
        assert len(server.requests) == 2
    assert outcome is not None
    assert outcome.state is StateType.COMPLETED
    assert lives.naps == naps
    assert len(keys) == 1, "all tries of a step carry one key"


async def test_the_idempotency_key_survives_the_process(tmp_path: Path) -> None:
    """A request that was in flight when the process died is made again under the same key; another run has another."""
    with ScriptedModelServer(script) as server:
        lives = Lives(tmp_path, flow_of(server, "chat"))
        assert await lives.live(at=1, after=False) is None
        await lives.live()
        lives.run_id = ""
        await lives.live()
        first, second, other = (request.headers["idempotency-key"] for request in server.requests)
    assert first == second != other


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("chat", openai.BadRequestError),
        ("responses-stream", openai.BadRequestError),
        ("messages", anthropic.BadRequestError),
    ],
)
async def test_a_final_failure_is_the_clients_own_error_in_every_life(
    tmp_path: Path, kind: str, error: type[Exception]
) -> None:
    """A refused request is not tried again, not recorded as a success, and raises the same typed error on replay."""
    ask, _ = ASYNC[kind]
    with ScriptedModelServer(script) as server:
        server.faults.append(Fault.status(400, message="no such thing"))

        @flow
        async def asking() -> str:
            async with make_client(server, kind, max_retries=2) as client:
                try:
                    await ask(client)
                except error as refusal:
                    return str(refusal)
            return "no error"

        lives = Lives(tmp_path, asking)
        assert await lives.live(at_end=True) is None
        outcome = await lives.live()
        assert len(server.requests) == 1
    assert outcome is not None
    assert "no such thing" in outcome.value
    assert [row.event for row in lives.rows(kind="model")] == ["failed"]


async def test_what_stays_lost_is_a_connection_error_in_every_life(tmp_path: Path) -> None:
    """After the last attempt the client raises its own error for a lost connection; on replay too, without a try."""
    with ScriptedModelServer(script) as server:
        server.faults.extend([Fault.drop()] * 2)

        @flow
        async def asking() -> str:
            async with make_client(server, "chat", attempts=2) as client:
                try:
                    await chat(client)
                except openai.APIConnectionError as lost:
                    return repr(lost.__cause__)
            return "no error"

        lives = Lives(tmp_path, asking)
        assert await lives.live(at_end=True) is None
        outcome = await lives.live()
        assert len(server.requests) == 2
    assert outcome is not None
    assert outcome.value.startswith("RemoteProtocolError")


@pytest.mark.parametrize("kind", ["chat-stream", "responses-stream", "messages-stream"])
@pytest.mark.parametrize(
    "fault", [Fault.drop(after_events=3), Fault.status(500, after_events=3)], ids=["drop", "error-event"]
)
async def test_a_stream_that_breaks_is_no_success(tmp_path: Path, kind: str, fault: Fault) -> None:
    """What the caller has seen the beginning of is not asked for again; the failure is recorded and replayed."""
    ask, _ = ASYNC[kind]
    with ScriptedModelServer(script) as server:
        server.faults.append(fault)

        @flow
        async def asking() -> str:
            async with make_client(server, kind, attempts=1) as client:
                try:
                    return (await ask(client))[0]  # one attempt, for all of it may arrive at once
                except (openai.APIError, anthropic.APIError, httpx2.TransportError) as broken:
                    return type(broken).__name__

        lives = Lives(tmp_path, asking)
        assert await lives.live(at_end=True) is None
        assert [row.event for row in lives.rows(kind="model")] == ["failed"]
        outcome = await lives.live()
        assert len(server.requests) == 1
    assert outcome is not None
    seen = {"drop": {"APIConnectionError", "RemoteProtocolError"}, "status": {"APIError", "APIStatusError"}}
    assert outcome.value in seen[fault.kind] | {"InternalServerError", "ResponseFailedEvent"}


async def test_a_retried_task_asks_again_only_for_what_broke(tmp_path: Path) -> None:
    """A retry of the task around it repeats the failed request, not the one before it."""
    with ScriptedModelServer(lambda request: Reply(f"{request.prompt}{request.number}")) as server:

        async def ask(client: openai.AsyncOpenAI, text: str) -> str:
            answer = await client.responses.create(model="gpt-5", input=text)
            return answer.output_text

        @task(retries=1)
        async def both() -> str:
            async with make_client(server, "responses", attempts=1) as client:
                first = await ask(client, "a")
                if len(server.requests) == 1:
                    server.faults.append(Fault.status(500))
                return first + await ask(client, "b")

        @flow
        async def asking() -> str:
            return await both()

        outcome = await Lives(tmp_path, asking).live()
        assert [request.body["input"] for request in server.requests] == ["a", "b", "b"]
    assert outcome is not None
    assert outcome.value == "a1b3"


async def test_equal_requests_side_by_side_are_two_steps(tmp_path: Path) -> None:
    """Two concurrent equal requests are two requests, and each gets its own answer back on replay."""
    with ScriptedModelServer(lambda request: Reply(str(request.number))) as server:

        @flow
        async def asking() -> list[str]:
            async with make_client(server, "chat") as client:
                both = await asyncio.gather(chat(client), chat(client))
                return [text for _, text in both]

        lives = Lives(tmp_path, asking)
        assert await lives.live(at_end=True) is None
        outcome = await lives.live()
        assert len(server.requests) == 2
    assert outcome is not None
    assert sorted(outcome.value) == ["1", "2"]
    assert len(lives.rows(kind="model", event="completed")) == 2


async def test_a_stream_that_the_caller_leaves_is_not_recorded(tmp_path: Path) -> None:
    """Closing a stream early leaves no end in the journal; the next life asks again."""
    with ScriptedModelServer(script) as server:

        @flow
        async def asking() -> str:
            async with make_client(server, "chat") as client:
                stream: Any = await client.chat.completions.create(model="gpt-5", messages=USER, stream=True)
                async with stream:
                    async for chunk in stream:
                        return type(chunk).__name__
            return "nothing"

        lives = Lives(tmp_path, asking)
        assert await lives.live(at_end=True) is None
        assert lives.rows(kind="model") == []
        await lives.live()
        assert len(server.requests) == 2


async def test_a_cancelled_stream_is_not_recorded(tmp_path: Path) -> None:
    """A time limit around a stream cancels the request; nothing is recorded, nothing leaks."""
    with ScriptedModelServer(script) as server:
        server.faults.append(Fault.delay(5))

        @flow
        async def asking() -> str:
            async with make_client(server, "chat") as client:
                try:
                    async with asyncio.timeout(0.05):
                        await responses_stream(client)
                except TimeoutError:
                    return "late"
            return "in time"

        lives = Lives(tmp_path, asking)
        outcome = await lives.live()
    gc.collect()
    assert outcome is not None
    assert outcome.value == "late"
    assert lives.rows(kind="model") == []


async def test_outside_of_a_flow_a_client_is_what_it_was() -> None:
    """Without a flow nothing is recorded, repeated or retried."""
    with ScriptedModelServer(script) as server:
        async with make_client(server, "chat") as client:
            await chat(client)
            server.faults.append(Fault.status(429))
            with pytest.raises(openai.RateLimitError):
                await chat(client)
        assert len(server.requests) == 2
        assert "idempotency-key" not in server.requests[0].headers


def test_a_client_of_ones_own_is_refused() -> None:
    """`http_client=` would go round the journal."""
    with pytest.raises(UsageError, match="transport="):
        agentflow.agents.openai.client(api_key="x", http_client=object())


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is missing, the error names the extra that brings it."""
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(UsageError, match=r"agentflow\[openai\]"):
        agentflow.agents.openai.client(api_key="x")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_what_retry_after_says(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds win; then a number; then a date, counted from now (here 10 s after the epoch)."""
    assert retry_after(headers, now=10.0) == seconds


@pytest.mark.parametrize(
    ("status", "asked", "again"),
    [
        (429, "", True),
        (409, "", True),
        (529, "", True),
        (400, "", False),
        (401, "", False),
        (500, "false", False),
        (400, "true", True),
    ],
)
def test_which_statuses_are_tried_again(status: int, asked: str, again: bool) -> None:
    """The server's word wins over the status."""
    assert is_transient(status, {"x-should-retry": asked} if asked else {}) is again
