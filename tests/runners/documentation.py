"""The programs of docs/task-runners.md that need a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "task-runners.md"


def documented(name: str) -> dict[str, Any]:
    """What a program of the page defines."""
    found = re.search(rf"^```python file={name}.py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    defined: dict[str, Any] = {"__name__": name}
    exec(compile(found[1], f"{name}.py", "exec"), defined)  # noqa: S102 - our own page
    return defined
