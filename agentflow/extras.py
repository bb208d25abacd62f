"""Optional libraries: imported when they are needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from agentflow.errors import UsageError


def optional_module(name: str, *, extra: str) -> Any:
    """Import a library that one extra of agentflow brings. Raises `UsageError` that names the extra."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        message = f"this needs the package {name}: install agentflow[{extra}]"
        raise UsageError(message) from error
