"""A tool call of a pydantic-ai agent as a step: its options, its own usage meter, its signature, a person's edits.

A call that a person has to sign is a side effect of the engine: the signature is bound to the run, the step, the tool,
the arguments and the policy, and it is consumed in the transaction that starts the tool. Nothing here decides.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypedDict, cast

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_ai import ToolDenied
from pydantic_ai.durable_exec import JSON_CODEC, CallToolResult
from pydantic_ai.exceptions import ModelRetry, ToolFailed, UserError
from pydantic_ai.messages import ToolReturn
from pydantic_ai.usage import RunUsage

from agentflow.agents.operations import ToolCall
from agentflow.engine.context import CURRENT
from agentflow.engine.effects import Edit
from agentflow.engine.policy import ApprovalRule, StepPolicy, retry_delays
from agentflow.errors import ApprovalDenied, CorruptRecord
from agentflow.model.steps import StepKind
from agentflow.payloads.showing import as_shown
from agentflow.task_options import RetryDelay

#: The key of a tool's metadata under which its options stand.
OPTIONS = "agentflow"
_usage = TypeAdapter(RunUsage)


class ToolOptions(TypedDict, total=False):
    """Options of a tool: ``metadata={"agentflow": {"side_effect": True}}``. They mean what they mean for `task`."""

    side_effect: bool
    idempotent: bool
    approval: ApprovalRule
    retries: int
    retry_delay_seconds: RetryDelay


def options_of(tool: object | None, name: str) -> ToolOptions | Literal[False]:
    """The options in a tool's metadata; False where it wants to run inside the agent, unrecorded.

    Raises ``UserError`` for an option that does not exist.
    """
    metadata: Mapping[str, Any] = getattr(getattr(tool, "tool_def", tool), "metadata", None) or {}
    options = metadata.get(OPTIONS, {})
    if options is False:
        return False
    known = ToolOptions.__annotations__
    if not isinstance(options, dict) or not known.keys() >= options.keys():
        message = (
            f"tool {name!r}: metadata[{OPTIONS!r}] is False or a dict of {', '.join(known)}, not {options!r}"
        )
        raise UserError(message)
    return cast("ToolOptions", options)


class ToolStep:
    """One call of a tool as the body of a step. Its value is JSON: the result, the usage below it, a person's edits."""

    def __init__(self, call: ToolCall, body: Callable[[], Awaitable[object]]) -> None:
        self._call, self._body = call, body
        self._proposed = dict(call.arguments)
        #: JSON of the arguments as the model proposed them.
        self.shown = as_shown(self._proposed)

    def policy(self, options: ToolOptions, *, to_sign: bool, reason: Mapping[str, Any] | None) -> StepPolicy:
        """How the step behaves. `to_sign`: a person has to sign this call; `reason`: what the tool says of it."""
        call, definition = self._call, self._call.definition
        signed = to_sign or call.context.tool_call_approved
        is_effect = signed or options.get("side_effect", False)
        retries = options.get("retries", 0)
        description = (definition.description if definition is not None else None) or ""
        if reason:
            description = f"{description}\n{orjson.dumps(dict(reason), default=str).decode()}".strip()
        if signed:
            approval: ApprovalRule = (
                "always" if to_sign else "never"
            )  # "never": the agent's own code approved it
        else:
            approval = options.get("approval")
        policy = StepPolicy(
            name=call.name,
            kind=StepKind.TOOL,
            retries=retries,
            retry_delays=retry_delays(options.get("retry_delay_seconds"), retries),
            side_effect=is_effect,
            idempotent=options.get("idempotent", False),
            not_done_on=(ApprovalDenied,) if is_effect else (),
            approval=approval if is_effect else None,
            validate=self._validate if is_effect else None,
            schema=(lambda: definition.parameters_json_schema if definition is not None else {})
            if is_effect
            else None,
            description=description,
            read_answer=_told if is_effect else None,
        )
        return replace(policy, plain=policy.is_plain())

    # -- a person's edits
    def _validate(self, edited: dict[str, Any]) -> dict[str, Any]:
        """Check edited arguments (JSON) against the tool's schema."""
        self._coerced(edited)
        return edited

    def rebind(self, edited: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """How `run` is called with edited arguments."""
        return (self._coerced(edited),), {"is_edited": True}

    def _coerced(self, edited: dict[str, Any]) -> dict[str, Any]:
        tool = self._call.tool
        if tool is None:  # a dynamic toolset validates when it is called
            return edited
        try:
            coerced: dict[str, Any] = tool.args_validator.validate_json(
                orjson.dumps(edited), context=self._call.context.validation_context
            )
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
            )
            raise ApprovalDenied(self._call.name, f"the arguments as edited do not fit: {faults}") from None
        kept = {
            name: item for name, item in self._proposed.items() if edited.get(name, ...) == self.shown[name]
        }
        return coerced | kept

    # -- the body
    async def run(
        self, arguments: dict[str, Any] | None = None, *, is_edited: bool = False
    ) -> dict[str, Any]:
        """Call the tool. `arguments`: others than those it was asked with."""
        call, context = self._call, self._call.context
        if arguments is not None and is_edited:
            await self._check_edit(arguments)
            call.arguments.clear()
            call.arguments.update(arguments)
        shared = context.usage
        before = copy.copy(shared)
        context.usage = copy.copy(
            shared
        )  # a meter of its own: parallel calls must not count each other's usage
        try:
            payload = await self._body()
            used = context.usage - before
        finally:
            context.usage = shared
        record: dict[str, Any] = {"payload": payload}
        if used.has_values():
            record["usage"] = _usage.dump_python(used, mode="json")
        frame = CURRENT.get()
        edits = list(frame.root.edits) if frame is not None else []
        if arguments is not None and is_edited:
            edits.insert(0, Edit(call.name, self.shown, as_shown(arguments)))
        if edits:
            record["edits"] = [edit._asdict() for edit in edits]
        return record

    async def _check_edit(self, arguments: dict[str, Any]) -> None:
        """Let the tool's own validator look at edited arguments. Raises `ApprovalDenied`: nothing was executed."""
        tool = self._call.tool
        if tool is None or tool.args_validator_func is None:
            return
        try:
            checked = tool.args_validator_func(self._call.context, **arguments)
            if inspect.isawaitable(checked):
                await checked
        except (ModelRetry, ToolFailed) as refusal:
            raise ApprovalDenied(
                self._call.name, f"the arguments as edited were refused: {refusal.message}"
            ) from None

    def received(self, record: Mapping[str, Any]) -> object:
        """What the agent gets of a recorded call, the same in every life; its usage is added to the agent's."""
        if "usage" in record:
            try:
                used = _usage.validate_python(record["usage"])
            except ValidationError as error:
                message = f"the recorded usage of {self._call.name} cannot be read back: {error}"
                raise CorruptRecord(message) from error
            self._call.context.usage.incr(used)
        edits = [Edit(**edit) for edit in record.get("edits", ())]
        return (
            {_MARK: "edited", "payload": record["payload"], "note": _note(edits)}
            if edits
            else record["payload"]
        )


