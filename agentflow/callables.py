"""What kind of function was given to `task` or `flow`: its name, its colour, its receiver, its identity across runs.

Its parameters are the business of `agentflow.signatures`; its options of `agentflow.task_options`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
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
    """A function's identity across runs: where it stands and its qualified name, whoever imports or runs its file.

    A module in a package stands under its dotted name; any other one under its path, as two scripts may have one name.
    """
    inner = unpartialled(fn)
    named: Any = inner if hasattr(inner, "__qualname__") else inner.__class__
    module = getattr(named, "__module__", "") or ""
    code = getattr(inspect.unwrap(inner), "__code__", None)
    if code is not None and "." not in module:
        module = str(Path(code.co_filename).resolve().with_suffix(""))
    return f"{module}:{named.__qualname__}"


def source_digest(fn: Callable[..., Any]) -> bytes:
    """A digest of the function's source (of an object's class); of its bytecode where there is no source."""
    inner: Any = inspect.unwrap(unpartialled(fn))
    is_object = not (inspect.isroutine(inner) or inspect.isclass(inner))
    shown: Any = inner.__class__ if is_object else inner
    digest = hashlib.blake2b(digest_size=16)
    try:
        digest.update(inspect.getsource(shown).encode())
    except (OSError, TypeError):
        called: Any = getattr(shown, "__call__", None) if is_object else shown  # noqa: B004 - the method itself
        for part in _bytecode(getattr(called, "__code__", None)):
            digest.update(part)
    return digest.digest()


def _bytecode(code: CodeType | None) -> Iterator[bytes]:
    """What a function does, as far as it can be told without its source: its instructions, and what they refer to."""
    if code is not None:
        yield code.co_code
        yield repr(code.co_names).encode()
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _bytecode(constant)
            else:
                yield repr(constant).encode()


def entrypoint_of(fn: Callable[..., Any]) -> str:
    """``file:qualname`` of a module-level function; "" for one that another process could not find."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    name = getattr(fn, "__qualname__", "")
    if code is None or "<" in name or "." in name or code.co_filename.startswith("<"):
        return ""
    return f"{Path(code.co_filename).resolve()}:{name}"
