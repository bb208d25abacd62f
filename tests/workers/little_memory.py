"""Processes that may use only so much memory: whichever needs more is killed by the kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

_ROOT = Path("/sys/fs/cgroup")
#: The file of the limit, with and without swap, in both versions of control groups; the second may be missing.
_LIMITS = {
    _ROOT / "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    _ROOT: ("memory.max", "memory.swap.max"),
}
_PATIENCE = 10.0


@contextmanager
def little_memory(limit: int) -> Generator[Callable[[int], None], None, None]:
    """Gives a function that puts a process under a limit of so many bytes. Skips where nobody may do that."""
    try:
        folder = _made(limit)
    except OSError as error:
        pytest.skip(f"only root can limit the memory of processes, and not everywhere: {error}")
    try:
        yield lambda process: _write(folder / "cgroup.procs", process)
    finally:
        _remove(folder)


def _made(limit: int) -> Path:
    above = next(root for root in _LIMITS if (root / "cgroup.procs").exists())
    most, with_swap = _LIMITS[above]
    if above == _ROOT and "memory" not in (above / "cgroup.subtree_control").read_text():
        _write(above / "cgroup.subtree_control", "+memory")
    folder = above / f"agentflow-{uuid4().hex}"
    folder.mkdir()
    try:
        _write(folder / most, limit)
        if (folder / with_swap).exists():
            _write(folder / with_swap, 0 if with_swap == "memory.swap.max" else limit)
    except OSError:
        folder.rmdir()
        raise
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(str(value))


def _remove(folder: Path) -> None:
    """Its processes are dead, but the kernel may not have buried them."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
