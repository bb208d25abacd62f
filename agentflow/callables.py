"""What kind of function was given to `task` or `flow`: its name, its colour, its receiver, its identity across runs.

Its parameters are the business of `agentflow.signatures`; its options of `agentflow.task_options`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentflow.payloads.digests import canonical


def default_name(fn: Callable[..., Any]) -> str:
    """How a function's steps are called: its qualified name, without the functions it is defined in."""
    inner = unpartialled(fn)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return name.rpartition("<locals>.")[2].replace("<lambda>", "unknown-lambda")


def unpartialled(fn: Any) -> Any:
    """The function inside partials."""
    return unpartialled(fn.func) if hasattr(fn, "func") and hasattr(fn, "keywords") else fn


def is_coroutine_function(fn: Any) -> bool:
    """Whether calling it gives a coroutine; sees through partials and callable objects."""
    return _is_kind(fn, inspect.iscoroutinefunction)


def is_generator(fn: Any) -> bool:
    """Whether calling it gives a generator; sees through partials and callable objects."""
    return _is_kind(fn, inspect.isgeneratorfunction) or is_async_generator(fn)


def is_async_generator(fn: Any) -> bool:
    """Whether calling it gives an async generator."""
    return _is_kind(fn, inspect.isasyncgenfunction)


def _is_kind(fn: Any, of_kind: Callable[[Any], bool]) -> bool:
    inner = unpartialled(fn)
    return of_kind(inner) or of_kind(getattr(inner.__class__, "__call__", None))  # noqa: B004 - the method is wanted


def split_receiver(fn: Callable[..., Any]) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    """The object that a bound method or callable object brings along, if it is one, and the function that takes it."""
    if inspect.ismethod(fn):
        return (fn.__self__,), fn.__func__
    called = getattr(fn.__class__, "__call__", None)  # noqa: B004 - the method itself is wanted
    if isinstance(fn, type) or not inspect.isfunction(called):  # functions and partials are called by C
        return (), fn
    return (fn,), called


def receiver_count(fn: Callable[..., Any], wrapper: type[Any] | None) -> int:
    """How many leading parameters are the receiver of a method."""
    if wrapper is staticmethod or not inspect.isfunction(fn):
        return 0
    if wrapper is classmethod:
        return 1
    first = next(iter(inspect.signature(fn).parameters), "")
    owner = fn.__qualname__.rpartition(".")[0]
    return 1 if first in ("self", "cls") and owner and not owner.endswith("<locals>") else 0


def partial_arguments(fn: Callable[..., Any]) -> bytes:
    """What a partial brings along, in canonical form; empty for anything else."""
    if not isinstance(fn, functools.partial):
        return b""
    return canonical([list(fn.args), fn.keywords])[0] + partial_arguments(fn.func)


def identity_of(fn: Callable[..., Any]) -> str:
    """A function's identity across runs: its module, resolved to a file's stem for scripts, and qualified name."""
    fn = unpartialled(fn)
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
    fn = unpartialled(fn)
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
