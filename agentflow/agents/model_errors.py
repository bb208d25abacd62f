"""Errors of pydantic-ai's models: which are worth another try, and how those that pickle only half are recorded.

pydantic-ai raises HTTP errors of private classes that go by the names of their categories, so the journal's codec
cannot find them again. They are recorded as `RequestRefused` and become pydantic-ai's errors on their way to the agent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_ai import exceptions
from pydantic_ai.durable_exec import JSON_CODEC
from pydantic_ai.exceptions import (
    ModelConnectionError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelRequestTimeout,
    ModelServerError,
    ModelUnavailableError,
)
from pydantic_ai.messages import ModelResponse

from agentflow.agents.answers import kept_headers
from agentflow.errors import AgentflowError

#: Errors after which the same request may succeed; they carry `retry_after`.
_TRANSIENT = (
    ModelRateLimitError, ModelUnavailableError, ModelServerError, ModelConnectionError, ModelRequestTimeout,
)  # fmt: skip
_FINAL = (ModelQuotaExceededError, ModelRequestRejectedError)

#: Where pydantic-ai notes on an error what a stream had produced before it failed; then nobody may repeat it.
_STREAMED = "_pydantic_ai_streamed_before_failing"


class RequestRefused(AgentflowError):
    """A model answered a request of an agent with an HTTP error."""

    def __init__(self, error: ModelHTTPError) -> None:
        super().__init__(str(error))
        #: Name of the category's class in ``pydantic_ai.exceptions``; empty = none.
        self.category = type(error).__name__ if type(error) is not ModelHTTPError else ""
        self.status_code, self.model_name, self.body = error.status_code, error.model_name, error.body
        self.provider_error_code, self.provider_error_type = (
            error.provider_error_code,
            error.provider_error_type,
        )
        self.retry_after, self.in_stream = error.retry_after, error.in_stream
        self.suggested_model_id, self.hint = error.suggested_model_id, error.hint
        self.headers = None if error.headers is None else kept_headers(error.headers)
        streamed = getattr(error, _STREAMED, None)
        #: JSON of what came before the error.
        self.streamed = None if streamed is None else JSON_CODEC.dump(ModelResponse, streamed)
        self.is_transient = is_transient(error)

    def told(self) -> ModelHTTPError:
        """The error that the agent sees."""
        error = ModelHTTPError.for_category(
            getattr(exceptions, self.category) if self.category else None,
            status_code=self.status_code,
            model_name=self.model_name,
            body=self.body,
            headers=self.headers,
            suggested_model_id=self.suggested_model_id,
            hint=self.hint,
            provider_error_code=self.provider_error_code,
            provider_error_type=self.provider_error_type,
            retry_after=self.retry_after,
            in_stream=self.in_stream,
        )
        if self.streamed is not None:
            setattr(error, _STREAMED, JSON_CODEC.load(ModelResponse, self.streamed))
        return error


def is_transient(error: BaseException) -> bool:
    """Whether a failed request of an agent is worth another try."""
    if isinstance(error, RequestRefused):
        return error.is_transient
    return isinstance(error, _TRANSIENT) and not isinstance(error, _FINAL) and not hasattr(error, _STREAMED)


def recordable(body: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    """Like `body`, with HTTP errors in the form in which they are recorded."""

    async def request() -> Any:
        try:
            return await body()
        except ModelHTTPError as error:
            raise RequestRefused(error) from error

    return request