# -- results that only a person's decision makes


#: Marks payloads of ours among those of pydantic-ai's codec.
_MARK = "agentflow"


class Outcome:
    """A tool's result as the agent gets it where a person had a hand in it."""

    def __init__(self, value: Any, *, note: str = "", is_recorded: bool = False) -> None:
        #: The value itself, or (`is_recorded`) the result in pydantic-ai's form.
        self.value, self.is_recorded = value, is_recorded
        #: What the model is told beside it.
        self.note = note

    def told(self, unwrap: Callable[[Any], Any]) -> Any:
        """The value, with the note: beside a result, or in the message of a failure."""
        if not self.is_recorded:
            return self.value
        try:
            value = unwrap(self.value)
        except (ModelRetry, ToolFailed) as failure:
            raise type(failure)(f"{failure.message}\n\n{self.note}") from None
        if not isinstance(value, ToolReturn):
            return ToolReturn(return_value=value, content=self.note)
        whole = cast("ToolReturn[Any]", value)
        before = [whole.content] if isinstance(whole.content, str) else list(whole.content or ())
        return replace(whole, content=[*before, self.note])


def denied(error: ApprovalDenied) -> dict[str, str]:
    """The payload of a call that a person refused."""
    return {_MARK: "denied", "message": f"{error}. Nothing was executed."}


def load_outcome(payload: object) -> Outcome | None:
    """A payload of ours; None where it is one of pydantic-ai's."""
    if not isinstance(payload, dict) or _MARK not in payload:
        return None
    ours = cast("dict[str, Any]", payload)
    match ours[_MARK]:
        case "denied":
            return Outcome(ToolDenied(ours["message"]))
        case "told":
            return Outcome(ours["value"])
        case _:
            return Outcome(
                JSON_CODEC.load(CallToolResult, ours["payload"]), note=ours["note"], is_recorded=True
            )


def _note(edits: list[Edit]) -> str:
    lines = [
        f"A person changed the arguments of {edit.tool} before it ran. "
        f"Asked for: {_json(edit.asked)}. Executed: {_json(edit.executed)}."
        for edit in edits
    ]
    return "\n".join(lines)


def _json(arguments: dict[str, Any]) -> str:
    return orjson.dumps(arguments).decode()


def _told(answer: Any) -> dict[str, Any]:
    """The record of a call that, as a person says, had happened with this result."""
    return {"payload": {_MARK: "told", "value": answer}}
