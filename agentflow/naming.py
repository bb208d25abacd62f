"""Names of runs and of single task runs: ``flow_run_name`` and ``task_run_name``, checked where they are declared.

A name is for people. What finds a step again is its task's name and its arguments; this has no part in it.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from agentflow.errors import DefinitionError, DefinitionTypeError

#: A template over the parameters (``"order {order_id}"``), or a function that returns the name.
RunName = str | Callable[..., str] | None
#: (arguments by name) -> the name.
NameMaker = Callable[[Mapping[str, Any]], str]
_LIMIT = 200
_OPENERS = ".["


def name_maker(
    option: str, template: RunName, owner: str, parameters: Sequence[inspect.Parameter]
) -> NameMaker | None:
    """What names the runs of `owner`, whose function has these parameters (``self`` among them).

    Raises `DefinitionError` for a template that is none, or that asks for what the function does not have.
    """
    if template is None:
        return None
    if isinstance(template, str):
        _check(option, template, owner, parameters)
        return _Template(option, template, owner)
    if not callable(template):
        message = f"{owner}: {option} wants a template or a function, not {template!r}"
        raise DefinitionTypeError(message)
    return _Called(option, template, owner)


class _Fields(string.Formatter):
    """Fills a template in; never reaches into what a class keeps for itself."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if any(part.startswith("_") for part in field_name.replace("]", "").replace("[", ".").split(".")[1:]):
            message = f"{{{field_name}}} reaches for something private"
            raise ValueError(message)
        return super().get_field(field_name, args, kwargs)


_FIELDS = _Fields()


def _check(option: str, template: str, owner: str, parameters: Sequence[inspect.Parameter]) -> None:
    known = {item.name for item in parameters}
    gathers = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters)
    try:
        wanted = _fields(template)
    except ValueError as error:
        message = f"{owner}: {option}={template!r} is no template: {error}"
        raise DefinitionError(message) from None
    for field in wanted:
        first = min((field.find(sign) for sign in _OPENERS if sign in field), default=len(field))
        root, rest = field[:first], field[first:]
        if not root or root.isdigit():
            problem = f"{{{field}}} names no parameter; write its name between the braces"
        elif root not in known and not gathers:
            problem = f"there is no parameter {root!r}; there are: {', '.join(sorted(known)) or 'none'}"
        elif "._" in rest or "[_" in rest:
            problem = f"{{{field}}} reaches for something private"
        else:
            continue
        message = f"{owner}: {option}={template!r}: {problem}"
        raise DefinitionError(message)


def _fields(template: str) -> list[str]:
    """The fields of a template, those inside format specifications among them."""
    found: list[str] = []
    for _, field, spec, _ in _FIELDS.parse(template):
        if field is not None:
            found.append(field)
        if spec:
            found += _fields(spec)
    return found


class _Template:
    """A name as a template."""

    def __init__(self, option: str, template: str, owner: str) -> None:
        self._option, self._template, self._owner = option, template, owner

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """The name for a call with these arguments. Raises `DefinitionError` where it cannot be filled in."""
        try:
            text = _FIELDS.vformat(self._template, (), arguments)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            message = f"{self._owner}: {self._option}={self._template!r} cannot be filled in ({fault})"
            raise DefinitionError(message) from error
        return tidy(text)


class Named(NamedTuple):
    """What is being given a name: a call of a task or a run of a flow, that does not exist yet."""

    is_flow: bool
    owner: str
    parameters: Mapping[str, Any]


NAMED: ContextVar[Named | None] = ContextVar("agentflow_named", default=None)


class _Called:
    """A name as a function of the user's: without parameters, or with one named ``parameters``."""

    def __init__(self, option: str, function: Callable[..., Any], owner: str) -> None:
        self._option, self._function, self._owner = option, function, owner
        self._asks = "parameters" in inspect.signature(function).parameters

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """The name for a call with these arguments. Raises `DefinitionError` where the function gives no text."""
        token = NAMED.set(Named(self._option == "flow_run_name", self._owner, arguments))
        try:
            text: Any = self._function(parameters=dict(arguments)) if self._asks else self._function()
        finally:
            NAMED.reset(token)
        if not isinstance(text, str):
            message = f"{self._owner}: {self._option} returned {text!r}; it has to return text"
            raise DefinitionError(message)
        return tidy(text)


def tidy(text: str) -> str:
    """A name in one line of printable text."""
    clean = text.encode("utf-8", "replace").decode()
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in clean).split())
    return line[:_LIMIT]
