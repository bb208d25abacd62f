"""The code fingerprint of a run: digest of the project's modules, the Python minor version and agentflow's version.

The project is what is imported from the folder of the flow's file (and below), installed packages not included. What is
recorded of a life is followed by a sign of the installation's key, without which nothing of the life would be found.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentflow.version import VERSION

_INSTALLED = ("site-packages", "dist-packages", ".venv")
_files: dict[str, tuple[tuple[int, int], bytes]] = {}
_projects: dict[tuple[str, int], str] = {}


def fingerprint(fn: Callable[..., Any], *, fresh: bool = False) -> str:
    """The fingerprint of the code around a flow's function, hexadecimal.

    It is taken once, for the code that this process has loaded. `fresh`: of the files as they are now.
    """
    inner: Any = inspect.unwrap(fn)
    while hasattr(inner, "func"):  # a bound method of a class, as a partial
        inner = inspect.unwrap(inner.func)
    code = getattr(inner, "__code__", None)
    file = code.co_filename if code is not None else ""
    if fresh:
        return _compute(file)
    found = _projects.get((file, len(sys.modules)))
    if found is None:
        found = _projects[file, len(sys.modules)] = _compute(file)
    return found


@lru_cache
def sign_of(key: bytes) -> str:
    """What tells keys apart, without telling the key."""
    return hashlib.blake2b(b"agentflow life", key=key, digest_size=4).hexdigest()


def marked(code: str, key: bytes) -> str:
    """A fingerprint as it is recorded of a life under this key."""
    return f"{code}.{sign_of(key)}"


def unmarked(recorded: str) -> tuple[str, str]:
    """The fingerprint of what is recorded of a life, and the sign of the life's key; "" = it was not recorded."""
    code, _, sign = recorded.partition(".")
    return code, sign


def _compute(file: str) -> str:
    digest = hashlib.sha256(f"{VERSION}|{sys.version_info[:2]}".encode())
    root = Path(file).resolve().parent if file and not file.startswith("<") else None
    paths = {file} if root is not None else set[str]()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if (
            root is not None
            and path
            and path.startswith(str(root))
            and not any(part in path for part in _INSTALLED)
        ):
            paths.add(path)
    for path in sorted(paths):
        digest.update(Path(path).name.encode() + b"\0" + _file_digest(path))
    return digest.hexdigest()[:32]


def _file_digest(path: str) -> bytes:
    try:
        stat = Path(path).stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        known = _files.get(path)
        if known is None or known[0] != stamp:
            known = _files[path] = (stamp, hashlib.sha256(Path(path).read_bytes()).digest())
    except OSError:
        return b"?"
    return known[1]
