"""Durable pydantic-ai agents: inside a flow, each model request and tool call of the agent is a step of the run.

    agent = Agent("openai:gpt-5", name="support", toolsets=[tools], capabilities=[Durability()])

    @flow
    async def answer(question: str) -> str:
        return (await agent.run(question)).output

Outside of a flow the agent is what it was. Needs ``agentflow[pydantic-ai]``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from weakref import WeakKeyDictionary

from pydantic import ValidationError
from pydantic_ai import DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_ai.agent import AgentRunResult, EventStreamHandler
from pydantic_ai.capabilities.abstract import WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    DurableOperationId,
    JournalCallableOperationBackend,
    RoleBasedOperationConfig,
    conversation_id_from_run_id,
)
from pydantic_ai.messages import AgentStreamEvent
from pydantic_ai.models import Model
from pydantic_ai.tools import AgentDepsT

from agentflow import recorded
from agentflow.agents.failures import ATTEMPTS, RETRY_DELAYS, RETRY_JITTER
from agentflow.agents.model_errors import RequestRefused, is_transient, recordable
from agentflow.agents.operations import Operation, describe, response_detail
from agentflow.agents.tool_steps import Outcome, ToolOptions, ToolStep, denied, load_outcome, options_of
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.policy import StepPolicy
from agentflow.engine.runtime import LOOP
from agentflow.engine.step import Call, execute
from agentflow.errors import ApprovalDenied, CodecError, CorruptRecord
from agentflow.payloads.digests import canonical

#: The agent's run in which an event is handled: the event itself does not tell.
_EVENT_RUN: ContextVar[str] = ContextVar("agentflow_event_run", default="")


class _Codec:
    """Values to JSON and back. What cannot be read back stops the run: a model must never see it as its own mistake."""

    def dump(self, tp: Any, value: Any) -> Any:
        return JSON_CODEC.dump(tp, value)

    def load(self, tp: Any, payload: Any) -> Any:
        try:
            return load_outcome(payload) or JSON_CODEC.load(tp, payload)
        except (ValidationError, KeyError, TypeError) as error:
            message = f"a recorded result cannot be read back as {tp}: {error}"
            raise CorruptRecord(message) from error


class _AgentRun:
    """One run of an agent within one body of the flow."""

    def __init__(self, frame: Frame) -> None:
        #: Names the branches of its operations.
        self.frame = frame
        #: Calls that a person has to sign, by tool call id, with what the tool said of them.
        self.to_sign: dict[str, Mapping[str, Any]] = {}


_runs: WeakKeyDictionary[Frame, dict[str, _AgentRun]] = WeakKeyDictionary()


def _agent_run(frame: Frame, agent: str, run_id: str) -> _AgentRun:
    """The agent's run `run_id` in the body around `frame`."""
    body = frame.root
    known = _runs.setdefault(body, {})
    found = known.get(run_id)
    if found is None:
        branch = body.run.hasher.digest(b"agent run|%b|%b" % (agent.encode(), run_id.encode()))
        found = known[run_id] = _AgentRun(body.branched(branch))
    return found


class _Backend(JournalCallableOperationBackend[ToolOptions]):
    """Runs operations of one agent as steps."""

    def __init__(self, durability: Durability[Any]) -> None:
        def resolve(
            operation_id: DurableOperationId, tool: object | None, name: str
        ) -> ToolOptions | Literal[False]:
            del operation_id
            return options_of(tool, name)

        none = ToolOptions()
        super().__init__(
            agent_name=durability.name,
            default_model_id=durability.default_model_id,
            config=RoleBasedOperationConfig(
                model=none, event=none, capability=none, tool=none, resolve_tool=resolve
            ),
        )
        self._agent = durability.name
        self._attempts = durability.attempts

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: ToolOptions,
    ) -> object:
        """Find the operation's record, or run `body` and record what it returns."""
        frame = CURRENT.get()
        if frame is None:
            return await body()
        operation = describe(operation_id, self._agent, cache_key)
        run = _agent_run(frame, self._agent, operation.run_id or _EVENT_RUN.get())
        key = frame.run.hasher.digest(canonical([name, *operation.identity])[0])
        place = _operation_frame(run.frame, key, LOOP.task())
        if operation.call is None:
            try:
                return await execute(self._call(place, key, operation, body), LOOP)
            except RequestRefused as refusal:
                raise refusal.told() from refusal
        to_sign = run.to_sign.get(operation.call.context.tool_call_id or "")
        step = ToolStep(operation.call, body)
        policy = step.policy(config, to_sign=to_sign is not None, reason=to_sign)
        call = Call(place, policy, key, step.run, (), {}, lambda: step.shown, step.rebind)
        try:
            return step.received(await execute(call, LOOP))
        except ApprovalDenied as refusal:
            return denied(refusal)

    def _call(
        self, place: Frame, key: bytes, operation: Operation, body: Callable[[], Awaitable[object]]
    ) -> Call:
        """The call of an operation that is no tool call."""
        policy = StepPolicy(name=operation.name, kind=operation.kind)
        if operation.is_request:
            body = recordable(body)
            policy = replace(
                policy,
                retries=self._attempts - 1,
                retry_delays=RETRY_DELAYS,
                retry_jitter_factor=RETRY_JITTER,
                retry_condition=is_transient,
                detail=response_detail,
            )
        return Call(
            place, replace(policy, plain=policy.is_plain()), key, body, (), {}, dict, lambda _: ((), {})
        )


