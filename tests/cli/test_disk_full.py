"""A file system that is really full: said in one line, and after some space is freed the run goes on where it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.faults import Measured

STEPS = 20
#: Characters of a value: small ones are in the journal, large ones in files.
SIZES = {"home": 60_000, "values": 150_000}
FLOW = f"""
import os
from pathlib import Path
from agentflow import flow, task

@task
async def blob(size: int, number: int) -> str:
    return os.urandom(size // 2).hex()

@flow
async def fill(world: str, size: int) -> int:
    for number in range({STEPS}):
        await blob(size, number)
        with Path(world).open("a") as file:
            file.write(f"{{number}}\\n")
    return {STEPS}
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes, two of which somebody else has taken."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(
            "this user may not mount a file system; tests/journal/test_faults.py fills a simulated one"
        )
    (folder / "ballast").write_bytes(os.urandom(2_800_000))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("where", SIZES)
@pytest.mark.fault(3, "disk full (4 MB file system)")
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(
    shell: Shell, tmp_path: Path, small_disk: Path, fault: Measured, where: str
) -> None:
    """What the flow was given before is not computed again, whether the journal is on it or its large values are."""
    program, world = tmp_path / "filling.py", tmp_path / "steps"
    program.write_text(FLOW)
    if where == "home":
        shell.environment["AGENTFLOW_HOME"] = str(small_disk / "home")
    else:
        shell.environment["AGENTFLOW_PAYLOADS_URL"] = (small_disk / "values").as_uri()
    asked = ["-p", f"world={world}", "-p", f"size={SIZES[where]}"]
    full = shell("run", f"{program}:fill", *asked, "--json")
    acknowledged = world.read_text().split()
    assert full.code != 0
    assert "free some space" in full.err
    assert "Traceback" not in full.err
    assert 0 < len(acknowledged) < STEPS
    assert [path for path in small_disk.rglob("drafts/*") if path.is_file()] == []
    (small_disk / "ballast").unlink()
    [run] = shell.look("runs", "ls", "--json").json()
    resumed = shell("runs", "resume", run["run_id"], "--json").json()
    assert (resumed["state"], resumed["result"]) == ("COMPLETED", STEPS)
    fault(1, lost=max(0, len(acknowledged) - resumed["reused"]))
    assert resumed["reused"] >= len(acknowledged)
    assert shell.look("db", "check").code == 0
