"""What an extra brings is asked for by its name."""

import subprocess
import sys

import pytest

BLOCKED = """
import sys
sys.modules[{package!r}] = None
try:
    {statement}
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("package", "statement", "extra"),
    [
        ("pydantic_ai", "import agentflow.agents.pydantic_ai", "agentflow[pydantic-ai]"),
        ("openai", "from agentflow.agents.openai import client; client(api_key='x')", "agentflow[openai]"),
        (
            "anthropic",
            "from agentflow.agents.anthropic import client; client(api_key='x')",
            "agentflow[anthropic]",
        ),
    ],
)
def test_a_missing_package_is_answered_with_the_extra_that_brings_it(
    package: str, statement: str, extra: str
) -> None:
    """One clear error instead of a bare ModuleNotFoundError."""
    program = BLOCKED.format(package=package, statement=statement)
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("UsageError")
    assert extra in shown
