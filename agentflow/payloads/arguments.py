"""The arguments of a run as bytes. One that cannot be stored does not keep the run from being made, only from resuming.

Such an argument (a connection, a list that contains itself) is recorded as what people are shown of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agentflow.errors import CodecError, CorruptRecord
from agentflow.payloads.codec import UNCHANGED, Codec, register_codec
from agentflow.payloads.digests import canonical

_TAGGED = b'"$"'


class Given(NamedTuple):
    """Arguments by name as somebody gave them, whose flow has not read them yet."""

    values: dict[str, Any]


class Unstored(NamedTuple):
    """Stands for an argument that could not be stored."""

    text: str


register_codec(Given, tag="given", encode=lambda value: value.values, decode=Given)
register_codec(Unstored, tag="unstored", encode=lambda value: value.text, decode=Unstored)


def encode_arguments(codec: Codec, arguments: Mapping[str, Any]) -> bytes:
    """What a run's row holds of its arguments."""
    try:
        draft = codec.draft(dict(arguments))
        if _TAGGED not in draft.text:  # what JSON itself knows comes back as it was
            return codec.keep(draft)
    except CodecError:
        pass
    return codec.encode({name: _storable(codec, value) for name, value in arguments.items()})


def encode_given(codec: Codec, given: Mapping[str, Any]) -> bytes:
    """The same of arguments that its flow has not read: every life reads them again."""
    return codec.encode(Given({name: _storable(codec, value) for name, value in given.items()}))


def decode_arguments(codec: Codec, data: bytes) -> dict[str, Any]:
    """A run's arguments by name, whether its flow has read them or not. Raises `CorruptRecord`."""
    found: Any = codec.decode(data)
    return found.values if isinstance(found, Given) else found


def is_incomplete(codec: Codec, parameters: bytes) -> bool:
    """Whether some of a run's encoded arguments could not be stored."""
    return b'"$":"unstored"' in codec.text(parameters)


def unstored_in(arguments: Mapping[str, Any]) -> list[str]:
    """Which decoded arguments are not there, with what is known of them."""
    return [f"{name} ({value.text})" for name, value in arguments.items() if isinstance(value, Unstored)]


def _storable(codec: Codec, value: Any) -> Any:
    """The value, or what stands for one that cannot be stored, or would come back as another one."""
    if value.__class__ in UNCHANGED:
        return value
    name = f"<{type(value).__qualname__}>"
    try:
        back = codec.again(codec.draft(value))
    except CodecError as error:
        return Unstored("<Cyclic>" if "contains itself" in str(error) else name)
    except CorruptRecord:
        return Unstored(name)
    return value if canonical([back]) == canonical([value]) else Unstored(name)