def _operation_frame(agent: Frame, key: bytes, task: Any) -> Frame:
    """The branch of one operation: named by what it is, and by which of the equal ones in the agent's run it is."""
    count = agent.kids.get(key, 0)
    agent.kids[key] = count + 1
    return agent.branched(agent.run.hasher.digest(b"%b|%b|%d" % (agent.branch, key, count)), task)


def _unencodable(error: Exception) -> BaseException:
    """What a result that is no JSON raises; it is not worth a retry."""
    message = (
        f"a result of the agent cannot be recorded ({error}); return something that pydantic knows as JSON"
    )
    return CodecError(message)


class Durability(BaseDurabilityCapability[AgentDepsT]):
    """Makes an agent durable inside of flows.

    Model requests, tool calls (functions, MCP, dynamic), tool discovery, argument validators and event handlers are
    steps: found in the journal, else run and recorded. Usage below tools is restored on replay. A tool that needs
    approval waits durably for a person, and runs once, as signed.

    The agent needs a ``name`` and each of its toolsets an ``id``: they are recorded. Toolsets cannot be added to a
    single run. pydantic-ai's ``UserError`` says what is missing.

    Args:
        models: Other models that a run may choose, by the id under which it does.
        event_stream_handler: Receives the events of the agent: those of a model while it answers, once; each of the
            others in a step of its own.
        name: The name under which the agent is recorded; default: the agent's.
        attempts: How often a model request is made at most, the first time included.
        sign_deferred_calls: Whether calls that need approval, and that no handler of the agent has answered, are put
            before a person. False leaves them to ``DeferredToolRequests``.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="agentflow",
        durable_unit_noun="step",
        durable_container_noun="flow",
        codec=_Codec(),
        serialization_failure=_unencodable,
        toolset_lifecycles={
            "function": "enter-always",
            "mcp": "enter-in-durable-unit",
            "dynamic": "enter-never",
        },
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        tool_config_key="agentflow",
    )

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
        attempts: int = ATTEMPTS,
        sign_deferred_calls: bool = True,
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)
        self.attempts = attempts
        self.sign_deferred_calls = sign_deferred_calls

    # -- what pydantic-ai asks
    @property
    def in_durable_context(self) -> bool:
        """Whether a flow is running here."""
        return CURRENT.get() is not None

    def get_durable_operation_backend(self) -> _Backend:
        """What runs the operations."""
        return _Backend(self)

    def get_default_run_id(self) -> str | None:
        """The id of a run of the agent: the same in every life of the flow's run, and in every attempt of a step."""
        frame = CURRENT.get()
        if frame is None:
            return None
        hasher = frame.run.hasher
        base = hasher.digest(b"agent|" + self.name.encode())
        count = frame.kids.get(base, 0)
        frame.kids[base] = count + 1
        where = hasher.digest(b"%b|%b|%b|%d" % (frame.stable, frame.branch, base, count))
        return f"{frame.run.run.id}:{where.hex()}"

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """The id of a conversation that begins with that run."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """When that run began in its first life, for its time limit."""
        del run_id
        return recorded.now() if self.in_durable_context else None

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Run the agent; with an event handler, results of parallel tools are told in the order of their calls."""
        agent = self.agent if self.in_durable_context and self._event_stream_handler is not None else None
        with agent.parallel_tool_call_execution_mode("parallel_ordered_events") if agent else nullcontext():
            return await super().wrap_run(ctx, handler=handler)

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[AgentDepsT], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Let calls that need approval go on to their step, where they wait for a person's signature."""
        frame = CURRENT.get()
        if frame is None or not self.sign_deferred_calls or not requests.approvals:
            return None
        run = _agent_run(frame, self.name, ctx.run_id or "")
        for call in requests.approvals:
            run.to_sign[call.tool_call_id] = requests.metadata.get(call.tool_call_id) or {}
        return requests.build_results(approve_all=True)

    async def _dispatch_event_stream_event(
        self, ctx: RunContext[AgentDepsT], event: AgentStreamEvent
    ) -> None:
        token = _EVENT_RUN.set(ctx.run_id or "")
        try:
            await super()._dispatch_event_stream_event(ctx, event)
        finally:
            _EVENT_RUN.reset(token)

    def _unwrap_tool_result(self, payload: Any) -> Any:
        if isinstance(payload, Outcome):
            return payload.told(super()._unwrap_tool_result)
        return super()._unwrap_tool_result(payload)
