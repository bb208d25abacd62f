"""OpenAI's own clients, with every request recorded as a step of the running flow. Needs ``agentflow[openai]``.

client = agentflow.agents.openai.async_client()
answer = await client.responses.create(model="gpt-5", input="hi")      # a model step; typed as ever
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2

from agentflow.agents.extras import refuse_http_client
from agentflow.agents.failures import ATTEMPTS
from agentflow.agents.transport import BlockingJournalTransport, JournalTransport
from agentflow.extras import optional_module

if TYPE_CHECKING:
    import openai


def client(
    *, transport: httpx2.BaseTransport | None = None, attempts: int = ATTEMPTS, **options: Any
) -> openai.OpenAI:
    """A blocking client.

    Args:
        transport: Sends the requests; default: ``httpx2.HTTPTransport``.
        attempts: How often a request is made at most, the first time included.
        options: Those of ``openai.OpenAI``. Its own retries are off: they would be steps of their own.

    Raises:
        UsageError: where the package is missing, or ``http_client`` is given.
    """
    library = optional_module("openai", extra="openai")
    refuse_http_client(options)
    journaled = library.DefaultHttpx2Client(transport=BlockingJournalTransport(transport, attempts=attempts))
    return library.OpenAI(**{"max_retries": 0, **options}, http_client=journaled)


def async_client(
    *, transport: httpx2.AsyncBaseTransport | None = None, attempts: int = ATTEMPTS, **options: Any
) -> openai.AsyncOpenAI:
    """An async client; arguments and errors as for `client`."""
    library = optional_module("openai", extra="openai")
    refuse_http_client(options)
    journaled = library.DefaultAsyncHttpx2Client(transport=JournalTransport(transport, attempts=attempts))
    return library.AsyncOpenAI(**{"max_retries": 0, **options}, http_client=journaled)
