"""Anthropic's own clients, with every request recorded as a step of the running flow. Needs ``agentflow[anthropic]``.

client = agentflow.agents.anthropic.async_client()
answer = await client.messages.create(model="claude-sonnet-5", max_tokens=100, messages=[...])    # a model step
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2

from agentflow.agents.extras import refuse_http_client
from agentflow.agents.failures import ATTEMPTS
from agentflow.agents.transport import BlockingJournalTransport, JournalTransport
from agentflow.extras import optional_module

if TYPE_CHECKING:
    import anthropic


def client(
    *, transport: httpx2.BaseTransport | None = None, attempts: int = ATTEMPTS, **options: Any
) -> anthropic.Anthropic:
    """A blocking client.

    Args:
        transport: Sends the requests; default: ``httpx2.HTTPTransport``.
        attempts: How often a request is made at most, the first time included.
        options: Those of ``anthropic.Anthropic``. Its own retries are off: they would be steps of their own.

    Raises:
        UsageError: where the package is missing, or ``http_client`` is given.
    """
    library = optional_module("anthropic", extra="anthropic")
    refuse_http_client(options)
    journaled = library.DefaultHttpxClient(transport=BlockingJournalTransport(transport, attempts=attempts))
    return library.Anthropic(**{"max_retries": 0, **options}, http_client=journaled)


def async_client(
    *, transport: httpx2.AsyncBaseTransport | None = None, attempts: int = ATTEMPTS, **options: Any
) -> anthropic.AsyncAnthropic:
    """An async client; arguments and errors as for `client`."""
    library = optional_module("anthropic", extra="anthropic")
    refuse_http_client(options)
    journaled = library.DefaultAsyncHttpxClient(transport=JournalTransport(transport, attempts=attempts))
    return library.AsyncAnthropic(**{"max_retries": 0, **options}, http_client=journaled)
