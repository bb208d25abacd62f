"""Marks what starts commands and servers: those tests have a target of their own, and the core suite stays quick."""

from pathlib import Path

import pytest

SERVICES = {"cli", "mcp", "server", "workers"}
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder, before the ``-m`` option is looked at."""
    for item in items:
        if item.path.relative_to(HERE).parts[0] in SERVICES:
            item.add_marker(pytest.mark.service)
