"""The types of the public API: what pyright must accept, and what it must refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("calls.py")


def test_pyright_judges_every_call_as_annotated(tmp_path: Path) -> None:
    """Errors on exactly the lines that say so."""
    copied = tmp_path / FILE.name  # elsewhere, because the project's own configuration leaves this file out
    copied.write_text(FILE.read_text())
    project = {"include": [FILE.name], "strict": [FILE.name], "extraPaths": [str(FILE.parents[2])]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(project))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    found = [
        (item["range"]["start"]["line"] + 1, item["message"])
        for item in json.loads(ran.stdout)["generalDiagnostics"]
        if item["severity"] == "error"
    ]
    wanted = {
        number for number, line in enumerate(FILE.read_text().splitlines(), 1) if line.endswith("# error")
    }
    assert [fault for fault in found if fault[0] not in wanted] == []
    assert wanted - {number for number, _ in found} == set()
