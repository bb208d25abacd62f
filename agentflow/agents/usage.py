"""What a model request cost, as it stands in the journal: the one place for its names.

They follow OpenTelemetry's ``gen_ai`` attributes, without the prefix and with underscores for dots. No prices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from agentflow.model.steps import StepEvent, StepKind, StepRow

#: Keys of a model step's detail: ``gen_ai.provider.name``, ``gen_ai.operation.name``, ``gen_ai.response.model``.
PROVIDER, OPERATION, MODEL = "provider", "operation", "model"
#: The key under which the token counts stand.
USAGE = "usage"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. Each field is named as in the journal and stands for ``gen_ai.usage.<name>``."""

    #: All input tokens, the cached ones included.
    input_tokens: int = 0
    output_tokens: int = 0
    #: Those of the input tokens that the provider read from its prompt cache.
    cache_read_input_tokens: int = 0
    #: Those of the input tokens that the provider wrote to its prompt cache.
    cache_creation_input_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_input_tokens + other.cache_read_input_tokens,
            self.cache_creation_input_tokens + other.cache_creation_input_tokens,
        )

    def counts(self) -> dict[str, int]:
        """The counts by name; those of the prompt cache only where it was used."""
        found = {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens}
        if self.cache_read_input_tokens:
            found["cache_read_input_tokens"] = self.cache_read_input_tokens
        if self.cache_creation_input_tokens:
            found["cache_creation_input_tokens"] = self.cache_creation_input_tokens
        return found


def model_detail(*, provider: str, operation: str, model: str, usage: Usage) -> dict[str, Any]:
    """The detail of a model step's row."""
    return {PROVIDER: provider, OPERATION: operation, MODEL: model, USAGE: usage.counts()}


def usage_reported(counts: Mapping[str, Any]) -> Usage:
    """The ``usage`` object of an answer of OpenAI's or Anthropic's APIs.

    Anthropic does not count cached tokens among the input tokens; here they are, as OpenTelemetry wants it.
    """
    details: Mapping[str, Any] = (
        counts.get("prompt_tokens_details") or counts.get("input_tokens_details") or {}
    )
    apart = _count(counts, "cache_read_input_tokens")
    written = _count(counts, "cache_creation_input_tokens")
    return Usage(
        _count(counts, "prompt_tokens", "input_tokens") + apart + written,
        _count(counts, "completion_tokens", "output_tokens"),
        apart or _count(details, "cached_tokens"),
        written,
    )


def _count(counts: Mapping[str, Any], *names: str) -> int:
    found = next((counts[name] for name in names if counts.get(name)), 0)
    return found if isinstance(found, int) else 0


def total_usage(rows: Iterable[StepRow]) -> Usage:
    """What the model requests among a run's rows (``journal.steps(number)``) used together."""
    total = Usage()
    for row in rows:
        if row.kind == StepKind.MODEL and row.event == StepEvent.COMPLETED and row.detail:
            total += Usage(**orjson.loads(row.detail).get(USAGE, {}))
    return total
