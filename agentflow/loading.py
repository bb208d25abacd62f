"""Finds flows in files: ``path/to/file.py`` or ``path/to/file.py:name``, also ``module`` and ``module:name``.

A file is imported under the name of its stem, with its folder on the path, as ``python file.py`` would see it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from agentflow.background import PREFIX, background_flow
from agentflow.callables import default_name
from agentflow.errors import FlowNotFoundError, UsageError
from agentflow.flows import Flow
from agentflow.tasks import Task


def load_module(target: str) -> ModuleType:
    """Import a file or a module by its dotted name.

    Raises `FlowNotFoundError` where there is none, `UsageError` where importing it fails.
    """
    path = Path(target)
    is_file = target.endswith(".py") or path.is_file() or "/" in target
    if is_file and not path.is_file():
        message = f"no such file: {target}"
        raise FlowNotFoundError(message)
    try:
        return _import_file(path.resolve()) if is_file else _import_name(target)
    except ModuleNotFoundError as error:
        if not is_file and error.name == target.partition(".")[0]:
            message = f"no such file or module: {target}"
            raise FlowNotFoundError(message) from None
        message = f"cannot import {target}: {error}"
        raise UsageError(message) from error
    except SyntaxError as error:
        message = f"cannot import {target}: {error.msg} (line {error.lineno})"
        raise UsageError(message) from error
    except UsageError:
        raise
    except Exception as error:
        message = f"cannot import {target}: {type(error).__name__}: {error}"
        raise UsageError(message) from error


def _import_name(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) and Path(str(known.__file__)).resolve() == path:
        return known
    if known is not None:
        message = f"{path} has the name of the module {path.stem!r}, which is loaded already; rename the file"
        raise UsageError(message)
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        message = f"{path} is not a Python file"
        raise FlowNotFoundError(message)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(path.stem, None)
        raise
    return module


def flows_in(module: ModuleType) -> dict[str, Flow[..., Any]]:
    """The flows that a module defines or imports, by their names."""
    found: dict[str, Flow[..., Any]] = {}
    for value in vars(module).values():
        if isinstance(value, Flow):
            flow = cast("Flow[..., Any]", value)
            found.setdefault(flow.name, flow)
    return found


def tasks_in(module: ModuleType) -> list[Task[..., Any]]:
    """The tasks that a module defines or imports, those that are methods of its own classes among them."""
    values = list(vars(module).values())
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            values += vars(value).values()
    tasks = [cast("Task[..., Any]", value) for value in values if isinstance(value, Task)]
    return list({id(task): task for task in tasks}.values())


def find_tasks(targets: list[str] | tuple[str, ...]) -> list[Task[..., Any]]:
    """The tasks of several ``FILE`` or ``FILE:NAME``. Raises `FlowNotFoundError` where there is none of that name."""
    found: dict[int, Task[..., Any]] = {}
    for target in targets:
        file, name = split_target(target)
        module = load_module(file)
        tasks = tasks_in(module)
        if name:
            named = getattr(module, name, None)
            chosen = [cast("Task[..., Any]", named)] if isinstance(named, Task) else []
            chosen = chosen or [task for task in tasks if name in {task.name, default_name(task.fn)}]
            if not chosen:
                listed = ", ".join(sorted(task.name for task in tasks)) or "none"
                message = f"{file} has no task {name!r}; it has: {listed}"
                raise FlowNotFoundError(message)
            tasks = chosen
        found |= {id(task): task for task in tasks}
    return list(found.values())


def load_tasks(targets: list[str] | tuple[str, ...]) -> dict[str, Task[..., Any]]:
    """Like `find_tasks`, by name. Raises `UsageError` where two have the same name."""
    found: dict[str, Task[..., Any]] = {}
    for task in find_tasks(targets):
        if found.setdefault(task.name, task) is not task:
            message = f"two tasks are named {task.name!r}; give one of them @task(name=...)"
            raise UsageError(message)
    return found


def load_flows(targets: list[str] | tuple[str, ...]) -> dict[str, Flow[..., Any]]:
    """The flows of several ``FILE`` or ``FILE:NAME``, by name. Raises `UsageError` where two have the same name."""
    found: dict[str, Flow[..., Any]] = {}
    for target in targets:
        file, name = split_target(target)
        flows = {name: load_flow(target)} if name else flows_in(load_module(file))
        if not flows:
            message = f"{file} defines no flow; decorate a function with @flow"
            raise FlowNotFoundError(message)
        for flow in flows.values():
            if found.setdefault(flow.name, flow) is not flow:
                message = f"two flows are named {flow.name!r}; give one of them @flow(name=...)"
                raise UsageError(message)
    return found


def load_flow(target: str) -> Flow[..., Any]:
    """The flow of ``FILE:NAME``, or the only one of ``FILE``. Raises `FlowNotFoundError` with what there is instead."""
    file, name = split_target(target)
    module = load_module(file)
    flows = flows_in(module)
    if name:
        named = getattr(module, name, None)
        flow = cast("Flow[..., Any]", named) if isinstance(named, Flow) else flows.get(name)
        if flow is None:
            listed = ", ".join(sorted(flows)) or "none"
            message = f"{file} has no flow {name!r}; it has: {listed}"
            raise FlowNotFoundError(message)
        return flow
    if len(flows) != 1:
        listed = ", ".join(sorted(flows))
        message = (
            f"{file} has several flows; say which: {', '.join(f'{file}:{name}' for name in sorted(flows))}"
            if listed
            else f"{file} defines no flow; decorate a function with @flow"
        )
        raise FlowNotFoundError(message)
    return next(iter(flows.values()))


def load_flow_from_entrypoint(entrypoint: str) -> Flow[..., Any]:
    """`load_flow`. Prefect's name."""
    return load_flow(entrypoint)


def load_flow_of(entrypoint: str, name: str) -> Flow[..., Any]:
    """The flow of that name in the file of an entry point; also one that was made with other options than its function.

    For a run in the background this is the flow around its task. Raises like `load_flow`.
    """
    module = load_module(split_target(entrypoint)[0])
    found = flows_in(module).get(name)
    if found is None and name.startswith(PREFIX):
        named = [task for task in tasks_in(module) if PREFIX + task.name == name]
        return background_flow(named[0]) if named else load_flow(entrypoint)
    return load_flow(entrypoint) if found is None else found


def split_target(target: str) -> tuple[str, str]:
    """``FILE:NAME`` as (FILE, NAME); NAME is "" where there is none."""
    file, separator, name = target.rpartition(":")
    if not separator or "/" in name or "\\" in name:
        return target, ""
    return file, name
