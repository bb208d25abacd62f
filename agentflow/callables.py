"""What kind of function was given to `task` or `flow`: its name, its colour, its receiver, its identity across runs.

Its parameters are the business of `agentflow.signatures`; its options of `agentflow.task_options`.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any


def default_name(fn: Callable[..., Any]) -> str:
    """How a function's steps are called: its qualified name, without the functions it is defined in."""
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    return name.rpartition("<locals>.")[2].replace("<lambda>", "unknown-lambda")


def unpartialled(fn: Any) -> Any:
    """The function inside partials."""
    return unpartialled(fn.func) if hasattr(fn, "func") and hasattr(fn, "keywords") else fn


def is_coroutine_function(fn: Any) -> bool:
    """Whether calling it gives a coroutine; sees through partials and callable objects."""
    inner = unpartialled(fn)
    called: Any = getattr(inner.__class__, "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(called)


def is_generator(fn: Any) -> bool:
    """Whether calling it gives a generator."""
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)


def receiver_count(fn: Callable[..., Any], wrapper: type[Any] | None) -> int:
    """How many leading parameters are the receiver of a method."""
    if wrapper is staticmethod or not inspect.isfunction(fn):
        return 0
    if wrapper is classmethod:
        return 1
    first = next(iter(inspect.signature(fn).parameters), "")
    owner = fn.__qualname__.rpartition(".")[0]
    return 1 if first in ("self", "cls") and owner and not owner.endswith("<locals>") else 0


def identity_of(fn: Callable[..., Any]) -> str:
    """A function's identity across runs: its module, resolved to a file's stem for scripts, and qualified name."""
    module = getattr(fn, "__module__", "") or ""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    if code is not None:
        module = (
            module.rpartition(".")[0] + Path(code.co_filename).stem
            if module != "__main__"
            else Path(code.co_filename).stem
        )
    return f"{module}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def source_digest(fn: Callable[..., Any]) -> bytes:
    """A digest of the function's source; of its bytecode where there is no source."""
    with contextlib.suppress(OSError, TypeError):
        return hashlib.blake2b(inspect.getsource(fn).encode(), digest_size=16).digest()
    code = getattr(fn, "__code__", None)
    return hashlib.blake2b(code.co_code if code is not None else b"", digest_size=16).digest()


def entrypoint_of(fn: Callable[..., Any]) -> str:
    """``file:qualname`` of a module-level function; "" for one that another process could not find."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    name = getattr(fn, "__qualname__", "")
    if code is None or "<" in name or "." in name or code.co_filename.startswith("<"):
        return ""
    return f"{Path(code.co_filename).resolve()}:{name}"
