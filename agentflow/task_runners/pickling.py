"""Cloudpickle for what flows are made of: tasks and their functions by name where there is one, context variables.

A decorated function's name leads to its `Task`, so cloudpickle alone would send the function and everything that it
refers to by value.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
from collections.abc import Callable
from contextvars import Context, ContextVar
from types import FunctionType
from typing import Any, cast

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]

from agentflow.engine.policy import StepPolicy
from agentflow.flows import Flow
from agentflow.tasks import Task

_Reduced = tuple[Any, ...]
#: Attributes that another process makes anew, or has no use for.
_LEFT_BEHIND = ("binder", "policy", "_step_policy")


def dumps(value: Any) -> bytes:
    """The bytes of a value. Raises whatever the value's own pickling raises."""
    with io.BytesIO() as file:
        _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        return file.getvalue()


def loads(data: bytes) -> Any:
    """The value of `dumps`; only for bytes of a process that belongs to this run."""
    return pickle.loads(data)  # noqa: S301 - see above


_CloudPickler: Any = cloudpickle.Pickler
_reduce: Callable[[Any, Any], Any] = _CloudPickler.reducer_override


class _Pickler(_CloudPickler):
    def reducer_override(self, obj: Any) -> Any:
        reduced = self._own(obj)
        return _reduce(self, obj) if reduced is None else reduced

    def _own(self, obj: Any) -> _Reduced | None:
        if isinstance(obj, FunctionType):
            return _function(obj)
        if isinstance(obj, (Task, Flow)):
            return _declared(cast("Task[..., Any] | Flow[..., Any]", obj))
        if isinstance(obj, ContextVar):
            return _variable_at, _address(cast("ContextVar[Any]", obj))
        return None


def _named(module: str, name: str) -> Any:
    """What another process finds under a name; None where it would not look."""
    if module == "__main__" or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _function(function: FunctionType) -> _Reduced | None:
    """A decorated function: what its task or flow was made of."""
    module, name = getattr(function, "__module__", None) or "", function.__qualname__
    found = _named(module, name)
    return (_function_at, (module, name)) if getattr(found, "fn", None) is function else None


def _function_at(module: str, name: str) -> Any:
    return _object_at(module, name).fn


def _object_at(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _declared(item: Task[..., Any] | Flow[..., Any]) -> _Reduced:
    """A task or flow: by its name, or as much of it as a plain call needs."""
    module, name = getattr(item, "__module__", None) or "", getattr(item, "__qualname__", "")
    if name and _named(module, name) is item:
        return _object_at, (module, name)
    state = {key: value for key, value in vars(item).items() if key not in _LEFT_BEHIND}
    policy = item.policy
    state["policy"] = StepPolicy(name=policy.name, kind=policy.kind, side_effect=policy.side_effect)
    return _blank, (type(item),), state, None, None, _fill


def _blank(kind: type[Any]) -> Any:
    return object.__new__(kind)


def _fill(item: object, state: dict[str, Any]) -> None:
    vars(item).update(state)


_addresses: dict[ContextVar[Any], _Reduced] = {}
_variables: dict[str, ContextVar[Any]] = {}


def _address(variable: ContextVar[Any]) -> _Reduced:
    """Where another process finds a context variable: in a module, or among those that it was sent."""
    known = _addresses.get(variable)
    if known is None:
        known = _addresses[variable] = _find(variable)
    return known


def _find(variable: ContextVar[Any]) -> _Reduced:
    main = sys.modules.get("__main__")  # known by a second name where multiprocessing is loaded
    for module_name, module in list(sys.modules.items()):
        if module is main:
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return module_name, name, ()
    try:
        default = (Context().run(variable.get),)
    except LookupError:
        default = ()
    return "", f"{variable.name}:{id(variable)}", default


def _variable_at(module: str, name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    if module:
        return _object_at(module, name)
    return _variables.setdefault(name, _made(name.rpartition(":")[0], default))


def _made(name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    make = cast("Callable[..., ContextVar[Any]]", ContextVar)
    return make(name, default=default[0]) if default else make(name)
