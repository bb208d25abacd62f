"""What an operation of a pydantic-ai agent is as a step: its name, its kind and what counts for its key.

Keys are made of content: the model, the conversation without what differs between two lives (timestamps, ids of runs),
settings, tools; or the tool and its arguments, but not the id of the call: a model that is asked once more and wants
the same side effect again gets the recorded one. So branches of an agent may run in any order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic_ai import RunContext, ToolDefinition
from pydantic_ai.durable_exec import (
    CapabilityOperationId,
    DurableOperationId,
    EventStreamHandlerId,
    ModelCancelSuspendedResponseId,
    ModelCompactMessagesId,
    ModelRequestId,
    ToolsetCallToolId,
    ToolsetGetInstructionsId,
    ToolsetGetToolsId,
    ToolsetValidateToolArgumentsId,
)
from pydantic_ai.messages import ModelRequest, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.toolsets.abstract import ToolsetTool

from agentflow.agents.usage import Usage, model_detail
from agentflow.model.steps import StepKind

#: Fields of messages and of their parts that say nothing to the model and may differ between two lives.
_VOLATILE = frozenset(
    {
        "conversation_id", "failed_attempts", "history_digest", "id", "metadata", "provider_details", "provider_name",
        "provider_response_id", "provider_url", "run_id", "timestamp", "usage", "workspace_ref",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, as it is dispatched."""

    name: str
    #: Validated (of a dynamic toolset: parsed) arguments. The tool runs with what is in this very mapping.
    arguments: dict[str, Any]
    context: RunContext[Any]
    #: None for a dynamic toolset, which finds its tool when it is called.
    tool: ToolsetTool[Any] | None
    definition: ToolDefinition | None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as a step."""

    #: As people see it.
    name: str
    kind: StepKind
    #: What counts for the key.
    identity: Sequence[Any]
    #: The id of the agent's run; empty where the operation does not tell.
    run_id: str = ""
    #: The response of the model is its value.
    is_request: bool = False
    call: ToolCall | None = None


def describe(operation_id: DurableOperationId, agent: str, inputs: tuple[object, ...]) -> Operation:
    """The operation that `operation_id` of the agent named `agent` makes with these inputs (its cache key)."""
    match operation_id:
        case ModelRequestId() | ModelCompactMessagesId():
            return _request(operation_id, agent, inputs)
        case ToolsetCallToolId():
            return _tool_call(operation_id, inputs)
        case ToolsetValidateToolArgumentsId(toolset_id=toolset):
            name = cast("str", inputs[0])
            context = cast("RunContext[Any]", inputs[2])
            identity = [toolset, name, inputs[1]]
            return Operation(f"{name}: arguments", StepKind.TASK, identity, context.run_id or "")
        case ToolsetGetToolsId(toolset_id=toolset) | ToolsetGetInstructionsId(toolset_id=toolset):
            context = cast("RunContext[Any]", inputs[0])
            what = "tools" if isinstance(operation_id, ToolsetGetToolsId) else "instructions"
            return Operation(
                f"{toolset}: {what}", StepKind.TASK, [toolset, context.run_step], context.run_id or ""
            )
        case EventStreamHandlerId():
            return Operation(f"{agent}: event", StepKind.TASK, stable(inputs))
        case ModelCancelSuspendedResponseId():
            name = f"{agent}: cancel response"
        case CapabilityOperationId(capability_id=capability, operation=operation):
            name = f"{capability}: {operation}"
        case _:  # the union grows
            name = f"{agent}: {type(operation_id).__name__}"
    return Operation(name, StepKind.TASK, stable(inputs), _run_id(inputs))


def _request(
    operation_id: ModelRequestId | ModelCompactMessagesId, agent: str, inputs: tuple[object, ...]
) -> Operation:
    """A request to a model, or to compact a conversation."""
    context = cast("RunContext[Any]", inputs[-1])
    model = operation_id.model_id or context.model.model_id
    what = "chat" if isinstance(operation_id, ModelRequestId) else "compact"
    return Operation(
        f"{agent}: {what} {operation_id.model_name}",
        StepKind.MODEL,
        [model, *stable(inputs[1:])],
        context.run_id or "",
        is_request=True,
    )


def _tool_call(operation_id: ToolsetCallToolId, inputs: tuple[object, ...]) -> Operation:
    name, arguments, context, tool = cast("tuple[str, dict[str, Any], RunContext[Any], Any]", inputs)
    if isinstance(tool, ToolsetTool):
        found = cast("ToolsetTool[Any]", tool)
        call = ToolCall(name, arguments, context, found, found.tool_def)
    else:
        call = ToolCall(name, arguments, context, None, cast("ToolDefinition | None", tool))
    identity = [operation_id.toolset_id, name, dict(arguments), context.tool_call_approved]
    return Operation(name, StepKind.TOOL, identity, context.run_id or "", call=call)


def _run_id(inputs: tuple[object, ...]) -> str:
    """The id of the agent's run among an operation's inputs: in its run context, else (workspaces) the last input."""
    for item in inputs:
        if isinstance(item, RunContext):
            return cast("RunContext[Any]", item).run_id or ""
    return inputs[-1] if inputs and isinstance(inputs[-1], str) else ""


def stable(value: Any) -> Any:
    """`value` without what may differ between two lives."""
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        return [stable(item) for item in items if not isinstance(item, RunContext)]
    if isinstance(value, Mapping):
        return {key: stable(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, ModelRequestParameters):
        return {name: item for name, item in _fields(value).items() if not name.startswith("_")}
    if isinstance(value, (ModelRequest, ModelResponse)) or hasattr(value, "part_kind"):
        kept = {name: item for name, item in _fields(value).items() if name not in _VOLATILE}
        if "parts" in kept:
            kept["parts"] = stable(kept["parts"])
        return kept
    if dataclasses.is_dataclass(value) and not isinstance(
        value, type
    ):  # an event, a request in a capability's hands
        return {name: stable(item) for name, item in _fields(value).items()}
    return value


def _fields(value: Any) -> dict[str, Any]:
    return {item.name: getattr(value, item.name, None) for item in dataclasses.fields(value)}


def response_detail(response: Mapping[str, Any]) -> dict[str, Any]:
    """The detail of a model step's row, from the recorded (JSON) response."""
    usage: Mapping[str, Any] = response.get("usage") or {}
    return model_detail(
        provider=response.get("provider_name") or "",
        operation="chat",
        model=response.get("model_name") or "",
        usage=Usage(
            usage.get("input_tokens", 0),
            usage.get("output_tokens", 0),
            usage.get("cache_read_tokens", 0),
            usage.get("cache_write_tokens", 0),
        ),
    )
