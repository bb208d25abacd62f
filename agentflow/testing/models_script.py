"""The values of a model script: what it is asked, what it answers, what is remembered. No HTTP, no wire format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import ConfigDict, with_config

from agentflow.errors import UsageError

#: A decoded JSON object.
JsonObject: TypeAlias = dict[str, Any]

#: Which of the three APIs was called: OpenAI chat completions, OpenAI responses, Anthropic messages.
ApiName: TypeAlias = Literal["chat", "responses", "messages"]

#: The HTTP status codes of `Fault.status`.
ERROR_STATUSES = range(400, 600)

#: The longest `Fault.delay`, in seconds.
MAX_DELAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool by the model. Several in one reply are parallel calls."""

    name: str
    #: A JSON object; or the raw text, to play a model that writes broken JSON (OpenAI's two APIs only).
    arguments: Mapping[str, object] | str = field(default_factory=dict[str, object])
    #: Empty in a script = the server numbers it: ``call_<request>_<position>``.
    id: str = ""


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """One tool that the request offers to the model."""

    name: str
    description: str
    #: JSON schema of the arguments.
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation, the same for all three APIs; each tool result is a message of its own."""

    role: Literal["user", "assistant", "tool"]
    #: All text parts, joined; parts without text (images, files, reasoning) are only in `ModelRequest.body`.
    text: str = ""
    #: What an assistant message asks for.
    tool_calls: tuple[ToolCall, ...] = ()
    #: Of a tool result: the id of the call that it answers.
    call_id: str = ""
    #: Of a tool result: the tool's name, found through `call_id`.
    tool: str = ""
    #: Of a tool result: the client marked it as an error (only Anthropic's API can).
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What a script is asked."""

    #: 1 for the server's first request; unique, in order of arrival.
    number: int
    api: ApiName
    model: str
    #: All system and developer texts, one blank line between them.
    instructions: str
    messages: tuple[Message, ...]
    tools: tuple[ToolOffer, ...]
    stream: bool
    #: The request's JSON as it came.
    body: JsonObject

    @property
    def prompt(self) -> str:
        """The text of the last user message; empty if there is none."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def turn(self) -> int:
        """How often the model has spoken in this conversation: 0 for its first answer.

        A script that decides by `turn` and `tool_results` instead of counting its calls answers a repeated request
        the same way, whichever process asks, in whatever order.
        """
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def tool_results(self) -> tuple[Message, ...]:
        """The tool results that came in since the model last spoke, in the client's order."""
        results: list[Message] = []
        for message in self.messages:
            if message.role == "assistant":
                results.clear()
            elif message.role == "tool":
                results.append(message)
        return tuple(results)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one reply, as the provider would report them."""

    #: All input tokens, the cached ones included.
    input_tokens: int
    output_tokens: int
    #: Those of the input tokens that were read from the provider's prompt cache.
    cached_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.cached_tokens <= self.input_tokens or self.output_tokens < 0:
            raise UsageError(f"token counts cannot be negative, nor more cached than sent: {self}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says: text, tool calls, or both."""

    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    #: None = estimated from the text, roughly four bytes a token: reproducible, but no tokenizer's exact count.
    usage: Usage | None = None


#: What a reply that breaks off says, unless the fault brings its own.
_PARTIAL = Reply(text="This sentence was cut off somewhere in its middle, as the script had asked for.")


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong instead of (or, for a delay, before) a reply. Make one with the class methods."""

    kind: Literal["status", "drop", "malformed", "delay"]
    status_code: int = 200
    #: Seconds; sent as ``Retry-After`` in whole seconds and as ``retry-after-ms`` exactly.
    retry_after: float | None = None
    message: str = ""
    #: The provider's word for the error; empty = the usual one for the status.
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    #: None = before the first byte of the answer; n = after n events of a stream (of JSON: in the middle).
    after_events: int | None = None
    #: What has begun to arrive when it breaks off.
    partial: Reply = _PARTIAL
    #: The text sent in place of JSON or events.
    content: str = ""
    delay_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind == "status" and self.status_code not in ERROR_STATUSES:
            problem = f"an error status lies between 400 and 599, not at {self.status_code}"
        elif not 0 <= self.delay_seconds <= MAX_DELAY_SECONDS:
            problem = f"a delay lies between 0 and {MAX_DELAY_SECONDS:g} s, not at {self.delay_seconds:g} s"
        elif self.after_events is not None and self.after_events < 0:
            problem = f"after_events counts events from 0, not from {self.after_events}"
        elif self.retry_after is not None and self.retry_after < 0:
            problem = f"retry_after is a number of seconds from 0, not {self.retry_after:g}"
        else:
            return
        raise UsageError(problem)

    @classmethod
    def status(
        cls,
        status_code: int,
        *,
        retry_after: float | None = None,
        message: str = "",
        code: str = "",
        headers: Mapping[str, str] | None = None,
        after_events: int | None = None,
        partial: Reply = _PARTIAL,
    ) -> Fault:
        """An error answer in the provider's own form: 429 rate limit, 500, 529 overloaded, ...

        With `after_events` a streamed answer starts with status 200 and then fails with the provider's error *event*;
        an answer that is not streamed is the plain error.
        """
        return cls(
            kind="status",
            status_code=status_code,
            retry_after=retry_after,
            message=message,
            code=code,
            headers=headers or {},
            after_events=after_events,
            partial=partial,
        )

    @classmethod
    def drop(cls, *, after_events: int | None = None, partial: Reply = _PARTIAL) -> Fault:
        """The connection closes: before any byte, or after `after_events` events of `partial`, but before its last."""
        return cls(kind="drop", after_events=after_events, partial=partial)

    @classmethod
    def malformed(cls, content: str = '{"cut":', *, status_code: int = 200) -> Fault:
        """A complete answer whose content is not what the API promises (a stream gets it as the data of one event)."""
        return cls(kind="malformed", content=content, status_code=status_code)

    @classmethod
    def delay(cls, seconds: float) -> Fault:
        """`seconds` pass (at most `MAX_DELAY_SECONDS`), then the next in line answers: another fault or the script.

        If the client has hung up by then, nothing answers, and no reply of the script is used up.
        """
        return cls(kind="delay", delay_seconds=seconds)


#: What a script may answer.
Answer: TypeAlias = Reply | Fault

#: Either answers, played once each in order of arrival; or a function of the request, called in the connection's own
#: thread (it may block; calls overlap when requests do).
Script: TypeAlias = Callable[[ModelRequest], Answer] | Sequence[Answer]


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One model request as the server saw it; recorded when it arrives, completed when it is answered."""

    #: 1 for the first; the same as `ModelRequest.number`.
    number: int
    api: ApiName
    path: str
    #: Names in lower case; the values of those that can hold a secret are ``[redacted]``.
    headers: Mapping[str, str]
    #: The JSON as it came; empty if it was no JSON object.
    body: JsonObject
    #: None = not answered (yet): the script still thinks, or the client hung up before.
    answer: Answer | None = None
    #: The connection closed before the answer was complete: by a drop, or because the client hung up.
    broken_off: bool = False
