"""What every task runner refuses."""

from __future__ import annotations

from agentflow.errors import DefinitionError


def check_workers(count: int | None) -> None:
    """Raise `DefinitionError` where there would be nobody to do the work."""
    if count is not None and count < 1:
        message = f"max_workers must be at least 1, not {count}"
        raise DefinitionError(message)
