"""Signatures: binding arguments, validating them with pydantic, describing them as JSON schema.

Binding is precomputed where the call's shape allows it; validation and schemas are built at first use.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import (
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
)

from agentflow.callables import is_generator
from agentflow.errors import ParameterError

_KINDS = inspect.Parameter
_CONFIG = ConfigDict(arbitrary_types_allowed=True)


class Binder:
    """What is known of a function's parameters. `skip` leading ones (``self``) are no part of schemas."""

    def __init__(self, fn: Callable[..., Any], *, name: str, skip: int = 0) -> None:
        self.fn, self.name, self.skip = fn, name, skip
        try:
            self.signature = inspect.signature(fn)
        except (TypeError, ValueError):  # some builtins
            self.signature = inspect.Signature(
                [_KINDS("args", _KINDS.VAR_POSITIONAL), _KINDS("kwargs", _KINDS.VAR_KEYWORD)]
            )
        self.parameters = list(self.signature.parameters.values())
        simple = all(parameter.kind is _KINDS.POSITIONAL_OR_KEYWORD for parameter in self.parameters)
        #: The number of arguments for which the positional ones are all there is to bind; -1 = never.
        self.arity = len(self.parameters) if simple else -1
        self._names = tuple(self.signature.parameters)

    def values(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """The bound arguments in the signature's order, defaults included."""
        if not kwargs and len(args) == self.arity:
            return args
        return list(self.arguments(args, kwargs).values())

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The bound arguments by name, defaults included. Raises `ParameterError` where they do not fit."""
        if not kwargs and len(args) == self.arity:
            return dict(zip(self._names, args, strict=True))
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            message = f"{self.name}: {error}"
            raise ParameterError(message) from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def flat(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name as people give and see them: without the receiver, extra ones among the others."""
        out: dict[str, Any] = {}
        for item in self.parameters[self.skip :]:
            if item.name in arguments:
                value = arguments[item.name]
                out |= value if item.kind is _KINDS.VAR_KEYWORD else {item.name: value}
        return out

    def rebind(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments by name to how the function is called with them."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.name not in arguments:
                continue
            value = arguments[parameter.name]
            if parameter.kind is _KINDS.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is _KINDS.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is _KINDS.KEYWORD_ONLY:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return tuple(args), kwargs

    def spread(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments given by name (from the command line, a tool call) in the form of `arguments`: extras gathered.

        Raises `ParameterError` for names that the function does not have, and for those that are missing.
        """
        out = self.named(named)
        for item in self.parameters[self.skip :]:
            if item.name in out or item.kind in (_KINDS.VAR_KEYWORD, _KINDS.VAR_POSITIONAL):
                continue
            if item.default is _KINDS.empty:
                message = f"{self.name} needs the parameter {item.name!r}"
                raise ParameterError(message)
            out[item.name] = item.default
        return {item.name: out[item.name] for item in self.parameters if item.name in out}

    def named(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Some arguments given by name: extras gathered, nothing added. Raises `ParameterError` for unknown names."""
        gather = next((item.name for item in self.parameters if item.kind is _KINDS.VAR_KEYWORD), None)
        known = {item.name for item in self.parameters[self.skip :] if item.kind is not _KINDS.VAR_KEYWORD}
        out: dict[str, Any] = {}
        for name, value in named.items():
            if name in known:
                out[name] = value
            elif gather is not None:
                out.setdefault(gather, {})[name] = value
            else:
                wanted = ", ".join(sorted(known)) or "none"
                message = f"{self.name} has no parameter {name!r}; it has: {wanted}"
                raise ParameterError(message)
        return out

    # -- types
    @cached_property
    def hints(self) -> dict[str, Any]:
        """The resolved annotations; a name that cannot be resolved counts as Any."""
        target: Any = self.fn
        while isinstance(target, functools.partial):
            target = target.func
        if not inspect.isroutine(target) and not inspect.isclass(target):
            target = type(target).__call__
        try:
            return typing.get_type_hints(target, include_extras=True)
        except (NameError, TypeError, AttributeError):
            return {}

    @cached_property
    def adapters(self) -> dict[str, TypeAdapter[Any]]:
        """A validator per parameter."""
        return {item.name: self._adapter(item) for item in self.parameters[self.skip :]}

    def _adapter(self, item: inspect.Parameter) -> TypeAdapter[Any]:
        hint = self.hints.get(item.name, Any)
        if item.kind is _KINDS.VAR_POSITIONAL:
            hint = tuple[hint, ...]
        elif item.kind is _KINDS.VAR_KEYWORD:
            hint = dict[str, hint]
        return make_adapter(hint)

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Validated and coerced arguments by name. Raises `ParameterError` with one line per fault."""
        out = dict(arguments)
        faults: list[str] = []
        for name, adapter in self.adapters.items():
            if name not in out:
                continue
            try:
                out[name] = adapter.validate_python(out[name])
            except ValidationError as error:
                faults += [describe_fault(name, fault) for fault in error.errors(include_url=False)]
        if faults:
            message = f"{self.name}: " + "; ".join(faults)
            raise ParameterError(message)
        return out

    def validate_named(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """`spread` and `validate`: a person's or a model's arguments, given by name."""
        return self.validate(self.spread(named))

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema (2020-12) of the parameters as one object."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        definitions: dict[str, Any] = {}
        extra: Any = False
        for item in self.parameters[self.skip :]:
            schema = adapter_schema(self.adapters[item.name])
            definitions.update(schema.pop("$defs", {}))
            if item.kind is _KINDS.VAR_KEYWORD:
                extra = schema.get("additionalProperties", True)
                continue
            schema.setdefault("title", item.name.replace("_", " ").strip().capitalize())
            if item.default is _KINDS.empty and item.kind is not _KINDS.VAR_POSITIONAL:
                required.append(item.name)
            elif item.default is not _KINDS.empty:
                default = _json_default(self.adapters[item.name], item.default)
                if default is not ...:
                    schema["default"] = default
            properties[item.name] = schema
        out: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": extra}
        if required:
            out["required"] = required
        if definitions:
            out["$defs"] = definitions
        return out

    def read_result(self, answer: Any) -> Any:
        """A person's JSON as a result of the function. Raises ValueError where it does not fit the annotation."""
        return answer if self.returns is None else self.returns.validate_python(answer)

    @cached_property
    def returns(self) -> TypeAdapter[Any] | None:
        """The validator of the annotated result; None where there is no usable annotation.

        What a generator yields is a list in the end.
        """
        hint = self.hints.get("return", inspect.Parameter.empty)
        if is_generator(self.fn):
            items = typing.get_args(hint)
            return TypeAdapter(list[Any]) if not items else make_adapter(list[items[0]])
        if hint is inspect.Parameter.empty or hint is Any:
            return None
        return make_adapter(hint)


def make_adapter(hint: Any) -> TypeAdapter[Any]:
    """A validator for an annotation; one that pydantic cannot handle accepts anything."""
    for config in (_CONFIG, None):  # types with a configuration of their own refuse another one
        try:
            return TypeAdapter(hint, config=config)
        except PydanticUserError as error:
            if isinstance(error, (PydanticSchemaGenerationError, PydanticUndefinedAnnotation)):
                break
    return TypeAdapter(Any)


def adapter_schema(
    adapter: TypeAdapter[Any], mode: typing.Literal["validation", "serialization"] = "validation"
) -> dict[str, Any]:
    """The JSON schema of a validator; ``{}`` (anything) where the type has none."""
    try:
        return adapter.json_schema(mode=mode)
    except PydanticInvalidForJsonSchema:
        return {}


def describe_fault(name: str, fault: Any) -> str:
    """One line for one fault: where, what, and what came instead."""
    where = ".".join([name, *(str(part) for part in fault["loc"])])
    return f"{where}: {fault['msg']} (got {fault['input']!r:.80})"


def _json_default(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.dump_python(value, mode="json", warnings=False)
    except Exception:  # noqa: BLE001 - a default that JSON cannot show is left out of the schema
        return ...
