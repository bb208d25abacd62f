"""Durable workflows for AI agents: flows that survive kill -9, are tools in the chat, and wait for people."""

from agentflow import recorded
from agentflow.approvals.policies import Always, ByOrigin, Never, Policy, When
from agentflow.concurrency import concurrency, rate_limit
from agentflow.engine.annotations import allow_failure, opaque, quote, unmapped
from agentflow.engine.caching import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CachePolicy,
)
from agentflow.engine.futures import TaskFuture
from agentflow.engine.logs import get_run_logger
from agentflow.engine.policy import exponential_backoff
from agentflow.errors import (
    AgentflowError,
    ApprovalDenied,
    NotDone,
    StepFailed,
    TaskTimeoutError,
    WaitTimeoutError,
)
from agentflow.flows import Flow, flow
from agentflow.futures import as_completed, first
from agentflow.payloads.codec import register_codec
from agentflow.run_context import RunContext, get_run_context, idempotency_key, scope, send_event, tags
from agentflow.states import State
from agentflow.tasks import Task, task
from agentflow.transactions import transaction
from agentflow.version import VERSION as __version__  # noqa: N811 - the name that the language has for it
from agentflow.waits import Waiting, busy, request_input, sleep, wait_for_event
from agentflow.workers.background import serve

__all__ = [
    "DEFAULT", "FLOW_PARAMETERS", "INPUTS", "NO_CACHE", "RUN_ID", "TASK_SOURCE", "AgentflowError", "Always",
    "ApprovalDenied", "ByOrigin", "CachePolicy", "Flow", "Never", "NotDone", "Policy", "RunContext", "State",
    "StepFailed", "Task", "TaskFuture", "TaskTimeoutError", "WaitTimeoutError", "Waiting", "When", "__version__",
    "allow_failure", "as_completed", "busy", "concurrency", "exponential_backoff", "first", "flow",
    "get_run_context", "get_run_logger", "idempotency_key", "opaque", "quote", "rate_limit", "recorded",
    "register_codec", "request_input", "scope", "send_event", "serve", "sleep", "tags", "task",
    "transaction", "unmapped", "wait_for_event",
]  # fmt: skip
