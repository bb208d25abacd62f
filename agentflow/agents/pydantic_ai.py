"""Durable pydantic-ai agents: what to import. Needs ``agentflow[pydantic-ai]``, and says so where it is missing."""

from agentflow.extras import optional_module

optional_module("pydantic_ai", extra="pydantic-ai")

from agentflow.agents.durability import Durability  # noqa: E402 - only where the package is there

__all__ = ["Durability"]
