"""``python -m agentflow.testing.models``: the scripted model server as a process of its own."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn, cast

from agentflow.errors import UsageError
from agentflow.testing.models_script import Fault, Reply, Script
from agentflow.testing.models_server import HOST, ScriptedModelServer

_HIGHEST_PORT = 65535


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM. Returns the exit code: 0, or 2 after one line on stderr for wrong use.

    Prints one line of JSON as soon as it accepts connections: ``{"url", "openai_url", "anthropic_url", "pid"}``.
    """
    parser = _Parser(
        prog="python -m agentflow.testing.models", description="A scripted model over HTTP on loopback."
    )
    parser.add_argument(
        "--script",
        required=True,
        metavar="MODULE_OR_FILE.py:NAME",
        help="a function of the request, or a list of replies",
    )
    parser.add_argument("--port", type=int, default=0, help="0 (the default) = any free port")
    try:
        options = parser.parse_args(arguments)
        _serve(load_script(options.script), options.port)
    except UsageError as error:
        sys.stderr.write(f"{parser.prog}: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _serve(script: Script, port: int) -> None:
    if not 0 <= port <= _HIGHEST_PORT:
        raise UsageError(f"a port lies between 0 and {_HIGHEST_PORT}, not at {port}")
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    with ExitStack() as stack:
        try:
            server = stack.enter_context(ScriptedModelServer(script, port=port))
        except OSError as error:
            raise UsageError(f"cannot listen on {HOST}:{port}: {error.strerror}") from error
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        urls = {"url": server.url, "openai_url": server.openai_url, "anthropic_url": server.anthropic_url}
        sys.stdout.write(json.dumps({**urls, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        stopped.wait()


def load_script(target: str) -> Script:
    """The script that ``module:name`` or ``path/file.py:name`` means; raises `UsageError` if there is none."""
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise UsageError(f"--script is MODULE:NAME or FILE.py:NAME, not {target!r}")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot load {place}: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise UsageError(f"{place} has no {name!r}")
    script = cast("object", getattr(module, name))
    if callable(script) or _is_answers(script):
        return cast("Script", script)
    raise UsageError(f"{target} is neither a function nor a list of Reply and Fault")


def _is_answers(value: object) -> bool:
    return isinstance(value, Sequence) and all(
        isinstance(answer, Reply | Fault) for answer in cast("Sequence[object]", value)
    )


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    """Runs the file as Python runs a script: its own folder first on the path."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
