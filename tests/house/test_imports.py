"""What a program pays for before it has done anything."""

import subprocess
import sys

import pytest

HEAVY = {"anthropic", "fastmcp", "jinja2", "mcp", "openai", "psycopg", "pydantic_ai", "starlette", "uvicorn"}


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(["-c", "from agentflow import flow, task"], id="from agentflow import flow, task"),
        pytest.param(
            ["-c", "import sys; from agentflow.cli.main import main; sys.exit(main())", "--help"],
            id="agentflow --help",
        ),
    ],
)
def test_imports_nothing_heavy(program: list[str]) -> None:
    """Importing agentflow and asking it for help load no web server, no MCP and no model client."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *program], capture_output=True, text=True, check=False
    )
    report = [line for line in ran.stderr.splitlines() if line.startswith("import time:")]
    problem = [line for line in ran.stderr.splitlines() if not line.startswith("import time:")]
    assert ran.returncode == 0, "\n".join(problem)
    # a line of the report reads "import time:  self [us] | cumulative | module", the module indented by its depth
    loaded = {line.rpartition("|")[2].strip() for line in report}
    assert "agentflow" in loaded
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
